// Products of matrices on tensor cores, by one warp, nearly as exact as float32.
#pragma once

namespace trtforge {

/** Two numbers as `multiply` takes them.
 *
 * Tensor cores read 11 leading bits of TF32, or 8 of bfloat16, so each number is the sum of a `high`
 * one, rounded to TF32, and a `low` one. Where a low one is a factor, 2^-11 of the whole, 8 bits do for
 * both: of the highs, too, there is a copy in bfloat16. Infinity has no rest: its low one is NaN.
 * For GPUs without TF32, and for the CPU, they are just two numbers.
 */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
struct alignas(16) Pair {
    unsigned high[2], highs, lows;
    Pair() = default;
    __device__ __forceinline__ Pair(float first, float second) {
        high[0] = __float_as_uint(first) + 0x1000u & 0xffffe000u;
        high[1] = __float_as_uint(second) + 0x1000u & 0xffffe000u;
        highs = to_bfloat16(first, second);
        lows = to_bfloat16(first - __uint_as_float(high[0]), second - __uint_as_float(high[1]));
    }
    static __device__ __forceinline__ unsigned to_bfloat16(float first, float second) {
        unsigned both;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
        return both;
    }
};
#else
struct alignas(16) Pair {
    float at[4];
    Pair() = default;
    __device__ __forceinline__ Pair(float first, float second) : at{first, second, 0.0f, 0.0f} {}
};
#endif

/** sum += left * right, for 16 M x 8 N sums of eight products each.
 *
 * The threads of the warp hold the matrices as PTX's mma.m16n8k8 has them for TF32: thread 4 g + t
 * has of `left` row g, then row g + 8, in columns t and t + 4; of `right` rows t and t + 4 in column
 * g; of `sum` row g, then row g + 8, in columns 2 t and 2 t + 1. Of the four products of highs and lows
 * that of two lows, 2^-22, is left out (Markidis et al., "NVIDIA Tensor Core Programmability,
 * Performance & Precision", 2018); the two mixed ones are one product of sixteen columns. Tensor
 * cores cut instead of rounding: add few products to one sum.
 */
template <int M, int N>
__device__ __forceinline__ void multiply(const Pair (&left)[M][2], const Pair (&right)[N], float (&sum)[M][N][4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const Pair &a = left[m][0], &b = left[m][1];
            float(&to)[4] = sum[m][n];
            asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                : "+f"(to[0]), "+f"(to[1]), "+f"(to[2]), "+f"(to[3])
                : "r"(a.lows), "r"(b.lows), "r"(a.highs), "r"(b.highs), "r"(right[n].highs), "r"(right[n].lows));
            asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                : "+f"(to[0]), "+f"(to[1]), "+f"(to[2]), "+f"(to[3])
                : "r"(a.high[0]), "r"(b.high[0]), "r"(a.high[1]), "r"(b.high[1]), "r"(right[n].high[0]), "r"(right[n].high[1]));
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
            for (int i = 0; i < 2; ++i) b[n][i] = from(right[n].at[k / 4], (2 * t + i) * 4 + k % 4);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float a = from(left[m][row].at[k / 4], g * 4 + k % 4);
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) sum[m][n][row * 2 + i] = fmaf(a, b[n][i], sum[m][n][row * 2 + i]);
            }
    }
#endif
}

}  // namespace trtforge
