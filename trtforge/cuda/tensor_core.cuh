// Products of matrices on tensor cores, by one warp, nearly as exact as float32.
#pragma once

namespace trtforge {

/** Two numbers as `multiply` takes them.
 *
 * Tensor cores read 11 leading bits of TF32, so each number is the sum of a `high` one, rounded to
 * TF32, and a `low` one, of which they read as many: 2^-22 is lost. Infinity has no rest: its low
 * one is NaN. For GPUs without TF32, and for the CPU, they are just two numbers.
 */
struct alignas(16) Pair {
    unsigned high[2], low[2];
    Pair() = default;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    __device__ __forceinline__ Pair(float first, float second)
        : high{to_tf32(first), to_tf32(second)},
          low{__float_as_uint(first - __uint_as_float(high[0])), __float_as_uint(second - __uint_as_float(high[1]))} {}
    static __device__ __forceinline__ unsigned to_tf32(float v) { return __float_as_uint(v) + 0x1000u & 0xffffe000u; }
#else
    __device__ __forceinline__ Pair(float first, float second)
        : high{__float_as_uint(first), __float_as_uint(second)}, low{0, 0} {}
#endif
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply_tf32(
    const unsigned (&above)[2], const unsigned (&below)[2], const unsigned (&right)[2], float (&sum)[4]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(above[0]), "r"(below[0]), "r"(above[1]), "r"(below[1]), "r"(right[0]), "r"(right[1]));
}
#endif

/** sum += left * right, for 16 M x 8 N sums of eight products each.
 *
 * The threads of the warp hold the matrices as PTX's mma.m16n8k8 has them for TF32: thread 4 g + t
 * has of `left` row g, then row g + 8, in columns t and t + 4; of `right` rows t and t + 4 in column
 * g; of `sum` row g, then row g + 8, in columns 2 t and 2 t + 1. Of the four products of highs and lows
 * that of two lows, 2^-22, is left out (Markidis et al., "NVIDIA Tensor Core Programmability,
 * Performance & Precision", 2018), and those of lows of `right` where TF32 holds it exactly: `Short`.
 * Tensor cores cut instead of rounding: add few products to one sum.
 */
template <bool Short, int M, int N>
__device__ __forceinline__ void multiply(const Pair (&left)[M][2], const Pair (&right)[N], float (&sum)[M][N][4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const Pair &above = left[m][0], &below = left[m][1];
            multiply_tf32(above.low, below.low, right[n].high, sum[m][n]);
            if (!Short) multiply_tf32(above.high, below.high, right[n].low, sum[m][n]);
            multiply_tf32(above.high, below.high, right[n].high, sum[m][n]);
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
            for (int i = 0; i < 2; ++i) b[n][i] = from(__uint_as_float(right[n].high[k / 4]), (2 * t + i) * 4 + k % 4);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float a = from(__uint_as_float(left[m][row].high[k / 4]), g * 4 + k % 4);
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) sum[m][n][row * 2 + i] = fmaf(a, b[n][i], sum[m][n][row * 2 + i]);
            }
    }
#endif
}

}  // namespace trtforge
