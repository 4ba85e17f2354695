// Wide loads and stores: several elements of one type at a time, computed in float32.
#pragma once

namespace trtforge {

/** N elements that are read or written at once, 16 bytes an access at most. */
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T at[N];
};

/** Elements of T in 16 bytes, the widest access of one thread. */
template <typename T>
constexpr int kWide = 16 / int(sizeof(T));

/** Whether all addresses allow accesses of `bytes` (a power of two). */
template <typename... Pointers>
__device__ __forceinline__ bool aligned(int bytes, Pointers... pointers) {
    return ((reinterpret_cast<size_t>(pointers) | ...) & (bytes - 1)) == 0;
}

template <typename T, int N>
__device__ __forceinline__ void widen(const Pack<T, N>& pack, float (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = float(pack.at[i]);
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> narrow(const float (&from)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = T(from[i]);
    return pack;
}

/** Load N elements: at once where `wide` says so, else the first `count`, and zeros. */
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* from, int count, bool wide) {
    if (wide) return *reinterpret_cast<const Pack<T, N>*>(from);
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = i < count ? from[i] : T(0.0f);
    return pack;
}

/** Store bytes that nobody reads soon: they are the first to leave the cache. */
template <typename T, int N>
__device__ __forceinline__ void stream(T* to, const Pack<T, N>& pack) {
    if constexpr (sizeof(pack) % 16 == 0) {
#pragma unroll
        for (int i = 0; i < int(sizeof(pack)) / 16; ++i)
            __stcs(reinterpret_cast<uint4*>(to) + i, reinterpret_cast<const uint4*>(&pack)[i]);
    } else if constexpr (sizeof(pack) == 8) {
        __stcs(reinterpret_cast<uint2*>(to), reinterpret_cast<const uint2&>(pack));
    } else {
        *reinterpret_cast<Pack<T, N>*>(to) = pack;
    }
}

/** Store N elements: at once where `wide` says so, else the first `count`. */
template <typename T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack, int count, bool wide) {
    if (wide) return stream(to, pack);
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (i < count) to[i] = pack.at[i];
}

/** Read N elements as float32. */
template <int N, typename T>
__device__ __forceinline__ void read(const T* from, float (&to)[N], int count = N, bool wide = true) {
    widen(load<N>(from, count, wide), to);
}

/** Round N float32 values to T and write them. */
template <int N, typename T>
__device__ __forceinline__ void write(T* to, const float (&from)[N], int count = N, bool wide = true) {
    store(to, narrow<T>(from), count, wide);
}

/** The strip of this block in a matrix whose rows are cut into strips: `Items` packs of N a thread. */
template <int N, int Items>
struct Strip {
    int row;
    int column;  ///< of this thread's first pack; the next one is `step` further
    int step;
    __device__ __forceinline__ explicit Strip(int columns) : step(blockDim.x * N) {
        const int strips = (columns + step * Items - 1) / (step * Items);
        row = int(blockIdx.x) / strips;
        column = int(blockIdx.x) % strips * step * Items + threadIdx.x * N;
    }
};

}  // namespace trtforge
