// Kernels that do what no kernel may, for the tests of the emulator.
extern "C" __global__ void faulty_beyond(float *y, unsigned count) {
    if (threadIdx.x == 0) y[count] = 1.0f;
}

extern "C" __global__ void faulty_barrier(float *y) {
    if (threadIdx.x > 0) __syncthreads();
}

// Each thread takes its neighbour's number; right only where they wait for each other.
extern "C" __global__ void faulty_neighbour(float *y, unsigned waits) {
    __shared__ float shared[64];
    shared[threadIdx.x] = 0.0f;
    __syncthreads();
    shared[threadIdx.x] = (float)threadIdx.x;
    if (waits) __syncthreads();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}
