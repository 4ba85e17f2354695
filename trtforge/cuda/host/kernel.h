// CUDA C++ for the host's compiler: what a kernel may use without including anything.
//
// Types and conversions are those of CUDA's own headers, which have code for the host; the rest is
// as the CUDA C++ Programming Guide and the CUDA Math API define it. Fast functions (__expf) are
// exact here. There is no __CUDA_ARCH__: a kernel with inline PTX needs an #ifdef of it.
#pragma once
#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#undef __shared__
#undef __global__
#undef __constant__
#undef __launch_bounds__
#undef __noinline__
#define __shared__ static
#define __global__ __attribute__((visibility("default")))
#define __constant__ static const
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

template <typename A, typename B>
constexpr auto min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(a) < T(b) ? T(a) : T(b);
}
template <typename A, typename B>
constexpr auto max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

#include "block.h"
#include "warp.h"
#include "atomic.h"
#include "arithmetic.h"

/** Offer `entry` to the caller in another language: see trtforge_host::launch. */
#define TRTFORGE_HOST_KERNEL(entry)                                                              \
    extern "C" __attribute__((visibility("default"))) const char* entry##_on_host(               \
        const void* const* arguments, const int* sizes, int count, int grid, int block,          \
        int shared_bytes, int reversed) {                                                        \
        return trtforge_host::launch(&entry, arguments, sizes, count, grid, block, shared_bytes, \
                                     reversed != 0);                                             \
    }
