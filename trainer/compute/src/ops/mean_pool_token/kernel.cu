// The mean of an image's pixels in front of the pixels, each with its position embedding added. A thread takes one
// channel of one image and walks over the pixels, so that the mean is a sum in one order; neighbouring threads have
// neighbouring channels.
#include "common.cuh"

// Shapes: positions [1 + places, width]; x [images, places, width]; tokens [images, 1 + places, width]; means [images, width].
template <typename T>
static __device__ void mean_token_forward(const float* positions, const T* x, T* tokens, T* means,
                                          unsigned places, unsigned width) {
    unsigned channel = (unsigned)thread_index();
    if (channel >= width) return;
    size_t picture = blockIdx.y;
    x += picture * places * width + channel;
    tokens += picture * (places + 1) * width + channel;
    positions += channel;
    float sum = 0.0f;
    for (unsigned place = 0; place < places; place++) {
        float value = load(x + (size_t)place * width);
        sum += value;
        size_t to = (size_t)(place + 1) * width;
        store(tokens + to, value + positions[to]);
    }
    float mean = sum / (float)places + positions[0];
    store(tokens, mean);
    store(means + picture * width + channel, mean);
}

EXPORT(mean_token_forward,
       (const float* positions, const T* x, T* tokens, T* means, unsigned places, unsigned width),
       (positions, x, tokens, means, places, width))

// Shapes: as of mean_token_forward. The gradient of the means is added to that of the first tokens, which the caller sums
// into the gradient of the positions afterwards.
template <typename T>
static __device__ void mean_token_backward(T* dtokens, const T* dmeans, T* dx, unsigned places,
                                           unsigned width) {
    unsigned channel = (unsigned)thread_index();
    if (channel >= width) return;
    size_t picture = blockIdx.y;
    dx += picture * places * width + channel;
    dtokens += picture * (places + 1) * width + channel;
    float first = load(dtokens) + load(dmeans + picture * width + channel);
    store(dtokens, first);
    // From the fp32 sum and not from what was stored: it is rounded once, in the store of `dx`.
    float share = first / (float)places;
    for (unsigned place = 0; place < places; place++) {
        float value = load(dtokens + (size_t)(place + 1) * width);
        store(dx + (size_t)place * width, value + share);
    }
}

EXPORT(mean_token_backward,
       (T* dtokens, const T* dmeans, T* dx, unsigned places, unsigned width),
       (dtokens, dmeans, dx, places, width))
