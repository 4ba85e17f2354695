// What CUDA's public headers need of its compiler's private ones, for the host's compiler.
#pragma once
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __host__
#define __device__
#define __inline__ inline
#define __forceinline__ inline
#define __CUDA_RUNTIME_API_H__  // vector_functions.h includes the runtime's API, but uses nothing of it
