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

/** The same pointer, of which the compiler knows no parts that it would add up again for each access. */
template <typename T>
__device__ __forceinline__ const T* opaque(const T* pointer) {
#ifdef __CUDA_ARCH__
    asm("" : "+l"(pointer));
    __builtin_assume(__isGlobal(pointer));
#endif
    return pointer;
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

/** Load N elements: all at once where `Wide`, else the first `count`, and zeros.
 *
 * `Wide` is known to the compiler: a branch between the two would make it take packs to pieces.
 */
template <int N, bool Wide, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* from, int count) {
    if constexpr (Wide) {
        return *reinterpret_cast<const Pack<T, N>*>(from);
    } else {
        Pack<T, N> pack;
#pragma unroll
        for (int i = 0; i < N; ++i) pack.at[i] = i < count ? from[i] : T(0.0f);
        return pack;
    }
}

/** The same for what is read once: it does not push others out of the L1 cache. */
template <int N, bool Wide, typename T>
__device__ __forceinline__ Pack<T, N> load_once(const T* from, int count) {
#ifdef __CUDA_ARCH__
    if constexpr (Wide && sizeof(T) * N % 16 == 0) {
        Pack<T, N> pack;
#pragma unroll
        for (int i = 0; i < int(sizeof pack) / 16; ++i) {
            uint4 part;
            asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                : "=r"(part.x), "=r"(part.y), "=r"(part.z), "=r"(part.w)
                : "l"(reinterpret_cast<const uint4*>(from) + i));
            memcpy(pack.at + i * kWide<T>, &part, sizeof part);
        }
        return pack;
    }
#endif
    return load<N, Wide>(from, count);
}

/** Copy a pack to shared memory past the registers; the thread itself may read it after `wait_for_copies`.
 *
 * `Last`: nobody reads it again soon, so it is the first to leave the L2 cache.
 */
template <bool Last = false, typename T, int N>
__device__ __forceinline__ void copy_pack(Pack<T, N>* to, const T* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(Pack<T, N>) % 16 == 0) {
        unsigned long long policy = 0;
        if constexpr (Last) asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#pragma unroll
        for (int i = 0; i < int(sizeof(Pack<T, N>)) / 16; ++i) {
            const unsigned there = unsigned(__cvta_generic_to_shared(to)) + 16 * i;
            const char* here = reinterpret_cast<const char*>(from) + 16 * i;
            if constexpr (Last)
                asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;"
                    : : "r"(there), "l"(here), "l"(policy) : "memory");
            else asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(there), "l"(here) : "memory");
        }
        return;
    }
#endif
    *to = load<N, true>(from, N);
}

__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

/** Close a group of copies: those since the last one, or none. */
__device__ __forceinline__ void close_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

/** Wait for all groups of copies but the `Later` last ones. */
template <int Later>
__device__ __forceinline__ void wait_for_groups() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(Later) : "memory");
#endif
}

/** Store N elements: all at once where `Wide`, else the first `count`. */
template <bool Wide, typename T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack, int count) {
    if constexpr (Wide) {
        *reinterpret_cast<Pack<T, N>*>(to) = pack;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i < count) to[i] = pack.at[i];
    }
}

/** Read N elements as float32. */
template <bool Wide = true, int N, typename T>
__device__ __forceinline__ void read(const T* from, float (&to)[N], int count = N) {
    widen(load<N, Wide>(from, count), to);
}

/** Round N float32 values to T and write them. */
template <bool Wide = true, int N, typename T>
__device__ __forceinline__ void write(T* to, const float (&from)[N], int count = N) {
    store<Wide>(to, narrow<T>(from), count);
}

/** The same for what is not read again soon: it is the first to leave the cache. */
template <bool Wide = true, int N, typename T>
__device__ __forceinline__ void stream(T* to, const float (&from)[N], int count = N) {
    if constexpr (Wide && sizeof(T) * N % 16 == 0) {
        const Pack<T, N> pack = narrow<T>(from);
#pragma unroll
        for (int i = 0; i < int(sizeof pack) / 16; ++i) {
            uint4 part;
            memcpy(&part, pack.at + i * kWide<T>, sizeof part);
            __stcs(reinterpret_cast<uint4*>(to) + i, part);
        }
    } else {
        write<Wide>(to, from, count);
    }
}

/** Divides by a number that stays the same: a product, not the slow division of integers. */
struct Divisor {
    unsigned by, inverse;
    __device__ __forceinline__ explicit Divisor(int number) : by(number), inverse(0xffffffffu / by) {}
    __device__ __forceinline__ int operator()(int v) const {  // not negative
        const unsigned near = __umulhi(v, inverse);  // at most one too small
        return near + (v - near * by >= by);
    }
};

/** The strip of this block in a matrix whose rows are cut into strips: `Items` packs of N for each of `Block` threads. */
template <int N, int Items, int Block>
struct Strip {
    static constexpr int step = Block * N;
    int row;
    int column;  ///< of this thread's first pack; the next one is `step` further
    __device__ __forceinline__ explicit Strip(int columns) {
        const int strips = (columns + step * Items - 1) / (step * Items);
        row = strips == 1 ? int(blockIdx.x) : int(blockIdx.x) / strips;  // a division would delay the first load
        column = (int(blockIdx.x) - row * strips) * step * Items + threadIdx.x * N;
    }
};

}  // namespace trtforge
