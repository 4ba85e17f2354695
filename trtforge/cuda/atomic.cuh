// Atomic updates by any function of two values.
#pragma once

namespace trtforge {

template <int Bytes>
struct Word;
template <>
struct Word<4> {
    using type = unsigned;
};
template <>
struct Word<8> {
    using type = unsigned long long;
};

template <typename To, typename From>
__device__ __forceinline__ To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "a copy of bits keeps the size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

/** Sum and product wrap round for integers; the larger or smaller of a NaN and a number is NaN. */
template <typename T>
struct Wrapping {
    using type = T;
};
template <>
struct Wrapping<int> {
    using type = unsigned;
};
template <>
struct Wrapping<long long> {
    using type = unsigned long long;
};

struct Add {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        using Wide = typename Wrapping<T>::type;
        return T(Wide(a) + Wide(b));
    }
};
struct Mul {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        using Wide = typename Wrapping<T>::type;
        return T(Wide(a) * Wide(b));
    }
};
struct Max {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a > b || a != a ? a : b;
    }
};
struct Min {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a < b || a != a ? a : b;
    }
};

/** Replace `*at` by `combine(*at, value)`, also where other threads do so at the same time. */
template <typename T, typename Combine>
__device__ __forceinline__ void update(T* at, T value, Combine combine) {
    using Bits = typename Word<sizeof(T)>::type;
    Bits* word = reinterpret_cast<Bits*>(at);
    Bits seen = *word, expected;
    do {
        expected = seen;
        seen = atomicCAS(word, expected, same_bits<Bits>(combine(same_bits<T>(expected), value)));
    } while (seen != expected);
}

/** The same; the hardware adds float32 and int itself. */
__device__ __forceinline__ void update(float* at, float value, Add) { atomicAdd(at, value); }
__device__ __forceinline__ void update(int* at, int value, Add) { atomicAdd(at, value); }

}  // namespace trtforge
