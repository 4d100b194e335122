// Position embeddings of image tokens: the class token, then the visible patches.
#include "rows.cuh"

// Shapes: positions [1 + patches, width]; kind [width]; seen [images, of_picture]; y [images, 1 + of_picture, width].
template <typename T>
static __device__ void positions_forward(const float* positions, const float* kind, const unsigned* seen, T* y,
                                         unsigned of_picture, unsigned width) {
    unsigned sample = blockIdx.x / (1 + of_picture), token = blockIdx.x % (1 + of_picture);
    size_t place = token == 0 ? 0 : 1 + seen[(size_t)sample * of_picture + token - 1];
    positions += place * width;
    y += (size_t)blockIdx.x * width;
    bool well = lie_well(width, positions, kind, y);
    walk_row(width, threadIdx.x, blockDim.x, [&](unsigned c, unsigned count) {
        float p[OCTET], k[OCTET] = {};
        load_some(positions + c, well, count, p);
        if (token == 0) load_some(kind + c, well, count, k);
#pragma unroll
        for (unsigned i = 0; i < OCTET; i++) p[i] += k[i];
        store_some(y + c, well, count, p);
    });
}

EXPORT(positions_forward,
       (const float* positions, const float* kind, const unsigned* seen, T* y, unsigned of_picture,
        unsigned width),
       (positions, kind, seen, y, of_picture, width))

// The token of an image that shows a patch, or 0 if none does: a binary search, as visible patches are in rising order.
__device__ __forceinline__ unsigned token_at(const unsigned* seen, unsigned of_picture, unsigned patch) {
    unsigned low = 0, high = of_picture;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (seen[middle] < patch) low = middle + 1;
        else high = middle;
    }
    return low < of_picture && seen[low] == patch ? 1 + low : 0;
}

// A block for each position and 128 columns: a gather over the images in their order, where a scatter from the tokens
// would need atomics. Where all patches are visible, a token's position is its index.
// Shapes: as of positions_forward; positions and kind are gradients, which are added to.
template <typename T>
static __device__ void positions_backward(float* positions, float* kind, const unsigned* seen, const T* dy,
                                          unsigned batch, unsigned of_picture, unsigned width) {
    unsigned place = blockIdx.x, c = blockIdx.y * blockDim.x + threadIdx.x;
    bool all = gridDim.x == 1 + of_picture;
    if (c >= width) return;
    float sum = 0.0f;
    for (size_t sample = 0; sample < batch; sample++) {
        unsigned token = place;
        if (place > 0 && !all) token = token_at(seen + sample * of_picture, of_picture, place - 1);
        if (place == 0 || token > 0) sum += load(dy + (sample * (1 + of_picture) + token) * width + c);
    }
    positions[(size_t)place * width + c] += sum;
    // The class embedding is added to position 0 only: both have the same gradient.
    if (place == 0) kind[c] += sum;
}

EXPORT(positions_backward,
       (float* positions, float* kind, const unsigned* seen, const T* dy, unsigned batch, unsigned of_picture,
        unsigned width),
       (positions, kind, seen, dy, batch, of_picture, width))
