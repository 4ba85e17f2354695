// Activations by the hardware's own instructions: an error of a few float32 roundings, few instructions.
#pragma once

namespace trtforge {

constexpr float kLog2E = 1.4426950409f;

/** 2^v; what is below the smallest normal number becomes 0. */
__device__ __forceinline__ float exp2_fast(float v) {
#ifdef __CUDA_ARCH__
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
    return result;
#else
    return exp2f(v);  // a test that runs kernels on the host
#endif
}

/** 1 / v; 0 for what is infinite. */
__device__ __forceinline__ float reciprocal_fast(float v) {
#ifdef __CUDA_ARCH__
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
    return result;
#else
    return 1.0f / v;
#endif
}

__device__ __forceinline__ float silu(float v) {
    return v * reciprocal_fast(1.0f + exp2_fast(-kLog2E * v));
}

/** 0.5 v (1 + tanh z) = v / (1 + exp(-2 z)) with z = sqrt(2 / pi) (v + 0.044715 v^3). */
__device__ __forceinline__ float gelu_tanh(float v) {
    constexpr float kLinear = -2.0f * kLog2E * 0.7978845608f;
    const float power = v * fmaf(kLinear * 0.044715f, v * v, kLinear);
    return v * reciprocal_fast(1.0f + exp2_fast(power));
}

/** 0.5 v (1 + erf(v / sqrt 2)) = v / (1 + exp(-z)), with z / v a polynomial of v^2.
 *
 * Its coefficients were fitted: the result y is off by 4e-6 + |y| / 2700 at most, which is the
 * rounding of float16. For |v| > 6 it is v or 0; there the polynomial must only not turn round.
 */
__device__ __forceinline__ float gelu_16_bit(float v) {
    constexpr float kConstant = -1.59426842f * kLog2E, kSquare = -0.0745806555f * kLog2E, kFourth = 0.000779389195f * kLog2E;
    const float square = fminf(v * v, 36.0f);
    const float power = v * fmaf(fmaf(kFourth, square, kSquare), square, kConstant);
    return v * reciprocal_fast(1.0f + exp2_fast(power));
}

/** The same for float32, whose results show the error of the shorter formula. */
__device__ __forceinline__ float gelu_32_bit(float v) {
    return 0.5f * v * (1.0f + erff(0.7071067812f * v));
}

}  // namespace trtforge
