// The contrastive loss over rows of logits in fp32: statistics and gradients. A block of 256 threads takes a row, which
// is as long as the global batch; a rank has the rows of its own samples.
#include "common.cuh"

// A logit and its index. Of equal logits the one with the smallest index is the nearest, whatever the order in
// which threads are compared: a model that maps everything to one point must not score by chance.
struct Nearest {
    float value;
    unsigned at;
};

static __device__ __forceinline__ Nearest nearer(Nearest a, Nearest b) {
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

static __device__ Nearest warp_nearest(Nearest own) {
    for (int step = 16; step > 0; step /= 2) {
        Nearest other;
        other.value = __shfl_xor_sync(0xffffffffu, own.value, step);
        other.at = __shfl_xor_sync(0xffffffffu, own.at, step);
        own = nearer(own, other);
    }
    return own;
}

// The largest logit of a block and its first index, in every thread.
static __device__ Nearest block_nearest(Nearest own) {
    __shared__ float values[32];
    __shared__ unsigned places[32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    own = warp_nearest(own);
    __syncthreads();
    if (lane == 0) values[warp] = own.value, places[warp] = own.at;
    __syncthreads();
    // Lanes without a warp lose every comparison, also against -infinity: their index is the largest.
    Nearest of_warp = {-INFINITY, 0xffffffffu};
    if (lane < warps) of_warp.value = values[lane], of_warp.at = places[lane];
    return warp_nearest(of_warp);
}

// Samples with the same image or the same text match each other. Groups are numbered on the host, so that a
// comparison is of two integers and no list of matches is needed.
struct Targets {
    const unsigned *images, *texts;
    __device__ __forceinline__ bool right(unsigned pair, unsigned other) const {
        return images[pair] == images[other] || texts[pair] == texts[other];
    }
};

// Shapes: logits [rows, pairs]; images, texts, shares [pairs]; rows [rows, 3]. `first` is the sample of the first row.
// rows[row] = ln Σ eˣ, the mean logit of the matches, and whether the nearest matches.
extern "C" __global__ void loss_rows(const float* logits, const unsigned* images,
                                     const unsigned* texts, const float* shares, float* rows,
                                     unsigned first, unsigned pairs) {
    unsigned row = blockIdx.x, own = first + row;
    Targets targets = {images, texts};
    const float* x = logits + (size_t)row * pairs;
    // A thread without a column keeps this, which loses to every finite logit.
    Nearest top = {-INFINITY, 0};
    float right = 0.0f;
    for (unsigned j = threadIdx.x; j < pairs; j += blockDim.x) {
        Nearest here = {x[j], j};
        top = nearer(top, here);
        if (targets.right(own, j)) right += x[j];
    }
    top = block_nearest(top);
    float sum = 0.0f;
    // Relative to the maximum: logits reach the scale of 100, and e^100 is beyond fp32.
    for (unsigned j = threadIdx.x; j < pairs; j += blockDim.x) sum += expf(x[j] - top.value);
    sum = block_sum(sum);
    right = block_sum(right);
    if (threadIdx.x == 0) {
        rows[3 * row] = top.value + logf(sum);
        rows[3 * row + 1] = right * shares[own];
        rows[3 * row + 2] = targets.right(own, top.at) ? 1.0f : 0.0f;
    }
}

// Shapes: logits [rows, pairs]; row_sums, column_sums [pairs]; slopes [rows].
// Logits become their gradients, in place: a batch's logits are the largest array of the loss. slopes[row] is what the
// row adds to the gradient of the logit scale. A logit is in one softmax over its row and one over its column; both
// denominators were found before, the columns' as the rows of the other direction.
extern "C" __global__ void loss_differentiate(float* logits, const float* row_sums,
                                              const float* column_sums, const unsigned* images,
                                              const unsigned* texts, const float* shares,
                                              float* slopes, unsigned first, unsigned pairs,
                                              float share) {
    unsigned row = blockIdx.x, own = first + row;
    Targets targets = {images, texts};
    float* x = logits + (size_t)row * pairs;
    float row_sum = row_sums[own], slope = 0.0f;
    for (unsigned j = threadIdx.x; j < pairs; j += blockDim.x) {
        float logit = x[j];
        // Denominators are logarithms: the difference is at most 0, so neither exponential
        // overflows.
        float gradient = share * (expf(logit - row_sum) + expf(logit - column_sums[j]));
        if (targets.right(own, j)) gradient -= share * (shares[own] + shares[j]);
        // The weight is the logarithm of the scale, so that the derivative of a logit by it is the
        // logit.
        slope += gradient * logit;
        x[j] = gradient;
    }
    slope = block_sum(slope);
    if (threadIdx.x == 0) slopes[row] = slope;
}
