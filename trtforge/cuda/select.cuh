// The places of what is chosen, in order: one kernel marks them by bits, the next one ranks them.
#pragma once

namespace trtforge {

constexpr int kSelectBlock = 256, kSelectWarps = kSelectBlock / 32;

/** Sum over the block of what earlier threads bring, and in `all` of what all bring. */
__device__ __forceinline__ int before_in_block(int mine, int& all) {
    __shared__ int of_warp[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    int sum = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
    }
    __syncthreads();  // an earlier call has been read
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    int before = sum - mine;
    all = 0;
    for (int i = 0; i < warps; ++i) {
        if (i < warp) before += of_warp[i];
        all += of_warp[i];
    }
    return before;
}

/** What the first kernel leaves to the second: a bit of each entry, and how many each block chose.
 *
 * Each warp has `words` words of 32 entries; blocks have kSelectWarps warps.
 */
struct Selection {
    int size, words, blocks;
    int* counts;  ///< [blocks]
    unsigned* bits;  ///< [blocks][kSelectWarps][words]
    __device__ __forceinline__ Selection(int size, int words, int blocks, int* workspace)
        : size(size), words(words), blocks(blocks), counts(workspace), bits(reinterpret_cast<unsigned*>(workspace + blocks)) {}
    __device__ __forceinline__ unsigned first_word(int block) const {
        return (unsigned(block) * kSelectWarps + threadIdx.x / 32) * words;
    }
};

/** Mark the entries of a block by packs of `N`, as long as 32 words of a warp are there; returns how many words it did.
 *
 * `bits_of(i)` tells which of entries `i` to `i + N - 1` are chosen; `count` is added to.
 */
template <int N, typename BitsOf>
__device__ __forceinline__ int mark_packs(const Selection& to, int block, BitsOf bits_of, int& count) {
    constexpr int kLanes = 32 / N;  // that have a word together, and loads that do not wait for each other
    const int lane = threadIdx.x % 32, turn = lane % kLanes;
    const unsigned first = to.first_word(block);
    int done = 0;
    for (; done + 32 <= to.words && (first + done + 32) * 32 <= unsigned(to.size); done += 32) {
        unsigned bits[kLanes], mine = 0;
#pragma unroll
        for (int i = 0; i < kLanes; ++i) bits[i] = bits_of((first + done + i * N) * 32 + lane * N) << (turn * N);
#pragma unroll
        for (int i = 0; i < kLanes; ++i) {
#pragma unroll
            for (int step = 1; step < kLanes; step *= 2) bits[i] |= __shfl_xor_sync(0xffffffffu, bits[i], step);
            if (turn == i) mine = bits[i];
        }
        to.bits[first + done + turn * N + lane / kLanes] = mine;
        count += __popc(mine);
    }
    return done;
}

/** Mark the entries of a block; `chosen(i)` tells which. The first `done` words are there, with `count` entries. */
template <typename Chosen>
__device__ __forceinline__ void mark_chosen(const Selection& to, int block, Chosen chosen, int done = 0, int count = 0) {
    constexpr int kAhead = 8;  // loads that do not wait for each other
    const int lane = threadIdx.x % 32;
    const unsigned first = to.first_word(block);
    int all;
    for (int i = done; i < to.words; i += kAhead) {
        bool is[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            const unsigned at = (first + i + j) * 32 + lane;
            is[j] = to.size > 0 && chosen(int(min(at, unsigned(to.size) - 1)));  // behind the end the last one again
            is[j] = is[j] && at < unsigned(to.size) && i + j < to.words;
        }
        unsigned mine = 0;
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
            const unsigned word = __ballot_sync(0xffffffffu, is[j]);
            if (lane == j) mine = word;
        }
        if (lane < kAhead && i + lane < to.words) to.bits[first + i + lane] = mine;
        count += __popc(mine);
    }
    before_in_block(count, all);
    if (threadIdx.x == 0) to.counts[block] = all;
}

/** Call `use(i, rank, chosen)` for the entries of a block: how many before `i` are chosen, and whether it is.
 *
 * The lanes of a warp call it together, also where `i` is behind the end. Returns how many are chosen up
 * to the end of this block.
 */
template <typename Use>
__device__ __forceinline__ int rank_chosen(const Selection& from, int block, Use use) {
    const int lane = threadIdx.x % 32;
    const unsigned first = from.first_word(block);
    int earlier = 0, mine = 0, before, here;
    for (int i = threadIdx.x; i < block; i += kSelectBlock) earlier += from.counts[i];
    for (int i = lane; i < from.words; i += 32) mine += __popc(from.bits[first + i]);
    before_in_block(earlier, before);
    int rank = before + __shfl_sync(0xffffffffu, before_in_block(mine, here), 0);
    for (int i = 0; i < from.words; i += 32) {
        const unsigned of_lane = i + lane < from.words ? from.bits[first + i + lane] : 0;
        for (int j = 0; j < min(32, from.words - i); ++j) {
            const unsigned word = __shfl_sync(0xffffffffu, of_lane, j);
            use(int((first + i + j) * 32 + lane), rank + __popc(word & ((1u << lane) - 1)), word >> lane & 1);
            rank += __popc(word);
        }
    }
    return before + here;
}

}  // namespace trtforge
