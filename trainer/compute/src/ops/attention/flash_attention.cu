// Attention in bfloat16 that never writes its probabilities to memory: scores are computed tile by tile in registers, and
// again in the backward. Sequences have their own lengths; keys of id 0 are masked; probabilities may be dropped.
//
// Source: Dao, FlashAttention-2 (2023). Unlike there, the gradient of the queries has a kernel of its own, which computes
// the scores once more: in one kernel it would be added by atomics, in an order that depends on the scheduler.
//
// Grid: (tiles of 64 rows, heads, sequences), 128 threads. Each of the four warps has sixteen rows of the tile for itself,
// so softmax and accumulators need no exchange between warps. Tiles of the other operand are read into one half of a
// shared buffer by cp.async while the other half is multiplied.
//
// Rows in shared memory are padded by eight numbers (D + 8): see `load_rows` for why.
#include "tensor_cores.cuh"

namespace {

// 64 rows are four tensor-core tiles, one a warp. The backward steps by 32, because it has two
// more tiles: with 64 they would exceed the 48 KiB of shared memory that a block may declare.
constexpr int QUERIES = 64; // rows of a block, 16 a warp
constexpr int KEYS = 64;    // of a step of the forward
constexpr int STEP = 32;    // of a step of the backward
constexpr int THREADS = 128;

// The sequence and head of a block.
struct Place {
    size_t begin, row;
    unsigned length, queries, heads, head, width;

    __device__ Place(const unsigned *offsets, unsigned common, unsigned first_only, unsigned width)
        : heads(gridDim.y), head(blockIdx.y), width(width) {
        const Sequence sequence = sequence_of(offsets, common, first_only, blockIdx.z);
        begin = sequence.token, row = sequence.row, length = sequence.tokens;
        // An empty sequence has no first token, hence no query.
        queries = min(sequence.rows, length);
    }

    // Query, key or value (0, 1, 2) of this head, of the sequence's first token.
    template <class P> __device__ P *part(P *qkv, int which, int head_width) const {
        return qkv + begin * 3 * width + which * width + head * head_width;
    }

    // This head's numbers in rows of pooled tokens.
    template <class P> __device__ P *kept(P *rows, int head_width) const {
        return rows + row * width + head * head_width;
    }
};

// Begins to copy rows into shared memory; those beyond the last are zero.
template <int D, int ROWS>
__device__ void load_tile(bf16 (&tile)[ROWS][D + 8], const bf16 *from, size_t stride, int first, int count) {
    // Sixteen bytes a copy. Rows of D + 8 bfloat16 are multiples of sixteen bytes, and so are heads
    // in global memory: every chunk is aligned.
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int r = i / CHUNKS, c = i % CHUNKS * 8;
        const bool there = first + r < count;
        // A missing row gets an address inside of the array: the instruction must not be given
        // another, even though it reads nothing there.
        copy_ahead<16>(&tile[r][c], there ? from + (first + r) * stride + c : from, there);
    }
}

// Begins to copy keys and values of a sequence, together.
template <int D, int ROWS>
__device__ void load_pair(bf16 (&keys)[ROWS][D + 8], bf16 (&values)[ROWS][D + 8], const bf16 *qkv, const Place &place, int first) {
    const size_t stride = 3 * static_cast<size_t>(place.width);
    load_tile<D, ROWS>(keys, place.part(qkv, 1, D), stride, first, place.length);
    load_tile<D, ROWS>(values, place.part(qkv, 2, D), stride, first, place.length);
    end_copies();
}

// Waits for the tile that is needed next; the copy of the one after it may go on.
__device__ inline void await_tile(bool another) {
    if (another) await_copies<1>();
    else await_copies<0>();
    __syncthreads();
}

// Writes a warp's sixteen rows of an accumulator.
template <int D>
__device__ void store(const float (&d)[D / 8][4], bf16 *to, size_t stride, int first, int count, const float (&scale)[2]) {
    for (int half = 0; half < 2; half++) {
        const int r = first + lane() / 4 + 8 * half;
        if (r >= count) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            // A thread's two columns are adjacent and the first is even: one aligned store of four
            // bytes.
            const unsigned bits = two_bf16(d[n][2 * half] * scale[half], d[n][2 * half + 1] * scale[half]);
            *reinterpret_cast<unsigned *>(to + r * stride + n * 8 + 2 * (lane() % 4)) = bits;
        }
    }
}

// What is added to a scaled score: nothing; -10,000 for padding, as in the reference, so that a sequence of nothing but
// padding still has a softmax; or -infinity beyond the end of the sequence.
__device__ inline float hidden(const unsigned *ids, const Place &place, int key) {
    if (key >= static_cast<int>(place.length)) return -INFINITY;
    return ids && ids[place.begin + key] == 0 ? -10000.0f : 0.0f;
}

// An accumulator D as the A operand of the next product: two adjacent 16 × 8 results are laid out among the threads just
// as one 16 × 16 operand is, so probabilities go from one product to the next without leaving the registers.
__device__ inline void as_rows(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = two_bf16(left[0], left[1]);
    a[1] = two_bf16(left[2], left[3]);
    a[2] = two_bf16(right[0], right[1]);
    a[3] = two_bf16(right[2], right[3]);
}

template <int D>
__device__ void forward(const bf16 *qkv, const unsigned *ids, bf16 *out, float *log_sums, unsigned width, unsigned longest,
                        float scale, const unsigned *offsets, unsigned common, unsigned first_only, Mask mask) {
    // cp.async and ldmatrix need multiples of sixteen bytes. At D = 80 both arrays take 45,056
    // bytes.
    alignas(16) __shared__ bf16 keys[2][KEYS][D + 8];
    alignas(16) __shared__ bf16 values[2][KEYS][D + 8];
    const Place place(offsets, common, first_only, width);
    const int first = blockIdx.x * QUERIES, warp = threadIdx.x / 32, length = place.length, count = place.queries;
    // The whole block returns, before its first barrier.
    if (first >= count) return;
    const size_t stride = 3 * static_cast<size_t>(width);
    // A warp whose rows are all beyond the end copies and waits with the others, but multiplies nothing.
    const bool busy = first + warp * 16 < count;

    // The queries stay in registers for the whole loop. They pass through the second half of the key buffer, which is
    // free until the loop's first copy.
    unsigned q[D / 16][4];
    load_tile<D, KEYS>(keys[1], place.part(qkv, 0, D), stride, first, count);
    end_copies();
    load_pair<D, KEYS>(keys[0], values[0], qkv, place, 0);
    await_tile(true);
#pragma unroll
    for (int k = 0; k < D / 16; k++) load_rows(q[k], &keys[1][warp * 16][k * 16], D + 8);
    __syncthreads();

    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sums[2] = {};
    for (int at = 0, stage = 0; at < length; at += KEYS, stage ^= 1) {
        // After this barrier no warp reads the other half any more: the next tile may be copied there.
        const bool another = at + KEYS < length;
        if (at > 0) __syncthreads();
        if (another) load_pair<D, KEYS>(keys[stage ^ 1], values[stage ^ 1], qkv, place, at + KEYS);
        await_tile(another);
        if (!busy) continue;
        // Only the last tile has keys beyond the end; without padding all others need no mask.
        const bool whole = !ids && another;
        const int left = length - at;
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            // Sixteen keys beyond the end: no product is needed for probabilities of zero.
            if (n * 8 >= left) {
                for (int i = 0; i < 8; i++) s[n + i / 4][i % 4] = -INFINITY;
                continue;
            }
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                unsigned b[2][2];
                load_columns(b, &keys[stage][n * 8][k * 16], D + 8);
                multiply_add(s[n], q[k], b[0]);
                multiply_add(s[n + 1], q[k], b[1]);
            }
            for (int i = 0; i < 8; i++) {
                float &score = s[n + i / 4][i % 4];
                score *= scale;
                if (!whole) score += hidden(ids, place, at + (n + i / 4) * 8 + 2 * (lane() % 4) + i % 2);
            }
        }
        for (int half = 0; half < 2; half++) {
            float high = top[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) high = fmaxf(high, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            high = row_max(high);
            // Online softmax: when a larger score is found, what was summed so far is scaled to the new maximum.
            // Every tile has a key of the sequence, so `high` is finite: in the first tile
            // -infinity less `high` gives a factor of 0, and never NaN.
            const float shrink = __expf(top[half] - high);
            top[half] = high;
            float sum = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[n][i] = __expf(s[n][i] - high);
                    sum += s[n][i];
                }
            }
            // The lanes of a row are added in a fixed tree and tiles in the order of the keys:
            // every run gets the same bits.
            sums[half] = sums[half] * shrink + row_sum(sum);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
        }
        // After the sums: dropout is applied to probabilities, whose denominator is that of all keys.
        if (mask.dropped_below > 0) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                for (int i = 0; i < 4; i++) {
                    const unsigned query = first + warp * 16 + lane() / 4 + i / 2 * 8;
                    const unsigned key = at + n * 8 + 2 * (lane() % 4) + i % 2;
                    // The same index as in the other implementations of attention: the mask does
                    // not depend on tiles, so a backward may use other tiles than the forward.
                    s[n][i] *= mask.of((query * place.heads + place.head) * longest + key);
                }
            }
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            if (k * 16 >= left) continue;
            unsigned p[4];
            as_rows(p, s[2 * k], s[2 * k + 1]);
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                unsigned b[2][2];
                load_transposed(b, &values[stage][k * 16][n * 8], D + 8);
                multiply_add(o[n], p, b[0]);
                multiply_add(o[n + 1], p, b[1]);
            }
        }
    }
    if (!busy) return;
    // The division by the denominator is left to the end: once a row instead of once a probability.
    const float inverse[2] = {1.0f / sums[0], 1.0f / sums[1]};
    store<D>(o, place.kept(out, D), width, first + warp * 16, count, inverse);
    for (int half = 0; half < 2; half++) {
        const int r = first + warp * 16 + lane() / 4 + 8 * half;
        if (r < count && lane() % 4 == 0) {
            // Maximum and denominator in one number: ln Σ eˢ, all that the backward needs of the softmax.
            log_sums[(place.row + r) * place.heads + place.head] = top[half] + __logf(sums[half]);
        }
    }
}

// The probability of a query and a key after dropout, and the gradient of their score. The probability is computed again
// from the logarithm of the denominator, without a maximum: the forward took that into the logarithm.
struct Pair {
    float kept, gradient;

    __device__ Pair(float score, float log_sum, float dkept, float along, float scale, float factor) {
        const float probability = __expf(score - log_sum);
        kept = probability * factor;
        // `along` needs no factor: the output, from which it was computed, contains the mask
        // already.
        gradient = probability * (dkept * factor - along) * scale;
    }
};

// The gradients of keys and values: a block has KEYS keys, sixteen a warp, and walks over the queries. Scores are computed
// transposed, k · qᵀ, so that the keys are the rows of the accumulators.
template <int D>
__device__ void backward_keys(const bf16 *qkv, const unsigned *ids, const bf16 *dout, const float *log_sums,
                              const float *along, bf16 *dqkv, unsigned width, unsigned longest, float scale,
                              const unsigned *offsets, unsigned common, unsigned first_only, Mask mask) {
    // With `of_rows` 45,568 bytes at D = 80.
    alignas(16) __shared__ bf16 keys[KEYS][D + 8];
    alignas(16) __shared__ bf16 values[KEYS][D + 8];
    alignas(16) __shared__ bf16 queries[2][STEP][D + 8];
    alignas(16) __shared__ bf16 gradients[2][STEP][D + 8];
    __shared__ float of_rows[2][2][STEP];
    const Place place(offsets, common, first_only, width);
    const int first = blockIdx.x * KEYS, warp = threadIdx.x / 32, length = place.length, count = place.queries;
    if (first >= length) return;
    const size_t stride = 3 * static_cast<size_t>(width);
    const bool busy = first + warp * 16 < length;
    // Both belong to the first group of copies, which `load(0, 0)` below ends.
    load_tile<D, KEYS>(keys, place.part(qkv, 1, D), stride, first, length);
    load_tile<D, KEYS>(values, place.part(qkv, 2, D), stride, first, length);

    const int own = first + warp * 16 + lane() / 4;
    const float hide[2] = {hidden(ids, place, own), hidden(ids, place, own + 8)};
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    // A query beyond the end is all zeros, and so is its gradient: it adds nothing.
    const auto load = [&](int stage, int at) {
        load_tile<D, STEP>(queries[stage], place.part(qkv, 0, D), stride, at, count);
        load_tile<D, STEP>(gradients[stage], place.kept(dout, D), width, at, count);
        if (threadIdx.x < 2 * STEP) {
            const int r = threadIdx.x % STEP, which = threadIdx.x / STEP;
            const bool there = at + r < count;
            const size_t index = (place.row + at + r) * place.heads + place.head;
            copy_ahead<4>(&of_rows[stage][which][r], (which ? along : log_sums) + (there ? index : 0), there);
        }
        end_copies();
    };
    // Queries are walked in rising order, which fixes the order of additions to `dk` and `dv`.
    load(0, 0);
    for (int at = 0, stage = 0; at < count; at += STEP, stage ^= 1) {
        const bool another = at + STEP < count;
        if (at > 0) __syncthreads();
        if (another) load(stage ^ 1, at + STEP);
        await_tile(another);
        if (!busy) continue;
        float s[STEP / 8][4] = {}, d[STEP / 8][4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            unsigned a[4], b[2][2], value[4];
            load_rows(a, &keys[warp * 16][k * 16], D + 8);
            load_rows(value, &values[warp * 16][k * 16], D + 8);
#pragma unroll
            for (int n = 0; n < STEP / 8; n += 2) {
                load_columns(b, &queries[stage][n * 8][k * 16], D + 8);
                multiply_add(s[n], a, b[0]);
                multiply_add(s[n + 1], a, b[1]);
                load_columns(b, &gradients[stage][n * 8][k * 16], D + 8);
                multiply_add(d[n], value, b[0]);
                multiply_add(d[n + 1], value, b[1]);
            }
        }
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
            for (int i = 0; i < 4; i++) {
                const int column = n * 8 + 2 * (lane() % 4) + i % 2;
                const unsigned query = at + column, key = own + i / 2 * 8;
                const unsigned element = (query * place.heads + place.head) * longest + key;
                const float factor = mask.dropped_below > 0 ? mask.of(element) : 1.0f;
                const Pair pair(s[n][i] * scale + hide[i / 2], of_rows[stage][0][column], d[n][i], of_rows[stage][1][column], scale, factor);
                s[n][i] = pair.kept;
                d[n][i] = pair.gradient;
            }
        }
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
            unsigned p[4], ds[4], b[2][2];
            as_rows(p, s[2 * k], s[2 * k + 1]);
            as_rows(ds, d[2 * k], d[2 * k + 1]);
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                load_transposed(b, &gradients[stage][k * 16][n * 8], D + 8);
                multiply_add(dv[n], p, b[0]);
                multiply_add(dv[n + 1], p, b[1]);
                load_transposed(b, &queries[stage][k * 16][n * 8], D + 8);
                multiply_add(dk[n], ds, b[0]);
                multiply_add(dk[n + 1], ds, b[1]);
            }
        }
    }
    if (!busy) return;
    const float one[2] = {1.0f, 1.0f};
    // A block owns its keys: it stores without atomics, and `dqkv` needs no zeros before.
    store<D>(dk, place.part(dqkv, 1, D), stride, first + warp * 16, length, one);
    store<D>(dv, place.part(dqkv, 2, D), stride, first + warp * 16, length, one);
}

// The gradients of queries: a block has QUERIES queries, sixteen a warp, and walks over the keys, as the forward does.
template <int D>
__device__ void backward_queries(const bf16 *qkv, const unsigned *ids, const bf16 *dout, const float *log_sums,
                                 const float *along, bf16 *dqkv, unsigned width, unsigned longest, float scale,
                                 const unsigned *offsets, unsigned common, unsigned first_only, Mask mask) {
    // 45,056 bytes at D = 80, as in the forward.
    alignas(16) __shared__ bf16 staged[2][QUERIES][D + 8];
    alignas(16) __shared__ bf16 keys[2][STEP][D + 8];
    alignas(16) __shared__ bf16 values[2][STEP][D + 8];
    const Place place(offsets, common, first_only, width);
    const int first = blockIdx.x * QUERIES, warp = threadIdx.x / 32, length = place.length, count = place.queries;
    if (first >= length) return;
    const size_t stride = 3 * static_cast<size_t>(width);
    const bool busy = first + warp * 16 < count;
    // Queries and the gradients of the output are the same for all keys: registers hold them for
    // the whole loop, and shared memory is read for keys and values only.
    unsigned q[D / 16][4], g[D / 16][4];
    load_tile<D, QUERIES>(staged[0], place.part(qkv, 0, D), stride, first, count);
    load_tile<D, QUERIES>(staged[1], place.kept(dout, D), width, first, count);
    end_copies();
    load_pair<D, STEP>(keys[0], values[0], qkv, place, 0);
    await_tile(true);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        load_rows(q[k], &staged[0][warp * 16][k * 16], D + 8);
        load_rows(g[k], &staged[1][warp * 16][k * 16], D + 8);
    }

    // A row beyond the end has an infinite denominator: all its probabilities are zero.
    float dq[D / 8][4] = {}, log_sum[2], mean[2];
    for (int half = 0; half < 2; half++) {
        const int r = first + warp * 16 + lane() / 4 + 8 * half;
        const size_t index = (place.row + r) * place.heads + place.head;
        log_sum[half] = r < count ? log_sums[index] : INFINITY;
        mean[half] = r < count ? along[index] : 0.0f;
    }
    // Queries of tokens that are not pooled have no gradient, but nothing else writes their zeros.
    const int end = first < count ? length : 0;
    for (int at = 0, stage = 0; at < end; at += STEP, stage ^= 1) {
        const bool another = at + STEP < end;
        if (at > 0) __syncthreads();
        if (another) load_pair<D, STEP>(keys[stage ^ 1], values[stage ^ 1], qkv, place, at + STEP);
        await_tile(another);
        if (!busy) continue;
        const bool whole = !ids && another;
        float s[STEP / 8][4] = {}, d[STEP / 8][4] = {};
#pragma unroll
        for (int n = 0; n < STEP / 8; n += 2) {
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                unsigned b[2][2];
                load_columns(b, &keys[stage][n * 8][k * 16], D + 8);
                multiply_add(s[n], q[k], b[0]);
                multiply_add(s[n + 1], q[k], b[1]);
                load_columns(b, &values[stage][n * 8][k * 16], D + 8);
                multiply_add(d[n], g[k], b[0]);
                multiply_add(d[n + 1], g[k], b[1]);
            }
        }
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
            for (int i = 0; i < 4; i++) {
                const unsigned key = at + n * 8 + 2 * (lane() % 4) + i % 2;
                const unsigned query = first + warp * 16 + lane() / 4 + i / 2 * 8;
                const unsigned element = (query * place.heads + place.head) * longest + key;
                const float factor = mask.dropped_below > 0 ? mask.of(element) : 1.0f;
                const float score = s[n][i] * scale + (whole ? 0.0f : hidden(ids, place, key));
                d[n][i] = Pair(score, log_sum[i / 2], d[n][i], mean[i / 2], scale, factor).gradient;
            }
        }
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
            unsigned ds[4], b[2][2];
            as_rows(ds, d[2 * k], d[2 * k + 1]);
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                load_transposed(b, &keys[stage][k * 16][n * 8], D + 8);
                multiply_add(dq[n], ds, b[0]);
                multiply_add(dq[n + 1], ds, b[1]);
            }
        }
    }
    const float one[2] = {1.0f, 1.0f};
    store<D>(dq, place.part(dqkv, 0, D), stride, first + warp * 16, length, one);
}

} // namespace

// Σ p · dp of each row, which the derivative of softmax takes off, equals dout · out. A warp has one head of one row.
extern "C" __global__ void flash_along(const bf16 *out, const bf16 *dout, float *along, unsigned pairs, unsigned head_width) {
    const unsigned pair = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (pair >= pairs) return;
    const size_t start = static_cast<size_t>(pair) * head_width;
    float sum = 0;
    for (unsigned i = lane(); i < head_width; i += 32) {
        sum += __bfloat162float(out[start + i]) * __bfloat162float(dout[start + i]);
    }
    sum = warp_sum(sum);
    if (lane() == 0) along[pair] = sum;
}

#define FORWARD                                                                                                            \
    const bf16 *qkv, const unsigned *ids, bf16 *out, float *log_sums, unsigned width, unsigned longest, float scale,       \
        const unsigned *offsets, unsigned common, unsigned first_only, u64 key, u64 first_sample, unsigned dropped_below,  \
        float kept_scale
#define BACKWARD                                                                                                           \
    const bf16 *qkv, const unsigned *ids, const bf16 *dout, const float *log_sums, const float *along, bf16 *dqkv,         \
        unsigned width, unsigned longest, float scale, const unsigned *offsets, unsigned common, unsigned first_only,      \
        u64 key, u64 first_sample, unsigned dropped_below, float kept_scale
// blockIdx.z is the sequence of a block, hence its sample.
#define MASK mask_of(key, first_sample, dropped_below, kept_scale, blockIdx.z)
#define FORWARD_GIVEN qkv, ids, out, log_sums, width, longest, scale, offsets, common, first_only, MASK
#define BACKWARD_GIVEN qkv, ids, dout, log_sums, along, dqkv, width, longest, scale, offsets, common, first_only, MASK

// A kernel for each head width: arrays in registers and in shared memory need a constant D.
extern "C" __global__ void flash_forward_64(FORWARD) { forward<64>(FORWARD_GIVEN); }
extern "C" __global__ void flash_forward_80(FORWARD) { forward<80>(FORWARD_GIVEN); }
extern "C" __global__ void flash_backward_keys_64(BACKWARD) { backward_keys<64>(BACKWARD_GIVEN); }
extern "C" __global__ void flash_backward_keys_80(BACKWARD) { backward_keys<80>(BACKWARD_GIVEN); }
extern "C" __global__ void flash_backward_queries_64(BACKWARD) { backward_queries<64>(BACKWARD_GIVEN); }
extern "C" __global__ void flash_backward_queries_80(BACKWARD) { backward_queries<80>(BACKWARD_GIVEN); }
