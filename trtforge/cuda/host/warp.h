// Barriers and warp functions (CUDA C++ Programming Guide, "Warp Vote", "Warp Shuffle" and others).
#pragma once

namespace trtforge_host {

template <typename T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/** The value of lane `source`, or one's own where that is outside of one's `width` lanes. */
template <typename T>
T shuffle(unsigned mask, T value, int source, int width, const char* what) {
    const int lane = machine->current % kWarp, first = lane / width * width;
    const Brought& brought = meet(mask, to_bits(value), what);
    return source < first || source >= first + width ? value : from_bits<T>(brought.values[source]);
}

template <typename T, typename Combine>
T reduce(unsigned mask, T value, Combine combine) {
    const Brought& brought = meet(mask, to_bits(value), "__reduce_sync");
    for (int i = 0; i < kWarp; ++i)
        if (i != machine->current % kWarp && brought.lanes >> i & 1)
            value = combine(value, from_bits<T>(brought.values[i]));
    return value;
}

inline unsigned vote(unsigned mask, bool predicate, const char* what) {
    const Brought& brought = meet(mask, predicate, what);
    unsigned found = 0;
    for (int i = 0; i < kWarp; ++i) found |= unsigned(brought.lanes >> i & brought.values[i] & 1) << i;
    return found;
}

}  // namespace trtforge_host

inline void __syncthreads() { trtforge_host::wait_for_block(false); }
inline int __syncthreads_count(int predicate) { return trtforge_host::wait_for_block(predicate != 0); }
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return !__syncthreads_count(!predicate); }
inline void __syncwarp(unsigned mask = ~0u) { trtforge_host::meet(mask, 0, "__syncwarp"); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { trtforge_host::pause(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int first = trtforge_host::machine->current % 32 / width * width;
    return trtforge_host::shuffle(mask, value, first + (source & (width - 1)), width, "__shfl_sync");
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int source = trtforge_host::machine->current % 32 ^ bits;
    return trtforge_host::shuffle(mask, value, source, width, "__shfl_xor_sync");
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int source = trtforge_host::machine->current % 32 - int(step);
    return trtforge_host::shuffle(mask, value, source, width, "__shfl_up_sync");
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int source = trtforge_host::machine->current % 32 + int(step);
    return trtforge_host::shuffle(mask, value, source, width, "__shfl_down_sync");
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return trtforge_host::vote(mask, predicate != 0, "__ballot_sync");
}
inline int __any_sync(unsigned mask, int predicate) {
    return trtforge_host::vote(mask, predicate != 0, "__any_sync") != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return trtforge_host::vote(mask, predicate == 0, "__all_sync") == 0;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    const uint64_t bits = trtforge_host::to_bits(value);
    const auto& brought = trtforge_host::meet(mask, bits, "__match_any_sync");
    unsigned found = 0;
    for (int i = 0; i < 32; ++i)
        found |= unsigned((brought.lanes >> i & 1) && brought.values[i] == bits) << i;
    return found;
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
    return trtforge_host::reduce(mask, value, [](T a, T b) { return T(unsigned(a) + unsigned(b)); });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
    return trtforge_host::reduce(mask, value, [](T a, T b) { return min(a, b); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
    return trtforge_host::reduce(mask, value, [](T a, T b) { return max(a, b); });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
    return trtforge_host::reduce(mask, value, [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return trtforge_host::reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
    return trtforge_host::reduce(mask, value, [](unsigned a, unsigned b) { return a ^ b; });
}
