// The joint of a residual block's two branches: eight numbers a thread.
#include "common.cuh"

// The gradient before the ReLU that gave `y`, in `dy` and in `copy`: each branch changes its own in place.
template <typename T>
static __device__ void branch_rectify(const T* y, T* dy, T* copy, u64 count) {
    for_octets(
        count, aligned(y) && aligned(dy) && aligned(copy),
        [&](size_t i) {
            float out[OCTET];
            float slope[OCTET];
            load8(y + i, out);
            load8(dy + i, slope);
            // The output of a ReLU is positive exactly where its input is: the input need not be
            // kept.
            for (unsigned k = 0; k < OCTET; k++) slope[k] = out[k] > 0.0f ? slope[k] : 0.0f;
            store8(dy + i, slope);
            store8(copy + i, slope);
        },
        [&](size_t i) {
            float through = load(y + i) > 0.0f ? load(dy + i) : 0.0f;
            store(dy + i, through);
            store(copy + i, through);
        });
}

EXPORT(branch_rectify, (const T* y, T* dy, T* copy, u64 count), (y, dy, copy, count))

template <typename T>
static __device__ void branch_add(const T* x, T* y, u64 count) {
    for_octets(
        count, aligned(x) && aligned(y),
        [&](size_t i) {
            float in[OCTET];
            float sum[OCTET];
            load8(x + i, in);
            load8(y + i, sum);
            for (unsigned k = 0; k < OCTET; k++) sum[k] += in[k];
            store8(y + i, sum);
        },
        [&](size_t i) { store(y + i, load(y + i) + load(x + i)); });
}

EXPORT(branch_add, (const T* x, T* y, u64 count), (x, y, count))
