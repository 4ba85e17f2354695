// Rows of a matrix, each shared by `Lanes` threads that hold its elements in registers.
#pragma once
#include "trtforge/pack.cuh"

namespace trtforge {

struct Plus {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Larger {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/** Combine one value of each of the row's threads; all of them get the result.
 *
 * `Lanes` is a power of two: up to 32 of them share a warp, more are the whole block.
 */
template <int Lanes, typename Combine>
__device__ __forceinline__ float across(float value, Combine combine) {
    constexpr int kWarp = Lanes < 32 ? Lanes : 32;
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    if constexpr (Lanes > 32) {
        constexpr int kWarps = Lanes / 32;
        __shared__ float of_warp[kWarps];
        __syncthreads();  // an earlier call has been read
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
        __syncthreads();
        value = of_warp[threadIdx.x % kWarps];
#pragma unroll
        for (int step = kWarps / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    }
    return value;
}

/** One row of `columns` elements; a thread holds up to `Items` packs of `Width` of them.
 *
 * What does not fit the registers is read from memory each time, so every length is right.
 */
template <typename T, int Width, int Lanes, int Items>
class Row {
public:
    __device__ __forceinline__ Row(const T* row, int columns) : row_(row), columns_(columns) {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (start(i) < columns_) held_[i] = at(start(i));
    }

    /** Call `use(column, values)` for each of this thread's packs: const float (&values)[Width]. */
    template <typename Use>
    __device__ __forceinline__ void each(Use use) const {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (start(i) < columns_) {
                float values[Width];
                widen(held_[i], values);
                use(start(i), values);
            }
        for (int column = start(Items); column < columns_; column += Lanes * Width) {
            float values[Width];
            widen(at(column), values);
            use(column, values);
        }
    }

    /** Call `use(column, values, others)` for this row and another one of the same length. */
    template <typename Use>
    __device__ __forceinline__ void beside(const Row& other, Use use) const {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (start(i) < columns_) hand(start(i), held_[i], other.held_[i], use);
        for (int column = start(Items); column < columns_; column += Lanes * Width)
            hand(column, at(column), other.at(column), use);
    }

    /** The same as `each` with float (&values)[Width], which `use` may change; the change stays held.
     *
     * What is not held must be written to memory by `use`, and read from there: see `moved_to`.
     */
    template <typename Use>
    __device__ __forceinline__ void change(Use use) {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (start(i) < columns_) {
                float values[Width];
                widen(held_[i], values);
                use(start(i), values);
                held_[i] = narrow<T>(values);
            }
        for (int column = start(Items); column < columns_; column += Lanes * Width) {
            float values[Width];
            widen(at(column), values);
            use(column, values);
        }
    }

    /** Read what is not held from `row` from now on: each thread what it wrote there itself. */
    __device__ __forceinline__ void moved_to(const T* row) { row_ = row; }

    __device__ __forceinline__ float sum(float value) const { return across<Lanes>(value, Plus()); }
    __device__ __forceinline__ float max(float value) const { return across<Lanes>(value, Larger()); }

private:
    using Held = Pack<T, Width>;

    __device__ __forceinline__ int start(int item) const {
        return (item * Lanes + threadIdx.x % Lanes) * Width;
    }
    __device__ __forceinline__ Held at(int column) const {
        return *reinterpret_cast<const Held*>(row_ + column);
    }

    template <typename Use>
    static __device__ __forceinline__ void hand(int column, const Held& a, const Held& b, Use use) {
        float values[Width], others[Width];
        widen(a, values);
        widen(b, others);
        use(column, values, others);
    }

    const T* row_;
    int columns_;
    Held held_[Items];
};

}  // namespace trtforge
