// Scaling before a value is rounded to 8 bits, as ONNX's QuantizeLinear defines it.
#pragma once

namespace trtforge {

/** v / by, rounded as a division is: the remainder corrects the product (Markstein, 1990). */
struct Quotient {
    float by, inverse;
    bool plain;  ///< the scale is so far from 1 that intermediates could overflow or lose bits
    __device__ __forceinline__ explicit Quotient(float scale)
        : by(scale), inverse(1.0f / scale),
          plain(!(fabsf(scale) > 1e-20f && fabsf(scale) < 1e20f)) {}
    __device__ __forceinline__ float operator()(float v) const {
        if (plain) return v / by;
        const float near = v * inverse;
        const float exact = fmaf(fmaf(-near, by, v), inverse, near);
        return fabsf(near) < 1e9f ? exact : near;  // far beyond saturation, infinite or NaN
    }
};

}  // namespace trtforge
