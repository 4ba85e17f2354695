// Products of matrices on tensor cores, by one warp, nearly as exact as float32.
#pragma once

namespace trtforge {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

/** v as the sum of two numbers, of which tensor cores read the leading 11 bits: 2^-20 of v is lost at most. */
struct Halves {
    unsigned high, low;
    __device__ __forceinline__ explicit Halves(float v) : high(__float_as_uint(v) & 0xffffe000u) {
        low = __float_as_uint(v - __uint_as_float(high));
    }
    static __device__ __forceinline__ Halves maybe_infinite(float v) {  // infinity has no rest, and stays itself
        Halves halves(v);
        if (v == __uint_as_float(halves.high)) halves.low = 0;
        return halves;
    }
};

__device__ __forceinline__ void multiply_tf32(const unsigned (&a)[4], const unsigned (&b)[2], float (&sum)[4]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

/** sum += left * right, for 16 M x 8 N sums of eight products each.
 *
 * The threads of the warp hold the matrices as PTX's mma.m16n8k8 has them for TF32: thread 4 g + t
 * has of `left` rows g and g + 8 in columns t, then in columns t + 4; of `right` rows t and t + 4 in
 * column g; of `sum` row g, then row g + 8, in columns 2 t and 2 t + 1. Each number is split in two
 * and three of the four products are added (Markidis et al., "NVIDIA Tensor Core Programmability,
 * Performance & Precision", 2018); two where `Short` says that TF32 holds `left` exactly. `left`
 * must be finite. GPUs without TF32, and the CPU, multiply in float32.
 */
template <bool Short, int M, int N>
__device__ __forceinline__ void multiply(const float (&left)[M][4], const float (&right)[N][2], float (&sum)[M][N][4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned high[M][4], low[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Halves halves(left[m][i]);
            high[m][i] = halves.high;
            low[m][i] = halves.low;
        }
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const Halves first = Halves::maybe_infinite(right[n][0]), second = Halves::maybe_infinite(right[n][1]);
        const unsigned of_high[2] = {first.high, second.high}, of_low[2] = {first.low, second.low};
#pragma unroll
        for (int m = 0; m < M; ++m) {
            float part[4] = {};  // tensor cores cut instead of rounding: they add up few numbers only
            if (!Short) multiply_tf32(low[m], of_high, part);
            multiply_tf32(high[m], of_low, part);
            multiply_tf32(high[m], of_high, part);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[m][n][i] += part[i];
        }
    }
#else
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const auto from = [](float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); };
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        float b[N][2];
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) b[n][i] = from(right[n][k / 4], (2 * t + i) * 4 + k % 4);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float a = from(left[m][k / 4 * 2 + row], g * 4 + k % 4);
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) sum[m][n][row * 2 + i] = fmaf(a, b[n][i], sum[m][n][row * 2 + i]);
            }
    }
#endif
}

}  // namespace trtforge
