// ONNX's GridSample: values of x at places that a grid names, for two and three dimensions.
#pragma once
#include "trtforge/channels_last.cuh"

namespace trtforge {

enum class Padding { zeros, border, reflection };

/** Reflect at the borders until v lies between them. */
__device__ __forceinline__ float reflect(float v, float low, float high) {
    const float range = high - low;
    if (!(range > 0)) return low;
    if (v >= low && v <= high) return v;
    const float distance = v < low ? low - v : v - high;
    const int times = int(distance / range);
    const float rest = distance - times * range;
    return (v < low) == (times % 2 == 0) ? low + rest : high - rest;
}

/** Along one axis: the neighbours of a coordinate and their weights; Taps: 1 nearest, 2 linear, 4 cubic. */
template <int Taps, Padding padding, bool Align>
struct Neighbours {
    int at[Taps];  ///< -1: outside, nothing is added
    float weight[Taps];

    Neighbours() = default;
    __device__ __forceinline__ Neighbours(float coordinate, int length) {
        const float low = Align ? 0.0f : -0.5f, high = Align ? length - 1.0f : length - 0.5f;
        // Not fused: far outside, where reflection starts from, a rounding of v is a part of a pixel.
        const float from_edge = __fmul_rn(coordinate + 1, Align ? length - 1.0f : float(length));
        float v = (Align ? from_edge : __fadd_rn(from_edge, -1.0f)) / 2;
        v = fminf(fmaxf(v, -1e9f), 1e9f);  // NaN and what no int holds lie far outside
        if (Taps == 1) v = rintf(v);
        if (v < low || v > high) {
            if (padding == Padding::border && Taps != 4) v = fminf(fmaxf(v, 0.0f), length - 1.0f);
            if (padding == Padding::reflection) v = reflect(v, low, high);
        }
        const float base = Taps == 1 ? truncf(v) : floorf(v);
        weigh(v - base);
#pragma unroll
        for (int tap = 0; tap < Taps; ++tap) {
            int place = int(base) + tap - (Taps == 4);
            if (place < 0 || place >= length) {
                if (padding == Padding::zeros) place = -1;
                else if (padding == Padding::border) place = max(0, min(place, length - 1));
                else place = max(0, min(int(reflect(float(place), low, high)), length - 1));
            }
            at[tap] = place;
        }
    }

private:
    __device__ __forceinline__ void weigh(float f) {
        if constexpr (Taps == 1) weight[0] = 1;
        if constexpr (Taps == 2) {
            weight[0] = 1 - f;
            weight[1] = f;
        }
        if constexpr (Taps == 4) {  // Keys (1981) with -0.75
            constexpr float a = -0.75f;
            const float outer = f + 1, inner = 1 - f, far = 2 - f;
            weight[0] = ((a * outer - 5 * a) * outer + 8 * a) * outer - 4 * a;
            weight[1] = ((a + 2) * f - (a + 3)) * f * f + 1;
            weight[2] = ((a + 2) * inner - (a + 3)) * inner * inner + 1;
            weight[3] = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a;
        }
    }
};

/** Depth (1 in two dimensions), height and width. */
struct Volume {
    int depth, height, width;
};

/** Add up the neighbours of one place, kChannels channels at once; `x` is [depth, height, width, padded]. */
template <int Dims, int Taps, Padding padding, bool Align, typename T>
__device__ __forceinline__ void sample(
    const T* x, int padded, Volume volume, const T* place, float (&sum)[kChannels]) {
    using Axis = Neighbours<Taps, padding, Align>;
    const Axis across(float(place[0]), volume.width), down(float(place[1]), volume.height);
    Neighbours<Dims == 3 ? Taps : 1, padding, Align> deep;
    deep.at[0] = 0;
    deep.weight[0] = 1;
    if constexpr (Dims == 3) deep = Axis(float(place[2]), volume.depth);
#pragma unroll
    for (int k = 0; k < (Dims == 3 ? Taps : 1); ++k)
#pragma unroll
        for (int j = 0; j < Taps; ++j)
#pragma unroll
            for (int i = 0; i < Taps; ++i) {
                if ((deep.at[k] | down.at[j] | across.at[i]) < 0) continue;
                const int index = (deep.at[k] * volume.height + down.at[j]) * volume.width + across.at[i];
                const float weight = deep.weight[k] * down.weight[j] * across.weight[i];
                float v[kChannels];
                read(x + size_t(index) * padded, v);
#pragma unroll
                for (int c = 0; c < kChannels; ++c) sum[c] = fmaf(weight, v[c], sum[c]);
            }
}

/** One block of 256 threads: `packs` (1, 2, 4 or 8) packs of channels at 512 / packs places.
 *
 * x is [samples, volume, padded], grid [samples, points, Dims], y [samples, channels, points].
 */
template <int Dims, int Taps, Padding padding, bool Align, typename T>
__device__ __forceinline__ void grid_sample(
    const T* x, const T* grid, int samples, int channels, Volume volume, int points, int packs, T* y) {
    __shared__ T tile[512 * kChannels + 64];  // [channels][places + 1]
    const int places = 512 / packs, padded = (channels + kChannels - 1) / kChannels * kChannels;
    const int across = (points + places - 1) / places;
    const int down = (padded + packs * kChannels - 1) / (packs * kChannels);
    const int first = blockIdx.x % across * places, channel = blockIdx.x / across % down * packs * kChannels;
    const int sample_ = blockIdx.x / across / down;
    if (sample_ >= samples) return;
    const T* from = x + size_t(sample_) * volume.depth * volume.height * volume.width * padded;
    for (int i = threadIdx.x; i < 512; i += 256) {
        const int place = i / packs, c = i % packs * kChannels;
        if (first + place >= points || channel + c >= padded) continue;
        float sum[kChannels] = {};
        const T* at = grid + (size_t(sample_) * points + first + place) * Dims;
        sample<Dims, Taps, padding, Align>(from + channel + c, padded, volume, at, sum);
#pragma unroll
        for (int k = 0; k < kChannels; ++k) tile[(c + k) * (places + 1) + place] = T(sum[k]);
    }
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < 512 * kChannels; i += 256) {
        const int place = i % places, c = i / places;
        if (first + place < points && channel + c < channels)
            y[(size_t(sample_) * channels + channel + c) * points + first + place] = tile[c * (places + 1) + place];
    }
}

}  // namespace trtforge
