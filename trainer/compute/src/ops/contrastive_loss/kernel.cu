// The contrastive loss: what is to know of rows of logits, and their gradients. A block takes a row.
#include "common.cuh"

// A number, and where it is first found.
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

// The largest number of a block, and the first place that has it; each thread is told.
static __device__ Nearest block_nearest(Nearest own) {
    __shared__ float values[32];
    __shared__ unsigned places[32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    own = warp_nearest(own);
    __syncthreads();
    if (lane == 0) values[warp] = own.value, places[warp] = own.at;
    __syncthreads();
    Nearest of_warp = {-INFINITY, 0xffffffffu};
    if (lane < warps) of_warp.value = values[lane], of_warp.at = places[lane];
    return warp_nearest(of_warp);
}

// Pairs with the same picture or the same caption are right for each other.
struct Targets {
    const unsigned *images, *texts;
    __device__ __forceinline__ bool right(unsigned pair, unsigned other) const {
        return images[pair] == images[other] || texts[pair] == texts[other];
    }
};

// rows[row] = ln Σ eˣ, the mean of those that are right, and whether the nearest is right.
extern "C" __global__ void loss_rows(const float* logits, const unsigned* images,
                                     const unsigned* texts, const float* shares, float* rows,
                                     unsigned first, unsigned pairs) {
    unsigned row = blockIdx.x, own = first + row;
    Targets targets = {images, texts};
    const float* x = logits + (size_t)row * pairs;
    Nearest top = {-INFINITY, 0};
    float right = 0.0f;
    for (unsigned j = threadIdx.x; j < pairs; j += blockDim.x) {
        Nearest here = {x[j], j};
        top = nearer(top, here);
        if (targets.right(own, j)) right += x[j];
    }
    top = block_nearest(top);
    float sum = 0.0f;
    for (unsigned j = threadIdx.x; j < pairs; j += blockDim.x) sum += expf(x[j] - top.value);
    sum = block_sum(sum);
    right = block_sum(right);
    if (threadIdx.x == 0) {
        rows[3 * row] = top.value + logf(sum);
        rows[3 * row + 1] = right * shares[own];
        rows[3 * row + 2] = targets.right(own, top.at) ? 1.0f : 0.0f;
    }
}

// Logits become their gradients; slopes[row] is what the row adds to the gradient of the logit scale.
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
        float gradient = share * (expf(logit - row_sum) + expf(logit - column_sums[j]));
        if (targets.right(own, j)) gradient -= share * (shares[own] + shares[j]);
        slope += gradient * logit;
        x[j] = gradient;
    }
    slope = block_sum(slope);
    if (threadIdx.x == 0) slopes[row] = slope;
}
