// Scaling before a value is rounded to 8 bits, as ONNX's QuantizeLinear defines it.
#pragma once

namespace trtforge {

/** Whether a scale is so far from 1 that the quick ways below could overflow, or lose bits. */
__device__ __forceinline__ bool extreme(float scale) { return !(fabsf(scale) > 1e-20f && fabsf(scale) < 1e20f); }

/** v / by, rounded as a division is: the remainder corrects the product (Markstein, 1990). */
struct WideQuotient {
    float by, inverse;
    __device__ __forceinline__ explicit WideQuotient(float scale) : by(scale), inverse(1.0f / scale) {}
    __device__ __forceinline__ float operator()(float v) const {
        const float near = v * inverse;
        const float exact = fmaf(fmaf(-near, by, v), inverse, near);
        return fabsf(near) < 1e9f ? exact : near;  // far beyond saturation, infinite or NaN
    }
};

/** v / by for v of up to 11 bits, as float16 and bfloat16 have: 1 / by in two parts, within 2^-45.
 *
 * Rounded to INT8 or FP8 it is what the rounded division would be: of all v and scales only one pair
 * is nearer than 2^-44 to where that changes, and it comes out right (tests/test_quotient.py).
 */
struct ShortQuotient {
    float near, rest;  // of one sign, and rest is not 0: an infinite v stays infinite
    __device__ __forceinline__ explicit ShortQuotient(float scale) {
        const float inverse = 1.0f / scale;
        near = __uint_as_float(__float_as_uint(inverse) - 1);  // one step towards zero
        rest = fmaf(-near, scale, 1.0f) * inverse;
    }
    __device__ __forceinline__ float operator()(float v) const { return fmaf(v, near, v * rest); }
};

template <typename T>
struct QuotientOf {
    using type = ShortQuotient;
};
template <>
struct QuotientOf<float> {
    using type = WideQuotient;
};
/** What divides values of T by a scale that is not extreme. */
template <typename T>
using Quotient = typename QuotientOf<T>::type;

}  // namespace trtforge
