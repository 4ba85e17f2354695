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

/** Combine one value of each of the first threads' `Lanes`, a power of two up to 32; all get the result. */
template <int Lanes, typename Combine>
__device__ __forceinline__ float across_warp(float value, Combine combine) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

/** Combine one value of each of the row's threads; all of them get the result.
 *
 * `Lanes` is a power of two: up to 32 of them share a warp, more are the whole block. Two calls in
 * a row have different slots, so that one barrier each is enough: what the second writes, nobody
 * still reads.
 */
template <int Lanes, int Slot = 0, typename Combine>
__device__ __forceinline__ float across(float value, Combine combine) {
    value = across_warp<Lanes < 32 ? Lanes : 32>(value, combine);
    if constexpr (Lanes > 32) {
        constexpr int kWarps = Lanes / 32;
        __shared__ float of_warp[kWarps];
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
        __syncthreads();
        value = across_warp<kWarps>(of_warp[threadIdx.x % kWarps], combine);
    }
    return value;
}

struct Moments {
    float mean;
    float squares;  ///< sum of the squared distances to the mean
};

/** Says that what is read is not read again by other threads. */
struct Once {};

/** One row of `columns` elements; a thread holds up to `Items` packs of `Width` of them in registers,
 * and `Kept` more in shared memory.
 *
 * What does not fit there is read from memory each time, `Ahead` packs at once, so every length is
 * right. `Whole` says that there are just as many as fit (`kHeld`): nothing is compared then.
 */
template <typename T, int Width, int Lanes, int Items, int Ahead = 1, int Kept = 0, bool Whole = false>
class Row {
public:
    static constexpr int kHeld = Lanes * (Items + Kept) * Width;

    __device__ __forceinline__ Row(const T* row, int columns) : row_(row), columns_(columns) {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (has(i)) held_[i] = at(start(i));
    }

    __device__ __forceinline__ Row(const T* row, int columns, Once) : row_(row), columns_(columns) {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (has(i)) held_[i] = load_once<Width, true>(row + start(i), Width);
    }

    /** The same with shared memory for `Kept` packs of each of the block's threads. */
    __device__ __forceinline__ Row(const T* row, int columns, Once once, void* room) : Row(row, columns, once) {
        kept_ = reinterpret_cast<Held*>(room) + threadIdx.x;
#pragma unroll
        for (int i = 0; i < Kept; ++i)
            if (has(Items + i)) copy_pack(kept_ + i * blockDim.x, row + start(Items + i));
    }

    /** Call `use(column, values)` for each of this thread's packs: const float (&values)[Width]. */
    template <typename Use>
    __device__ __forceinline__ void each(Use use) const {
        each_held(use);
        each_other(use);
    }

    /** Call `use(column, values, values of the other rows...)` for rows of the same length. */
    template <typename Use, typename... Rows>
    __device__ __forceinline__ void beside(Use use, const Rows&... others) const {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (has(i)) use(start(i), Wide(held_[i]).at, Wide(others.held_[i]).at...);
        for (int column = start(Items); !Whole && column < columns_; column += Lanes * Width)
            use(column, Wide(at(column)).at, Wide(others.at(column)).at...);
    }

    /** The same with float (&values)[Width] of this row, which `use` may change; the change stays held.
     *
     * What is not held must be written to memory by `use`, and read from there: see `moved_to`.
     */
    template <typename Use, typename... Rows>
    __device__ __forceinline__ void change(Use use, const Rows&... others) {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (has(i)) {
                Wide values(held_[i]);
                use(start(i), values.at, Wide(others.held_[i]).at...);
                held_[i] = narrow<T>(values.at);
            }
        for (int column = start(Items); !Whole && column < columns_; column += Lanes * Width) {
            Wide values(at(column));
            use(column, values.at, Wide(others.at(column)).at...);
        }
    }

    __device__ __forceinline__ int columns() const { return Whole ? kHeld : columns_; }

    /** Read what is not held from `row` from now on: each thread what it wrote there itself. */
    __device__ __forceinline__ void moved_to(const T* row) { row_ = row; }

    __device__ __forceinline__ float sum(float value) const { return across<Lanes>(value, Plus()); }

    /** Mean and squared distances, which a large mean does not harm; once in a kernel.
     *
     * Each warp finds its own, then they are combined (Chan et al., 1979): one barrier in all.
     */
    __device__ __forceinline__ Moments moments() const {
        const int warp = Lanes > 32 ? threadIdx.x / 32 : 0, count = of_warp(warp, columns());
        const float per_held = 1.0f / max(of_warp(warp, min(columns(), kHeld)), 1);
        float sum = 0, squares = 0;
        each_held([&](int, const float (&v)[Width]) {
#pragma unroll
            for (int i = 0; i < Width; ++i) sum += v[i];
        });
        const float mean = across_warp<kWarp>(sum, Plus()) * per_held;
        const auto add_square = [&](int, const float (&v)[Width]) {
#pragma unroll
            for (int i = 0; i < Width; ++i) squares += (v[i] - mean) * (v[i] - mean);
        };
        each_held(add_square);
        Moments found{mean, across_warp<kWarp>(squares, Plus())};
        if (columns() > kHeld) {  // read once more, about the mean of what is held
            sum = squares = 0;
            each_other([&](int column, const float (&v)[Width]) {
#pragma unroll
                for (int i = 0; i < Width; ++i) sum += v[i] - mean;
                add_square(column, v);
            });
            const float distance = across_warp<kWarp>(sum, Plus()), moved = distance / max(count, 1);
            found.squares += across_warp<kWarp>(squares, Plus()) - distance * moved;
            found.mean += moved;
        }
        if constexpr (Lanes > 32) {
            constexpr int kWarps = Lanes / 32;
            __shared__ Moments of_warps[kWarps];
            if (threadIdx.x % 32 == 0) of_warps[warp] = found;
            const int part = of_warp(threadIdx.x % kWarps, columns());
            const float per_row = 1.0f / max(columns(), 1);
            __syncthreads();
            const Moments one = of_warps[threadIdx.x % kWarps];
            found.mean = across_warp<kWarps>(one.mean * part, Plus()) * per_row;
            const float distance = one.mean - found.mean;
            found.squares = across_warp<kWarps>(one.squares + distance * distance * part, Plus());
        }
        return found;
    }

private:
    using Held = Pack<T, Width>;
    static constexpr int kWarp = Lanes < 32 ? Lanes : 32;

    struct Wide {
        float at[Width];
        __device__ __forceinline__ explicit Wide(const Held& held) { widen(held, at); }
    };

    __device__ __forceinline__ int start(int item) const {
        return (item * Lanes + threadIdx.x % Lanes) * Width;
    }
    __device__ __forceinline__ bool has(int item) const { return Whole || start(item) < columns_; }
    __device__ __forceinline__ Held at(int column) const {
        return *reinterpret_cast<const Held*>(row_ + column);
    }
    template <typename Use>
    __device__ __forceinline__ void each_held(Use use) const {
#pragma unroll
        for (int i = 0; i < Items; ++i)
            if (has(i)) use(start(i), Wide(held_[i]).at);
        if constexpr (Kept > 0) {
            wait_for_copies();
#pragma unroll 4
            for (int i = 0; i < Kept; ++i)
                if (has(Items + i)) use(start(Items + i), Wide(kept_[i * blockDim.x]).at);
        }
    }
    template <typename Use>
    __device__ __forceinline__ void each_other(Use use) const {
        for (int item = Items + Kept; !Whole && item * Lanes * Width < columns_; item += Ahead) {
            Held held[Ahead];  // all loads start before the first use
#pragma unroll
            for (int i = 0; i < Ahead; ++i)
                if (start(item + i) < columns_) held[i] = at(start(item + i));
#pragma unroll
            for (int i = 0; i < Ahead; ++i)
                if (start(item + i) < columns_) use(start(item + i), Wide(held[i]).at);
        }
    }
    /** How many of the first `columns` elements the threads of a warp have. */
    static __device__ __forceinline__ int of_warp(int warp, int columns) {
        constexpr int kStep = Lanes * Width, kOwn = kWarp * Width;
        return columns / kStep * kOwn + min(max(columns % kStep - warp * kOwn, 0), kOwn);
    }

    const T* row_;
    int columns_;
    Held held_[Items];
    Held* kept_ = nullptr;  ///< in shared memory; the block's threads one behind the other
};

}  // namespace trtforge
