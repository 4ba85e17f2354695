// [channels, space] turned to [space, channels], so that what is sampled at a place lies together.
#pragma once
#include "trtforge/pack.cuh"

namespace trtforge {

constexpr int kChannels = 8;  ///< that one thread samples; channels are padded to a multiple of it
constexpr int kTile = 64;

/** Copy one tile of x [samples, channels, space] to [samples, space, padded], by 256 threads.
 *
 * Channels come in segments (groups of a convolution), each padded by zeros to `padded`.
 */
template <typename T>
__device__ __forceinline__ void to_channels_last(
    const T* x, int samples, int segments, int channels, int space, T* to) {
    __shared__ T tile[kTile][kTile + 1];
    const int padded = (channels + kChannels - 1) / kChannels * kChannels;
    const int across = (space + kTile - 1) / kTile, down = (padded + kTile - 1) / kTile;
    const int column = blockIdx.x % across * kTile, row = blockIdx.x / across % down * kTile;
    const int segment = blockIdx.x / across / down;  // sample * segments + segment
    if (segment >= samples * segments) return;
    const T* from = x + size_t(segment) * channels * space;
#pragma unroll 8
    for (int i = threadIdx.x; i < kTile * kTile; i += 256) {
        const int c = row + i / kTile, s = column + i % kTile;
        tile[i / kTile][i % kTile] = c < channels && s < space ? from[size_t(c) * space + s] : T(0.0f);
    }
    __syncthreads();
    const int sample = segment / segments;
    for (int i = threadIdx.x; i < kTile * kTile / kChannels; i += 256) {
        const int s = i / (kTile / kChannels), c = i % (kTile / kChannels) * kChannels;
        if (column + s >= space || row + c >= padded) continue;
        Pack<T, kChannels> pack;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) pack.at[k] = tile[c + k][s];
        const size_t place = (size_t(sample) * space + column + s) * segments + segment % segments;
        store<true>(to + place * padded + row + c, pack, kChannels);
    }
}

}  // namespace trtforge
