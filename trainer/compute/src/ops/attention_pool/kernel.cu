// Attention of a single query per image. Grid: (heads, images); a block of four warps takes one head of one image.
// Key and value of a token lie side by side; probabilities are fp32. With one query there is no matrix product
// that tensor cores could do: the keys and values are read once, and that is what takes the time.
#include "common.cuh"

// Tokens whose scores' gradients are in shared memory at a time: any number of tokens, one size of block.
enum : unsigned { PIECE = 256 };

// Where one head of one image lies.
struct Head {
    size_t q;      // its query and its output
    size_t key;    // its first key; the value is `width` further
    size_t row;    // its probabilities
    unsigned width, size, tokens;
};

static __device__ __forceinline__ Head head_of(unsigned heads, unsigned size, unsigned tokens) {
    Head head;
    size_t picture = blockIdx.y, index = blockIdx.x;
    head.width = heads * size, head.size = size, head.tokens = tokens;
    head.q = picture * head.width + index * size;
    head.key = picture * tokens * 2 * head.width + index * size;
    head.row = (picture * heads + index) * tokens;
    return head;
}

// The dot product of one head of two tokens, by a warp, in every thread of it.
template <typename T>
static __device__ __forceinline__ float dot(const T* a, const T* b, unsigned size) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x % 32; i < size; i += 32) sum += load(a + i) * load(b + i);
    return warp_sum(sum);
}

// The largest number over a block, in every thread.
static __device__ __forceinline__ float block_max(float value) {
    __shared__ float best[32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) best[warp] = value;
    __syncthreads();
    // Lanes without a warp repeat the first entry, which changes no maximum.
    return warp_max(best[lane < warps ? lane : 0]);
}

// Shapes: q, out [images, width]; kv [images, tokens, 2, width]; probabilities [images, heads, tokens].
template <typename T>
static __device__ void query_forward(const T* q, const T* kv, float* probabilities, T* out,
                                     unsigned heads, unsigned size, unsigned tokens, float scale) {
    Head head = head_of(heads, size, tokens);
    float* row = probabilities + head.row;
    unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
    // A warp for each token: its lanes read consecutive numbers of the key.
    for (unsigned token = warp; token < tokens; token += warps) {
        float score = dot(q + head.q, kv + head.key + (size_t)token * 2 * head.width, size) * scale;
        if (threadIdx.x % 32 == 0) row[token] = score;
    }
    __syncthreads();
    // The barrier above makes the scores in global memory visible to all threads of the block.
    // Softmax, with the maximum taken off so that no exponential overflows.
    float largest = -INFINITY, sum = 0.0f;
    for (unsigned token = threadIdx.x; token < tokens; token += blockDim.x)
        largest = fmaxf(largest, row[token]);
    largest = block_max(largest);
    for (unsigned token = threadIdx.x; token < tokens; token += blockDim.x) {
        row[token] = expf(row[token] - largest);
        sum += row[token];
    }
    sum = block_sum(sum);
    // A thread reads back only what it wrote itself: no barrier until the quotients are complete.
    for (unsigned token = threadIdx.x; token < tokens; token += blockDim.x) row[token] /= sum;
    __syncthreads();
    // A thread for each column of the output: it adds the tokens in their order.
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        const T* value = kv + head.key + head.width + i;
        float total = 0.0f;
        for (unsigned token = 0; token < tokens; token++)
            total += row[token] * load(value + (size_t)token * 2 * head.width);
        store(out + head.q + i, total);
    }
}

EXPORT(query_forward,
       (const T* q, const T* kv, float* probabilities, T* out, unsigned heads, unsigned size,
        unsigned tokens, float scale),
       (q, kv, probabilities, out, heads, size, tokens, scale))

// Shapes: as of query_forward; dq, dout as q, dkv as kv. Key and value of a token are written by one block, its head's.
template <typename T>
static __device__ void query_backward(const T* q, const T* kv, const float* probabilities,
                                      const T* out, const T* dout, T* dq, T* dkv, unsigned heads,
                                      unsigned size, unsigned tokens, float scale) {
    // Every warp writes the gradients of its tokens here, and then every thread reads all of them;
    // all threads read the same word at once, which is a broadcast and no bank conflict.
    __shared__ float dscores[PIECE];
    Head head = head_of(heads, size, tokens);
    const float* row = probabilities + head.row;
    unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
    q += head.q, out += head.q, dout += head.q, dq += head.q, kv += head.key, dkv += head.key;
    // Σ p · dp over the row, which the derivative of softmax takes off, equals dout · out: the output is kept, the
    // gradients of the probabilities are not.
    float mean = dot(dout, out, size);
    for (unsigned start = 0; start < tokens; start += PIECE) {
        unsigned end = start + PIECE < tokens ? start + PIECE : tokens;
        for (unsigned token = start + warp; token < end; token += warps) {
            const T* value = kv + (size_t)token * 2 * head.width + head.width;
            float dscore = row[token] * (dot(dout, value, size) - mean) * scale;
            if (threadIdx.x % 32 == 0) dscores[token - start] = dscore;
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
            // A thread owns a column: it adds the query's gradient over all tokens, and writes key and value of each. Between
            // pieces the sum waits in `dq`, rounded to T, as often as there are pieces: once for up to 256 tokens.
            float sum = start > 0 ? load(dq + i) : 0.0f, at_q = load(q + i), at_out = load(dout + i);
            for (unsigned token = start; token < end; token++) {
                size_t at = (size_t)token * 2 * head.width + i;
                float dscore = dscores[token - start];
                sum += dscore * load(kv + at);
                store(dkv + at, dscore * at_q);
                store(dkv + at + head.width, row[token] * at_out);
            }
            store(dq + i, sum);
        }
        __syncthreads();
    }
}

EXPORT(query_backward,
       (const T* q, const T* kv, const float* probabilities, const T* out, const T* dout, T* dq,
        T* dkv, unsigned heads, unsigned size, unsigned tokens, float scale),
       (q, kv, probabilities, out, dout, dq, dkv, heads, size, tokens, scale))
