// Scaling before a value is rounded to 8 bits, as ONNX's QuantizeLinear defines it.
#pragma once

namespace trtforge {

/** Whether a scale is so far from 1 that the quick way could overflow, or lose bits. */
__device__ __forceinline__ bool extreme(float scale) { return !(fabsf(scale) > 1e-20f && fabsf(scale) < 1e20f); }

/** v / by, rounded as a division is: the remainder corrects the product (Markstein, 1990). */
template <bool Extreme>
struct Quotient {
    float by, inverse;
    __device__ __forceinline__ explicit Quotient(float scale) : by(scale), inverse(1.0f / scale) {}
    __device__ __forceinline__ float operator()(float v) const {
        if constexpr (Extreme) {
            return v / by;
        } else {
            const float near = v * inverse;
            const float exact = fmaf(fmaf(-near, by, v), inverse, near);
            return fabsf(near) < 1e9f ? exact : near;  // far beyond saturation, infinite or NaN
        }
    }
};

}  // namespace trtforge
