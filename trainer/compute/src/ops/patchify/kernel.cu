// Images as the towers take them. Bytes are normalized here with the constants of `mod.rs`, so that a batch is uploaded
// as bytes: a quarter of fp32.
#include "common.cuh"

// Numbers were normalized on the host; only bytes have to be.
__device__ __forceinline__ float normalized(float value, unsigned) { return value; }

__device__ __forceinline__ float normalized(unsigned char value, unsigned channel) {
    float mean = channel == 0 ? 0.48145466f : channel == 1 ? 0.4578275f : 0.40821073f;
    float deviation = channel == 0 ? 0.26862954f : channel == 1 ? 0.2613026f : 0.2757771f;
    // Rearranged as in `read_normalized` of the host: one multiplication and one addition.
    return (float)value * (1.0f / (255.0f * deviation)) - mean / deviation;
}

// Shapes: pixels [images, 3, side, side]; seen [images, of_picture]; patches [images, 1 + of_picture, 3, patch, patch].
// A block for each token, the class token's row of zeros included: its positions are those of the other tokens.
template <typename T, typename P>
__device__ __forceinline__ void cut_patches(const P* pixels, const unsigned* seen, T* patches,
                                            unsigned of_picture, unsigned side, unsigned patch) {
    unsigned sample = blockIdx.x / (1 + of_picture), token = blockIdx.x % (1 + of_picture);
    unsigned square = patch * patch, grid = side / patch;
    unsigned place = token == 0 ? 0 : seen[(size_t)sample * of_picture + token - 1];
    size_t corner = (size_t)(place / grid * patch) * side + place % grid * patch;
    patches += (size_t)blockIdx.x * 3 * square;
    pixels += (size_t)sample * 3 * side * side + corner;
    for (unsigned i = threadIdx.x; i < 3 * square; i += blockDim.x) {
        // In the order of the reference's convolution weight [width, 3, patch, patch], which makes
        // the patch embedding a matrix product.
        unsigned channel = i / square, y = i % square / patch, x = i % patch;
        size_t at = ((size_t)channel * side + y) * side + x;
        store(patches + i, token == 0 ? 0.0f : normalized(pixels[at], channel));
    }
}

template <typename T>
static __device__ void cut_patches_bytes(const unsigned char* pixels, const unsigned* seen, T* patches,
                                         unsigned of_picture, unsigned side, unsigned patch) {
    cut_patches(pixels, seen, patches, of_picture, side, patch);
}

template <typename T>
static __device__ void cut_patches_numbers(const float* pixels, const unsigned* seen, T* patches,
                                           unsigned of_picture, unsigned side, unsigned patch) {
    cut_patches(pixels, seen, patches, of_picture, side, patch);
}

EXPORT(cut_patches_bytes,
       (const unsigned char* pixels, const unsigned* seen, T* patches, unsigned of_picture, unsigned side,
        unsigned patch),
       (pixels, seen, patches, of_picture, side, patch))
EXPORT(cut_patches_numbers,
       (const float* pixels, const unsigned* seen, T* patches, unsigned of_picture, unsigned side,
        unsigned patch),
       (pixels, seen, patches, of_picture, side, patch))

// Shapes: pixels [images, 3, side, side]; out [images, side, side, 3].
// A thread for each pixel: reads of each plane are coalesced, and the three writes are adjacent.
template <typename T, typename P>
__device__ __forceinline__ void interleave(const P* pixels, T* out, u64 points, unsigned side) {
    size_t point = thread_index(), square = (size_t)side * side;
    if (point >= points) return;
    pixels += point / square * 3 * square + point % square;
    for (unsigned channel = 0; channel < 3; channel++)
        store(out + 3 * point + channel, normalized(pixels[channel * square], channel));
}

template <typename T>
static __device__ void interleave_bytes(const unsigned char* pixels, T* out, u64 points, unsigned side) {
    interleave(pixels, out, points, side);
}

template <typename T>
static __device__ void interleave_numbers(const float* pixels, T* out, u64 points, unsigned side) {
    interleave(pixels, out, points, side);
}

EXPORT(interleave_bytes, (const unsigned char* pixels, T* out, u64 points, unsigned side),
       (pixels, out, points, side))
EXPORT(interleave_numbers, (const float* pixels, T* out, u64 points, unsigned side),
       (pixels, out, points, side))
