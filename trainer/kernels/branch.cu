// Where two branches of a residual network meet.
#include "common.cuh"

// The gradient before a rectifier that gave `y`, in `dy` and in `copy`.
template <typename T>
static __device__ void branch_rectify(const T* y, T* dy, T* copy, unsigned count) {
    bool well = aligned(y) && aligned(dy) && aligned(copy);
    FOR_OCTETS(
        count, well,
        {
            float out[OCTET];
            float slope[OCTET];
            load8(y + i, out);
            load8(dy + i, slope);
            for (unsigned k = 0; k < OCTET; k++) slope[k] = out[k] > 0.0f ? slope[k] : 0.0f;
            store8(dy + i, slope);
            store8(copy + i, slope);
        },
        {
            float through = load(y + i) > 0.0f ? load(dy + i) : 0.0f;
            store(dy + i, through);
            store(copy + i, through);
        })
}

EXPORT(branch_rectify, (const T* y, T* dy, T* copy, unsigned count), (y, dy, copy, count))

template <typename T>
static __device__ void branch_add(const T* x, T* y, unsigned count) {
    bool well = aligned(x) && aligned(y);
    FOR_OCTETS(
        count, well,
        {
            float in[OCTET];
            float sum[OCTET];
            load8(x + i, in);
            load8(y + i, sum);
            for (unsigned k = 0; k < OCTET; k++) sum[k] += in[k];
            store8(y + i, sum);
        },
        store(y + i, load(y + i) + load(x + i)))
}

EXPORT(branch_add, (const T* x, T* y, unsigned count), (x, y, count))
