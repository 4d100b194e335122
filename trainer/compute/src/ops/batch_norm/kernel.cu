// Batch normalization over rows of channels. Grid: (blocks of 64 channels, parts of the rows); a block has 256
// threads: a warp reads the 64 channels of one row, two a thread, and the eight warps take every eighth row.
// Moments: mean, one over the standard deviation, factor and offset of each channel.
//
// Statistics are made in three steps: each block writes the sums of its rows, a warp for each channel adds the
// blocks' sums in their order, and all blocks read the result. How rows are split depends on the shape alone, so
// the sums have the same bits on every device.
#include "common.cuh"

// AHEAD rows are read before the first is used: enough loads in flight to hide the latency of memory.
enum : unsigned { LANES = 32, ROWS = 8, AHEAD = 4 };

// The two channels of a thread, and the rows that it walks over.
struct Walk {
    unsigned channel, width, row, end;
    bool pair; // whether two neighbours can be read at once
    __device__ __forceinline__ size_t at(unsigned row) const { return (size_t)row * width + channel; }
    __device__ __forceinline__ bool holds(unsigned which) const { return channel + which < width; }
};

static __device__ __forceinline__ Walk walk_of(unsigned rows, unsigned width, unsigned share) {
    Walk walk;
    walk.channel = (blockIdx.x * LANES + threadIdx.x % LANES) * 2, walk.width = width;
    walk.row = blockIdx.y * share + threadIdx.x / LANES;
    unsigned end = (blockIdx.y + 1) * share;
    walk.end = end < rows ? end : rows;
    // With an even width every row begins at an even index: pairs are aligned and none crosses the
    // end of a row.
    walk.pair = width % 2 == 0;
    return walk;
}

// A pair of numbers in one access: four bytes of bfloat16, eight of fp32.
struct Two {
    float v[2];
};

static __device__ __forceinline__ Two load_two(const float* from, bool pair, unsigned count) {
    Two two = {{0.0f, 0.0f}};
    if (pair) {
        float2 raw = *(const float2*)from;
        two.v[0] = raw.x, two.v[1] = raw.y;
    } else {
        two.v[0] = from[0];
        if (count > 1) two.v[1] = from[1];
    }
    return two;
}

static __device__ __forceinline__ Two load_two(const bf16* from, bool pair, unsigned count) {
    Two two = {{0.0f, 0.0f}};
    if (pair) {
        unsigned raw = *(const unsigned*)from;
        two.v[0] = __uint_as_float(raw << 16), two.v[1] = __uint_as_float(raw & 0xffff0000u);
    } else {
        two.v[0] = load(from);
        if (count > 1) two.v[1] = load(from + 1);
    }
    return two;
}

static __device__ __forceinline__ void store_two(float* to, Two two, bool pair, unsigned count) {
    if (pair) {
        *(float2*)to = make_float2(two.v[0], two.v[1]);
    } else {
        to[0] = two.v[0];
        if (count > 1) to[1] = two.v[1];
    }
}

static __device__ __forceinline__ void store_two(bf16* to, Two two, bool pair, unsigned count) {
    if (pair) {
        *(unsigned*)to = two_bf16(two.v[0], two.v[1]);
    } else {
        store(to, two.v[0]);
        if (count > 1) store(to + 1, two.v[1]);
    }
}

// The two sums of each channel over the rows of the block, added in the order of its warps.
static __device__ void sum_block(const Walk& walk, const Two& first, const Two& second, float* parts) {
    // The lane is the last index: the threads of a warp access 32 different banks.
    __shared__ float sums[ROWS][4][LANES];
    unsigned lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
    sums[row][0][lane] = first.v[0], sums[row][1][lane] = first.v[1];
    sums[row][2][lane] = second.v[0], sums[row][3][lane] = second.v[1];
    __syncthreads();
    // The first four rows of threads take one of the four numbers each.
    if (row < 4 && walk.holds(row % 2)) {
        float total = 0.0f;
        for (unsigned i = 0; i < ROWS; i++) total += sums[i][row][lane];
        size_t part = (size_t)blockIdx.y * 2 + row / 2;
        parts[part * walk.width + walk.channel + row % 2] = total;
    }
}

// Shapes: x [rows, width]; parts [blocks of rows, 2, width].
// The sums of the distances from the first row, and of their squares: a mean that is large beside the deviation
// costs the variance no digits, as it would if the squares of the numbers themselves were summed.
template <typename T>
static __device__ void batch_norm_sums(const T* x, float* parts, unsigned rows, unsigned width,
                                       unsigned share) {
    Walk walk = walk_of(rows, width, share);
    unsigned count = walk.holds(1) ? 2 : 1;
    Two sum = {{0.0f, 0.0f}}, squares = {{0.0f, 0.0f}};
    // No early return: threads without a channel must reach the barrier of `sum_block`, too.
    if (walk.holds(0)) {
        // The first row of all, not of this block: only distances from one origin can be added.
        Two origin = load_two(x + walk.channel, walk.pair, count);
        for (unsigned row = walk.row; row < walk.end; row += AHEAD * ROWS) {
            Two now[AHEAD];
#pragma unroll
            for (unsigned i = 0; i < AHEAD; i++) {
                // Beyond the end the origin is repeated: its distance is 0, and the loop needs no
                // branch.
                bool inside = row + i * ROWS < walk.end;
                now[i] = inside ? load_two(x + walk.at(row + i * ROWS), walk.pair, count) : origin;
            }
#pragma unroll
            for (unsigned i = 0; i < AHEAD; i++) {
                for (unsigned c = 0; c < 2; c++) {
                    float distance = now[i].v[c] - origin.v[c];
                    sum.v[c] += distance;
                    squares.v[c] += distance * distance;
                }
            }
        }
    }
    sum_block(walk, sum, squares, parts);
}

EXPORT(batch_norm_sums, (const T* x, float* parts, unsigned rows, unsigned width, unsigned share),
       (x, parts, rows, width, share))

// One sum of a channel over all parts, by a warp, in every thread of it: lane l adds the parts l, l + 32, ... and
// the tree of `warp_sum` the lanes.
static __device__ __forceinline__ float sum_parts(const float* parts, unsigned which,
                                                  unsigned channel, unsigned width,
                                                  unsigned count) {
    float sum = 0.0f;
    for (unsigned part = threadIdx.x % 32; part < count; part += 32)
        sum += parts[((size_t)part * 2 + which) * width + channel];
    return warp_sum(sum);
}

// Shapes: parts [count, 2, width]; moments [4, width], of which the first two are written.
// Mean and variance of each channel, from the sums of all parts; a warp for each channel.
template <typename T>
static __device__ void batch_norm_moments(const T* x, const float* parts, float* moments,
                                          unsigned width, unsigned count, float rows) {
    unsigned channel = (unsigned)(thread_index() / 32);
    if (channel >= width) return;
    float distance = sum_parts(parts, 0, channel, width, count) / rows;
    float square = sum_parts(parts, 1, channel, width, count) / rows;
    if (threadIdx.x % 32 == 0) {
        moments[channel] = load(x + channel) + distance;
        // Rounding may leave a small negative number, whose square root would be NaN.
        moments[width + channel] = fmaxf(square - distance * distance, 0.0f);
    }
}

EXPORT(batch_norm_moments,
       (const T* x, const float* parts, float* moments, unsigned width, unsigned count, float rows),
       (x, parts, moments, width, count, rows))

// Factor and offset of a channel: normalization, weight and bias in one multiplication and one addition a number.
static __device__ __forceinline__ void prepare(const float* affine, float mean, float variance,
                                               float* moments, unsigned i, unsigned width,
                                               float epsilon) {
    float sharpness = 1.0f / sqrtf(variance + epsilon), factor = sharpness * affine[i];
    moments[i] = mean;
    moments[width + i] = sharpness;
    moments[2 * width + i] = factor;
    moments[3 * width + i] = affine[width + i] - mean * factor;
}

// Moves the running statistics (mean, variance, number of batches) towards those in `moments`. A kernel of its own,
// because between the moments and this ranks may exchange theirs.
extern "C" __global__ void batch_norm_follow(const float* affine, float* running, float* moments,
                                             unsigned width, float unbiased, float momentum,
                                             float epsilon) {
    unsigned i = (unsigned)thread_index();
    if (i >= width) return;
    float mean = moments[i], variance = moments[width + i];
    running[i] += momentum * (mean - running[i]);
    // As PyTorch: the biased variance normalizes, the unbiased one is kept for evaluation.
    running[width + i] += momentum * (variance * unbiased - running[width + i]);
    if (i == 0) running[2 * width] += 1.0f;
    prepare(affine, mean, variance, moments, i, width, epsilon);
}

// Evaluation: the running statistics instead of a batch's.
extern "C" __global__ void batch_norm_recall(const float* affine, const float* running,
                                             float* moments, unsigned width, float epsilon) {
    unsigned i = (unsigned)thread_index();
    if (i < width) prepare(affine, running[i], running[width + i], moments, i, width, epsilon);
}

// Writes `y`, or adds to it, and then applies the ReLU if there is one: a residual block reads `y` once less.
template <typename T>
static __device__ void batch_norm_apply(const float* moments, const T* x, T* y, unsigned rows,
                                        unsigned width, unsigned share, unsigned add,
                                        unsigned rectify) {
    Walk walk = walk_of(rows, width, share);
    if (!walk.holds(0)) return;
    unsigned count = walk.holds(1) ? 2 : 1;
    Two factor, offset;
    for (unsigned c = 0; c < count; c++) {
        factor.v[c] = moments[2 * width + walk.channel + c];
        offset.v[c] = moments[3 * width + walk.channel + c];
    }
    for (unsigned row = walk.row; row < walk.end; row += AHEAD * ROWS) {
        // All loads come before the first store: the compiler may not move a load above a store to
        // an array that could be the same.
        Two now[AHEAD], before[AHEAD];
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++) {
            if (row + i * ROWS >= walk.end) break;
            now[i] = load_two(x + walk.at(row + i * ROWS), walk.pair, count);
            if (add) before[i] = load_two(y + walk.at(row + i * ROWS), walk.pair, count);
        }
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++) {
            if (row + i * ROWS >= walk.end) break;
            Two out;
            for (unsigned c = 0; c < count; c++) {
                float value = now[i].v[c] * factor.v[c] + offset.v[c];
                if (add) value += before[i].v[c];
                out.v[c] = rectify ? fmaxf(value, 0.0f) : value;
            }
            store_two(y + walk.at(row + i * ROWS), out, walk.pair, count);
        }
    }
}

EXPORT(batch_norm_apply,
       (const float* moments, const T* x, T* y, unsigned rows, unsigned width, unsigned share,
        unsigned add, unsigned rectify),
       (moments, x, y, rows, width, share, add, rectify))

// The moments of a thread's two channels, and the gradient before the ReLU: its output is computed again from `x`,
// with the arithmetic of the forward, so that both agree on which numbers were cut off.
struct Channels {
    float mean[2], factor[2], offset[2];
    __device__ __forceinline__ float gate(unsigned c, float x, float dy, unsigned rectify) const {
        // At 0 the gradient is 0, as in PyTorch.
        return rectify && !(x * factor[c] + offset[c] > 0.0f) ? 0.0f : dy;
    }
};

static __device__ __forceinline__ Channels channels_of(const float* moments, const Walk& walk,
                                                       unsigned count) {
    Channels channels;
    for (unsigned c = 0; c < count; c++) {
        unsigned i = walk.channel + c;
        channels.mean[c] = moments[i];
        channels.factor[c] = moments[2 * walk.width + i];
        channels.offset[c] = moments[3 * walk.width + i];
    }
    return channels;
}

// The sums of `dy` and of `dy · (x - mean)` over the rows of a block.
template <typename T>
static __device__ void batch_norm_slopes(const float* moments, const T* x, const T* dy, float* parts,
                                         unsigned rows, unsigned width, unsigned share,
                                         unsigned rectify) {
    Walk walk = walk_of(rows, width, share);
    unsigned count = walk.holds(1) ? 2 : 1;
    Two sum = {{0.0f, 0.0f}}, along = {{0.0f, 0.0f}};
    if (walk.holds(0)) {
        Channels channels = channels_of(moments, walk, count);
        for (unsigned row = walk.row; row < walk.end; row += AHEAD * ROWS) {
            Two now[AHEAD], slope[AHEAD];
#pragma unroll
            for (unsigned i = 0; i < AHEAD; i++) {
                if (row + i * ROWS >= walk.end) break;
                now[i] = load_two(x + walk.at(row + i * ROWS), walk.pair, count);
                slope[i] = load_two(dy + walk.at(row + i * ROWS), walk.pair, count);
            }
#pragma unroll
            for (unsigned i = 0; i < AHEAD; i++) {
                if (row + i * ROWS >= walk.end) break;
                for (unsigned c = 0; c < count; c++) {
                    float through = channels.gate(c, now[i].v[c], slope[i].v[c], rectify);
                    sum.v[c] += through;
                    along.v[c] += through * (now[i].v[c] - channels.mean[c]);
                }
            }
        }
    }
    sum_block(walk, sum, along, parts);
}

EXPORT(batch_norm_slopes,
       (const float* moments, const T* x, const T* dy, float* parts, unsigned rows, unsigned width,
        unsigned share, unsigned rectify),
       (moments, x, dy, parts, rows, width, share, rectify))

// Adds to the gradients of weight and bias, which are adjacent; writes the two sums of each channel for the last
// step, after ranks may have added theirs: gradients are summed over ranks with those of all other weights.
extern "C" __global__ void batch_norm_gradients(const float* moments, const float* parts,
                                                float* affine, float* slopes, unsigned width,
                                                unsigned count) {
    unsigned channel = (unsigned)(thread_index() / 32);
    if (channel >= width) return;
    float sum = sum_parts(parts, 0, channel, width, count);
    float along = sum_parts(parts, 1, channel, width, count);
    if (threadIdx.x % 32 == 0) {
        // Added, because gradients accumulate over micro-batches; this warp is the channel's only
        // writer.
        affine[channel] += along * moments[width + channel];
        affine[width + channel] += sum;
        slopes[channel] = sum;
        slopes[width + channel] = along;
    }
}

// dx = factor · (dy - mean(dy) - unit · mean(dy · unit)): mean and deviation depend on every row, and what `dy` has in
// common with either is taken off. In place, since `dy` is not read again.
template <typename T>
static __device__ void batch_norm_backward(const float* moments, const float* slopes, const T* x,
                                           T* dy, unsigned rows, unsigned width, unsigned share,
                                           float all, unsigned rectify) {
    Walk walk = walk_of(rows, width, share);
    if (!walk.holds(0)) return;
    unsigned count = walk.holds(1) ? 2 : 1;
    Channels channels = channels_of(moments, walk, count);
    float sum[2], along[2];
    for (unsigned c = 0; c < count; c++) {
        unsigned i = walk.channel + c;
        float sharpness = moments[width + i];
        // `all` counts the rows that the statistics are of: those of all ranks where they are
        // synchronized.
        sum[c] = slopes[i] * channels.factor[c] / all;
        along[c] = channels.factor[c] * sharpness * (slopes[width + i] * sharpness) / all;
    }
    for (unsigned row = walk.row; row < walk.end; row += AHEAD * ROWS) {
        Two now[AHEAD], slope[AHEAD];
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++) {
            if (row + i * ROWS >= walk.end) break;
            now[i] = load_two(x + walk.at(row + i * ROWS), walk.pair, count);
            slope[i] = load_two(dy + walk.at(row + i * ROWS), walk.pair, count);
        }
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++) {
            if (row + i * ROWS >= walk.end) break;
            Two out;
            for (unsigned c = 0; c < count; c++) {
                float through = channels.gate(c, now[i].v[c], slope[i].v[c], rectify);
                out.v[c] = through * channels.factor[c] - sum[c] -
                           along[c] * (now[i].v[c] - channels.mean[c]);
            }
            store_two(dy + walk.at(row + i * ROWS), out, walk.pair, count);
        }
    }
}

EXPORT(batch_norm_backward,
       (const float* moments, const float* slopes, const T* x, T* dy, unsigned rows, unsigned width,
        unsigned share, float all, unsigned rectify),
       (moments, slopes, x, dy, rows, width, share, all, rectify))
