// Sorting indices by what they stand for: a bitonic network (Batcher, 1968), one launch per stage.
#pragma once

namespace trtforge {

/** This thread's comparison in the stage that compares entries `distance` apart, of runs `run`.
 *
 * `less(a, b)` orders two indices strictly, so that equal values keep their order.
 */
template <typename Less>
__device__ __forceinline__ void compare_and_swap(int padded, int run, int distance, Less less, int* order) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x, other = at ^ distance;
    if (at >= padded || other < at) return;
    const int a = order[at], b = order[other];
    if (less(b, a) == ((at & run) == 0)) {
        order[at] = b;
        order[other] = a;
    }
}

}  // namespace trtforge
