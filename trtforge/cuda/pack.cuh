// Wide loads and stores: up to 16 bytes of one element type at a time, computed in float32.
#pragma once

namespace trtforge {

/** N elements that are read or written at once. */
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
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

template <int N, typename T>
__device__ __forceinline__ void read(const T* from, float (&to)[N]) {
    constexpr int kWidth = N * int(sizeof(T)) > 16 ? kWide<T> : N;
#pragma unroll
    for (int first = 0; first < N; first += kWidth) {
        const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(from + first);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) to[first + i] = float(pack.at[i]);
    }
}

template <int N, typename T>
__device__ __forceinline__ void write(T* to, const float (&from)[N]) {
    constexpr int kWidth = N * int(sizeof(T)) > 16 ? kWide<T> : N;
#pragma unroll
    for (int first = 0; first < N; first += kWidth) {
        Pack<T, kWidth> pack;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) pack.at[i] = T(from[first + i]);
        *reinterpret_cast<Pack<T, kWidth>*>(to + first) = pack;
    }
}

}  // namespace trtforge
