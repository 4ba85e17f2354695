// Sorting keys and their places by digits of 8 bits, the least significant first, each in one pass over the
// data: "Onesweep" (Adinets and Merrill, 2022), whose tiles learn from earlier ones where theirs come by
// looking back (Merrill and Garland, "Single-pass Parallel Prefix Scan with Decoupled Look-back", 2016).
#pragma once

namespace trtforge {

constexpr int kSortBlock = 256, kSortWarps = kSortBlock / 32, kSortItems = 16, kSortTile = kSortBlock * kSortItems;
constexpr int kDigits = 256;

/** Unsigned numbers in the order of what they stand for: zeros are the same, and so are NaNs, which come last. */
__device__ __forceinline__ unsigned sort_key(int v) { return unsigned(v) ^ 0x80000000u; }
__device__ __forceinline__ unsigned long long sort_key(long long v) { return (unsigned long long)v ^ (1ull << 63); }
__device__ __forceinline__ unsigned sort_key(float v) {
    if (v != v) return 0xffffffffu;
    const unsigned bits = v == 0 ? 0u : __float_as_uint(v);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/** What a block of a sort keeps in shared memory. */
template <typename Key>
struct SortTile {
    union {
        Key keys[kSortTile];
        int places[kSortTile];
    };
    int ranks[kSortWarps][kDigits];  ///< of each warp's next key with this digit
    int first[kDigits];  ///< where the tile's keys with this digit go, less their rank
};

/** The lanes whose digit is this lane's. */
__device__ __forceinline__ unsigned same_digit(int digit) {
    unsigned same = 0xffffffffu;
#pragma unroll
    for (int bit = 1; bit < kDigits; bit *= 2) {
        const unsigned vote = __ballot_sync(0xffffffffu, digit & bit);
        same &= digit & bit ? vote : ~vote;
    }
    return same;
}

/** How many keys of earlier tiles have a digit, whose `states` are kDigits apart.
 *
 * A state is 0 before it is there; else 1 + the tile's own count, or, below 0, that of all up to it.
 */
__device__ __forceinline__ int look_back(const volatile int* states, int tile) {
    constexpr int kAhead = 8;  // loads that do not wait for each other
    int earlier = 0;
    for (int at = tile - 1, more = 1; more;) {
        int seen[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) seen[i] = at >= i ? states[(at - i) * kDigits] : -1;
#pragma unroll
        for (int i = 0, next = 1; i < kAhead; ++i) {
            next = next && more && seen[i];
            if (!next) continue;
            earlier += abs(seen[i]) - 1;
            more = seen[i] > 0;
            --at;
        }
    }
    return earlier;
}

/** Move a tile of keys and places to where they come by the digit above `shift`.
 *
 * `key(i)` and `place(i)` are read, `histogram` [kDigits] tells how many there are of each digit.
 */
template <typename Key, typename KeyOf, typename PlaceOf>
__device__ __forceinline__ void sort_tile(
    int size, int tile, int shift, KeyOf key, PlaceOf place, const int* histogram, volatile int* states,
    Key* keys_to, int* places_to, SortTile<Key>& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, digit = threadIdx.x;
    const int start = tile * kSortTile, here = min(kSortTile, size - start);
    const int first = warp * 32 * kSortItems + lane;
    const int of_all = histogram[digit];
    Key keys[kSortItems];
    int ranks[kSortItems], all;
#pragma unroll
    for (int i = 0; i < kSortItems; ++i) keys[i] = first + 32 * i < here ? key(start + first + 32 * i) : ~Key(0);
    for (int i = lane; i < kDigits; i += 32) shared.ranks[warp][i] = 0;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSortItems; ++i) {
        const int mine = int(keys[i] >> shift) & (kDigits - 1);
        const unsigned same = same_digit(mine), lower = same & ((1u << lane) - 1);
        ranks[i] = shared.ranks[warp][mine] + __popc(lower);
        __syncwarp();
        if (!lower) shared.ranks[warp][mine] = ranks[i] + __popc(same);
        __syncwarp();
    }
    __syncthreads();
    int count = 0;
    for (int i = 0; i < kSortWarps; ++i) count += shared.ranks[i][digit];
    states[tile * kDigits + digit] = tile ? 1 + count : -1 - count;
    const int of_tile = before_in_block(count, all);
    for (int i = 0, rank = of_tile; i < kSortWarps; ++i) {
        const int of_warp = shared.ranks[i][digit];
        shared.ranks[i][digit] = rank;
        rank += of_warp;
    }
    const int smaller = before_in_block(of_all, all), earlier = look_back(states + digit, tile);
    states[tile * kDigits + digit] = -1 - earlier - count;
    shared.first[digit] = smaller + earlier - of_tile;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSortItems; ++i) {
        ranks[i] += shared.ranks[warp][int(keys[i] >> shift) & (kDigits - 1)];
        shared.keys[ranks[i]] = keys[i];
    }
    __syncthreads();
    int to[kSortItems];  // neighbours write neighbours
#pragma unroll
    for (int i = 0; i < kSortItems; ++i) {
        const int at = threadIdx.x + kSortBlock * i;
        const Key moved = shared.keys[at];
        to[i] = shared.first[int(moved >> shift) & (kDigits - 1)] + at;
        if (at < here) keys_to[to[i]] = moved;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSortItems; ++i)
        if (first + 32 * i < here) shared.places[ranks[i]] = place(start + first + 32 * i);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSortItems; ++i) {
        const int at = threadIdx.x + kSortBlock * i;
        if (at < here) places_to[to[i]] = shared.places[at];
    }
}

}  // namespace trtforge
