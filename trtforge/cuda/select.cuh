// The places of what is chosen, in order: counted per block, then numbered, then written.
#pragma once

namespace trtforge {

constexpr int kSelectBlock = 256, kSelectItems = 8, kSelectChunk = kSelectBlock * kSelectItems;

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

/** Write to `counts` how many of this block's chunk are chosen; `chosen(i)` tells it. */
template <typename Chosen>
__device__ __forceinline__ void count_chosen(int size, Chosen chosen, int* counts) {
    const int first = blockIdx.x * kSelectChunk + threadIdx.x * kSelectItems;
    int mine = 0, all;
    for (int i = first; i < min(size, first + kSelectItems); ++i) mine += chosen(i);
    before_in_block(mine, all);
    if (threadIdx.x == 0) counts[blockIdx.x] = all;
}

/** One block: replace the chunks' counts by the sums before them, and write the sum of all. */
__device__ __forceinline__ void number_chunks(int chunks, int* counts, int* total) {
    int sum = 0, all;
    for (int first = 0; first < chunks; first += blockDim.x) {
        const int at = first + threadIdx.x;
        const int before = before_in_block(at < chunks ? counts[at] : 0, all);
        if (at < chunks) counts[at] = sum + before;
        sum += all;
    }
    if (threadIdx.x == 0) *total = sum;
}

/** Call `use(i, rank)` for each entry of this block's chunk: how many up to it are chosen. */
template <typename Chosen, typename Use>
__device__ __forceinline__ void rank_chosen(int size, Chosen chosen, const int* before, Use use) {
    const int first = blockIdx.x * kSelectChunk + threadIdx.x * kSelectItems;
    const int end = min(size, first + kSelectItems);
    int mine = 0, all;
    for (int i = first; i < end; ++i) mine += chosen(i);
    int rank = before[blockIdx.x] + before_in_block(mine, all);
    for (int i = first; i < end; ++i) {
        rank += chosen(i);
        use(i, rank);
    }
}

/** Write the places of what is chosen in this block's chunk, in order. */
template <typename Chosen>
__device__ __forceinline__ void write_places(int size, Chosen chosen, const int* before, int* places) {
    rank_chosen(size, chosen, before, [&](int i, int rank) {
        if (chosen(i)) places[rank - 1] = i;
    });
}

}  // namespace trtforge
