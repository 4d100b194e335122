// Rows of tables by token, and their gradients, which are added in the order of the tokens: two tokens may have one id,
// and atomics would add their rows in any order.
#include "rows.cuh"

// Shapes: words [vocabulary, width]; positions [longest, width]; kind [width]; ids [tokens]; y [tokens, width].
// Grid: (sequences, positions of the longest); a block copies the row of one token.
template <typename T>
static __device__ void embedding_forward(const float* words, const float* positions, const float* kind,
                                         const unsigned* ids, T* y, unsigned width, Sequence s) {
    unsigned place = blockIdx.y;
    if (place >= s.tokens) return;
    words += (size_t)ids[s.token + place] * width;
    positions += (size_t)place * width;
    y += (s.token + place) * width;
    bool well = lie_well(width, words, positions, kind, y);
    walk_row(width, threadIdx.x, blockDim.x, [&](unsigned c, unsigned count) {
        float w[OCTET], p[OCTET], k[OCTET];
        load_some(words + c, well, count, w);
        load_some(positions + c, well, count, p);
        load_some(kind + c, well, count, k);
#pragma unroll
        // In the order of the CPU: floating-point addition is not associative.
        for (unsigned i = 0; i < OCTET; i++) w[i] = w[i] + k[i] + p[i];
        store_some(y + c, well, count, w);
    });
}

EXPORT(embedding_forward,
       (const float* words, const float* positions, const float* kind, const unsigned* ids, T* y,
        unsigned width, const unsigned* offsets, unsigned length, unsigned first),
       (words, positions, kind, ids, y, width, sequence_of(offsets, length, first, blockIdx.x)))

// A block for each token: the first token of an id adds the rows of all tokens with that id, in their order; the
// blocks of the others return. To find out, a block compares all tokens with its own, 256 at a time: a batch has
// thousands of tokens, and their ids stay in the cache.
template <typename T>
static __device__ void embedding_words(const unsigned* ids, const T* dy, float* words, unsigned tokens,
                                       unsigned width) {
    __shared__ unsigned found[256], of_warp[8];
    unsigned own = blockIdx.x, id = ids[own], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Padding is not trained.
    if (id == 0) return;
    for (unsigned start = 0; start < own; start += 256) {
        unsigned t = start + threadIdx.x;
        // All threads of the block return together: a barrier that some had left would never end.
        if (__syncthreads_or(t < own && ids[t] == id)) return;
    }
    words += (size_t)id * width;
    for (unsigned start = own; start < tokens; start += 256) {
        unsigned t = start + threadIdx.x;
        bool same = t < tokens && ids[t] == id;
        // Matches are compacted in order: a match goes behind those of the warps before and the lanes below.
        unsigned all = __ballot_sync(0xffffffffu, same);
        if (lane == 0) of_warp[warp] = (unsigned)__popc(all);
        __syncthreads();
        unsigned before = 0, count = 0;
        for (unsigned w = 0; w < 8; w++) {
            before += w < warp ? of_warp[w] : 0;
            count += of_warp[w];
        }
        if (same) found[before + (unsigned)__popc(all & ((1u << lane) - 1))] = t;
        __syncthreads();
        if (count == 0) continue;
        for (unsigned c = threadIdx.x; c < width; c += 256) {
            // No other block writes this row: a plain read and write, without atomics.
            float sum = words[c];
            for (unsigned i = 0; i < count; i++) sum += load(dy + (size_t)found[i] * width + c);
            words[c] = sum;
        }
        // `found` is read until here, and written again in the next round.
        __syncthreads();
    }
}

EXPORT(embedding_words, (const unsigned* ids, const T* dy, float* words, unsigned tokens, unsigned width),
       (ids, dy, words, tokens, width))

// A block for each position and 128 columns, which adds over the sequences in their order.
template <typename T>
static __device__ void embedding_positions(const T* dy, float* positions, unsigned sequences, unsigned width,
                                           const unsigned* offsets, unsigned length) {
    unsigned place = blockIdx.x, c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= width) return;
    float sum = positions[(size_t)place * width + c];
    for (unsigned i = 0; i < sequences; i++) {
        Sequence s = sequence_of(offsets, length, 0, i);
        if (place < s.tokens) sum += load(dy + (s.token + place) * width + c);
    }
    positions[(size_t)place * width + c] = sum;
}

EXPORT(embedding_positions,
       (const T* dy, float* positions, unsigned sequences, unsigned width, const unsigned* offsets,
        unsigned length, unsigned),
       (dy, positions, sequences, width, offsets, length))
