// The four pixels around a place of an image, which bilinear sampling adds up.
#pragma once
#include "trtforge/pack.cuh"

namespace trtforge {

/** Pixels row by row, as indices from `first` on; -1: outside, nothing is added. */
struct Corners {
    int4 at;
    float4 weight;
    Corners() = default;
    __device__ __forceinline__ Corners(int first, int height, int width, float y, float x, float share) {
        y = fminf(fmaxf(y, -2.0f), height + 1.0f);  // NaN and what no int holds lie outside
        x = fminf(fmaxf(x, -2.0f), width + 1.0f);
        const float top = floorf(y), left = floorf(x), fy = y - top, fx = x - left;
        const int row = int(top), column = int(left), here = first + row * width + column;
        const bool up = row >= 0 && row < height, down = row >= -1 && row < height - 1;
        const bool before = column >= 0 && column < width, behind = column >= -1 && column < width - 1;
        at = make_int4(up && before ? here : -1, up && behind ? here + 1 : -1,
                       down && before ? here + width : -1, down && behind ? here + width + 1 : -1);
        weight = make_float4((1 - fy) * (1 - fx) * share, (1 - fy) * fx * share, fy * (1 - fx) * share, fy * fx * share);
    }
};

__device__ const uint4 kNothing[2] = {};  ///< a pixel of zeros

/** N channels of a pixel, `stride` elements from the next one; outside, zeros.
 *
 * The address is chosen, not whether to load: the loads around a place then do not wait for each other.
 */
template <int N, bool Wide, typename T>
__device__ __forceinline__ Pack<T, N> pixel(const T* image, int at, int stride, int count) {
    static_assert(sizeof(T) * N <= sizeof kNothing);
    const char* inside = reinterpret_cast<const char*>(image) + size_t(unsigned(max(at, 0))) * unsigned(stride * int(sizeof(T)));
    const T* from = reinterpret_cast<const T*>(at < 0 ? reinterpret_cast<const char*>(kNothing) : inside);
    return load<N, Wide>(from, count);
}

template <int N, typename T>
__device__ __forceinline__ void add(const Pack<T, N>& pack, float weight, float (&sum)[N]) {
    float v[N];
    widen(pack, v);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = fmaf(weight, v[i], sum[i]);
}

/** Add up N channels around a place; the four loads do not wait for each other. */
template <int N, bool Wide, typename T>
__device__ __forceinline__ void sample(const T* image, const Corners& corners, int stride, int count, float (&sum)[N]) {
    const auto a = pixel<N, Wide>(image, corners.at.x, stride, count), b = pixel<N, Wide>(image, corners.at.y, stride, count);
    const auto c = pixel<N, Wide>(image, corners.at.z, stride, count), d = pixel<N, Wide>(image, corners.at.w, stride, count);
    add(a, corners.weight.x, sum);
    add(b, corners.weight.y, sum);
    add(c, corners.weight.z, sum);
    add(d, corners.weight.w, sum);
}

}  // namespace trtforge
