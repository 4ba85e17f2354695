// Products of matrices on tensor cores, by one warp, nearly as exact as float32.
#pragma once

namespace trtforge {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kSplit = false;  // a GPU without TF32
#else
constexpr bool kSplit = true;  // the CPU does as tensor cores do
#endif

/** The leading 11 bits of v, which tensor cores read. */
__device__ __forceinline__ unsigned cut_to_tf32(unsigned v) { return v & 0xffffe000u; }

/** Two numbers as `multiply` takes them.
 *
 * Tensor cores read 11 leading bits of TF32, so each number is the sum of a `high` one, rounded to
 * TF32, and a `low` one, of which they read as many: 2^-22 is lost. Infinity has no rest: its low
 * one is NaN. For GPUs without TF32 they are just two numbers.
 */
struct alignas(16) Pair {
    unsigned high[2], low[2];
    Pair() = default;
    __device__ __forceinline__ Pair(float first, float second)
        : high{high_of(first), high_of(second)}, low{low_of(first, high[0]), low_of(second, high[1])} {}

private:
    static __device__ __forceinline__ unsigned high_of(float v) {
        return kSplit ? cut_to_tf32(__float_as_uint(v) + 0x1000u) : __float_as_uint(v);
    }
    static __device__ __forceinline__ unsigned low_of(float v, unsigned high) {
        return kSplit ? __float_as_uint(v - __uint_as_float(high)) : 0;
    }
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
    const auto from = [](const Pair& pair, int i, int lane) {
        const unsigned long long both = __shfl_sync(0xffffffffu, (unsigned long long)(cut_to_tf32(pair.low[i])) << 32 | pair.high[i], lane);
        return make_float2(__uint_as_float(unsigned(both)), __uint_as_float(unsigned(both >> 32)));
    };
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        float2 b[N][2];  // high and low
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) b[n][i] = from(right[n], k / 4, (2 * t + i) * 4 + k % 4);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float2 a = from(left[m][row], k / 4, g * 4 + k % 4);
#pragma unroll
                for (int n = 0; n < N; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& to = sum[m][n][row * 2 + i];
                        if (kSplit) to = fmaf(a.y, b[n][i].x, to);
                        if (kSplit && !Short) to = fmaf(a.x, b[n][i].y, to);
                        to = fmaf(a.x, b[n][i].x, to);
                    }
            }
    }
#endif
}

}  // namespace trtforge
