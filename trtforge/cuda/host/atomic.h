// Atomics: fibers change only where they wait, so each is what it does, without a lock.
#pragma once

namespace trtforge_host {

template <typename T, typename Change>
T change(T* at, Change to) {
    const T old = *at;
    *at = to(old);
    return old;
}

template <typename T>
T add(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
        using U = std::make_unsigned_t<T>;
        return T(U(U(a) + U(b)));  // wraps round, as the hardware does
    } else {
        return a + b;
    }
}

}  // namespace trtforge_host

// The second argument's type is not deduced: it is converted, as CUDA's overloads do.
#define TRTFORGE_HOST_ATOMIC(name, result)                                           \
    template <typename T>                                                            \
    T name(T* at, std::type_identity_t<T> value) {                                   \
        return trtforge_host::change(at, [&](T old) -> T { return result; });        \
    }                                                                                \
    template <typename T>                                                            \
    T name##_block(T* at, std::type_identity_t<T> value) { return name(at, value); }

TRTFORGE_HOST_ATOMIC(atomicAdd, trtforge_host::add(old, value))
TRTFORGE_HOST_ATOMIC(atomicSub, trtforge_host::add(old, T(0 - value)))
TRTFORGE_HOST_ATOMIC(atomicExch, ((void)old, value))
TRTFORGE_HOST_ATOMIC(atomicMin, old < value ? old : value)
TRTFORGE_HOST_ATOMIC(atomicMax, old < value ? value : old)
TRTFORGE_HOST_ATOMIC(atomicAnd, old & value)
TRTFORGE_HOST_ATOMIC(atomicOr, old | value)
TRTFORGE_HOST_ATOMIC(atomicXor, old ^ value)
TRTFORGE_HOST_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
TRTFORGE_HOST_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef TRTFORGE_HOST_ATOMIC

template <typename T>
T atomicCAS(T* at, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
    return trtforge_host::change(at, [&](T old) { return old == compare ? value : old; });
}
