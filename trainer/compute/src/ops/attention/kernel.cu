// Softmax between the products of attention, a warp for each row of scores; and the products themselves where
// sequences have different lengths, for which cublasLt has no batch.
#include "common.cuh"

// A row of the scores of one head: where it lies, and the index of its first element in the mask of its sample.
// Rows have room for the longest sequence, so that an index depends on no other sequence of the batch.
struct ScoreRow {
    size_t at;
    unsigned element;
    bool exists;
};

__device__ __forceinline__ ScoreRow score_row(Sequence s, unsigned heads, unsigned longest) {
    unsigned index = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    unsigned row = index / heads, head = index % heads;
    ScoreRow found;
    found.exists = row < s.rows;
    found.at = ((s.row + row) * heads + head) * longest;
    found.element = (row * heads + head) * longest;
    return found;
}

// Shapes: probabilities, dropped [pooled tokens, heads, longest]; ids [tokens] or null without padding. Scores become
// probabilities in place, in fp32 between a load and a store of T.
template <typename T>
static __device__ void softmax_forward(T* probabilities, T* dropped, const unsigned* ids, unsigned heads,
                                       unsigned longest, const unsigned* offsets, unsigned length,
                                       unsigned first, u64 key, u64 first_sample, unsigned dropped_below,
                                       float kept_scale) {
    Sequence s = sequence_of(offsets, length, first, blockIdx.x);
    ScoreRow row = score_row(s, heads, longest);
    if (!row.exists) return;
    Mask mask = mask_of(key, first_sample, dropped_below, kept_scale, blockIdx.x);
    unsigned lane = threadIdx.x % 32;
    probabilities += row.at;
    // As the reference: -10,000 leaves padding a probability of zero, unless there is nothing but padding.
    auto score = [&](unsigned c) {
        return load(probabilities + c) - (ids && ids[s.token + c] == 0 ? 10000.0f : 0.0f);
    };
    // Three passes over a row that the L1 cache holds: the maximum, the sum, the quotients. Scores are computed
    // again rather than kept, as a row may be longer than registers hold.
    float top = -3.0e38f, sum = 0.0f;
    // Neighbouring lanes read neighbouring scores, and a lane's columns follow from the length
    // alone.
    for (unsigned c = lane; c < s.tokens; c += 32) top = fmaxf(top, score(c));
    top = warp_max(top);
    for (unsigned c = lane; c < s.tokens; c += 32) sum += expf(score(c) - top);
    // Never 1 / 0: the largest score adds e⁰ to the sum.
    float scale = 1.0f / warp_sum(sum);
    for (unsigned c = lane; c < s.tokens; c += 32) {
        float p = expf(score(c) - top) * scale;
        store(probabilities + c, p);
        if (dropped) store(dropped + row.at + c, p * mask.of(row.element + c));
    }
}

EXPORT(softmax_forward,
       (T * probabilities, T* dropped, const unsigned* ids, unsigned heads, unsigned longest,
        const unsigned* offsets, unsigned length, unsigned first, u64 key, u64 first_sample,
        unsigned dropped_below, float kept_scale),
       (probabilities, dropped, ids, heads, longest, offsets, length, first, key, first_sample, dropped_below,
        kept_scale))

// Shapes: as of softmax_forward. dscores holds the gradient of the dropped probabilities, and becomes that of q · kᵀ.
template <typename T>
static __device__ void softmax_backward(const T* probabilities, T* dropped, T* dscores, unsigned heads,
                                        unsigned longest, float scale, const unsigned* offsets, unsigned length,
                                        unsigned first, u64 key, u64 first_sample, unsigned dropped_below,
                                        float kept_scale) {
    Sequence s = sequence_of(offsets, length, first, blockIdx.x);
    ScoreRow row = score_row(s, heads, longest);
    if (!row.exists) return;
    Mask mask = mask_of(key, first_sample, dropped_below, kept_scale, blockIdx.x);
    unsigned lane = threadIdx.x % 32;
    probabilities += row.at, dscores += row.at;
    auto kept = [&](unsigned c) { return dropped ? mask.of(row.element + c) : 1.0f; };
    // The derivative of softmax: each gradient less the mean of all, weighted by the probabilities.
    float mean = 0.0f;
    for (unsigned c = lane; c < s.tokens; c += 32)
        mean += load(probabilities + c) * load(dscores + c) * kept(c);
    mean = warp_sum(mean);
    for (unsigned c = lane; c < s.tokens; c += 32) {
        float p = load(probabilities + c), m = kept(c);
        // With the scale of the scores, so that the products for `dq` and `dk` need no factor.
        store(dscores + c, p * (load(dscores + c) * m - mean) * scale);
        // The product for the values' gradient needs dropped probabilities, which the forward did not keep.
        if (dropped) store(dropped + row.at + c, p * m);
    }
}

EXPORT(softmax_backward,
       (const T* probabilities, T* dropped, T* dscores, unsigned heads, unsigned longest, float scale,
        const unsigned* offsets, unsigned length, unsigned first, u64 key, u64 first_sample,
        unsigned dropped_below, float kept_scale),
       (probabilities, dropped, dscores, heads, longest, scale, offsets, length, first, key, first_sample,
        dropped_below, kept_scale))

enum : unsigned { TILE = 32, QUADS = 9 };

// QUADS is one more than the eight float4 of a tile's line: the padding moves each line by four banks, so that the
// threads that fill a tile along its columns do not all write to the same bank.

// Where a matrix of a head of a sequence begins.
__device__ __forceinline__ size_t begin_of(Sequence s, unsigned row, unsigned head, unsigned every_token) {
    return (every_token ? s.token : s.row) * row + (size_t)blockIdx.y * head;
}

// Fills a tile whose lines are inner indices. Neighbouring threads read neighbouring addresses: along the inner
// index, or else along the outer. Beyond the end of a matrix the tile is zero, which adds nothing to a product.
template <typename T>
__device__ __forceinline__ void fill(float* tile, const T* from, unsigned stride, bool along_inner,
                                     unsigned outer, unsigned outer_end, unsigned inner, unsigned inner_end) {
    for (unsigned e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
        unsigned fast = e % TILE, slow = e / TILE;
        unsigned o = along_inner ? slow : fast, i = along_inner ? fast : slow;
        bool inside = outer + o < outer_end && inner + i < inner_end;
        size_t at = along_inner ? (size_t)(outer + o) * stride + inner + i : (size_t)(inner + i) * stride + outer + o;
        tile[i * QUADS * 4 + o] = inside ? load(from + at) : 0.0f;
    }
}

// target = scale · a · b for each head of each sequence. Grid: (sequences, heads, tiles of the longest); a block
// of 64 threads for each tile of 32 × 32, of which each thread has four rows of four columns in registers: two
// float4 from shared memory for sixteen multiplications. A side is as long as a head is wide (0), as there are
// tokens (1), or pooled tokens (2).
template <typename T>
static __device__ void ragged_product(T* target, unsigned target_row, unsigned target_head,
                                      unsigned target_every, const T* a, unsigned a_row, unsigned a_head,
                                      unsigned a_every, unsigned a_transposed, const T* b, unsigned b_row,
                                      unsigned b_head, unsigned b_every, unsigned b_transposed, unsigned rows,
                                      unsigned cols, unsigned inner, unsigned width, unsigned tiles, float scale,
                                      Sequence s) {
    __shared__ float4 a_tile[TILE][QUADS], b_tile[TILE][QUADS];
    unsigned extents[3] = {width, s.tokens, s.rows};
    unsigned m = extents[rows], n = extents[cols], depth = extents[inner];
    unsigned top = blockIdx.z / tiles * TILE, left = blockIdx.z % tiles * TILE;
    // The grid is that of the longest sequence: blocks beyond the end of a shorter one have nothing to do.
    if (top >= m || left >= n) return;
    a += begin_of(s, a_row, a_head, a_every);
    b += begin_of(s, b_row, b_head, b_every);
    target += begin_of(s, target_row, target_head, target_every);
    unsigned quad_row = threadIdx.x / 8, quad_col = threadIdx.x % 8;
    // In fp32 for both formats. One thread adds an element's products in the order of the inner
    // index: the inner dimension is not split among blocks, which would need atomics.
    float sums[4][4] = {};
    for (unsigned k = 0; k < depth; k += TILE) {
        __syncthreads();
        // After a barrier: other threads may still be reading the previous tile.
        fill((float*)a_tile, a, a_row, !a_transposed, top, m, k, depth);
        fill((float*)b_tile, b, b_row, b_transposed, left, n, k, depth);
        __syncthreads();
        // Not the zeros behind the last inner index, of which a product with few tokens would have many.
        unsigned deep = depth - k < TILE ? depth - k : TILE;
        for (unsigned i = 0; i < deep; i++) {
            float4 x = a_tile[i][quad_row], y = b_tile[i][quad_col];
            float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (unsigned r = 0; r < 4; r++)
#pragma unroll
                for (unsigned c = 0; c < 4; c++) sums[r][c] += xs[r] * ys[c];
        }
    }
#pragma unroll
    for (unsigned r = 0; r < 4; r++)
#pragma unroll
        for (unsigned c = 0; c < 4; c++) {
            unsigned i = top + quad_row * 4 + r, j = left + quad_col * 4 + c;
            if (i < m && j < n) store(target + (size_t)i * target_row + j, scale * sums[r][c]);
        }
}

EXPORT(ragged_product,
       (T * target, unsigned target_row, unsigned target_head, unsigned target_every, unsigned, const T* a,
        unsigned a_row, unsigned a_head, unsigned a_every, unsigned a_transposed, const T* b, unsigned b_row,
        unsigned b_head, unsigned b_every, unsigned b_transposed, unsigned rows, unsigned cols, unsigned inner,
        unsigned width, unsigned tiles, float scale, const unsigned* offsets, unsigned length, unsigned first),
       (target, target_row, target_head, target_every, a, a_row, a_head, a_every, a_transposed, b, b_row, b_head,
        b_every, b_transposed, rows, cols, inner, width, tiles, scale,
        sequence_of(offsets, length, first, blockIdx.x)))
