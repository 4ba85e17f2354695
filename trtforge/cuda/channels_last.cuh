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
    const int first_row = threadIdx.x / kTile, of_row = threadIdx.x % kTile;
    const T* from = x + (size_t(segment) * channels + row + first_row) * space + column + of_row;
    const bool inside = column + of_row < space;
#pragma unroll
    for (int i = 0; i < kTile; i += 256 / kTile, from += 256 / kTile * size_t(space))
        tile[first_row + i][of_row] = inside && row + first_row + i < channels ? *from : T(0.0f);
    __syncthreads();
    constexpr int kN = kWide<T>, kThreads = kTile / kN;  // of a pixel: neighbours write bytes that lie together
    const int c = threadIdx.x % kThreads * kN, first = threadIdx.x / kThreads, sample = segment / segments;
    const size_t pixel = (size_t(sample) * space + column + first) * segments + segment - sample * segments;
    T* at = to + pixel * padded + row + c;
    if (row + c >= padded) return;
#pragma unroll
    for (int i = 0; i < kTile; i += 256 / kThreads, at += 256 / kThreads * size_t(segments) * padded) {
        if (column + first + i >= space) return;
        Pack<T, kN> pack;
#pragma unroll
        for (int k = 0; k < kN; ++k) pack.at[k] = tile[c + k][first + i];
        store<true>(at, pack, kN);
    }
}

}  // namespace trtforge
