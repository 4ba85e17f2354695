// Arithmetic, conversions, bits and loads of the CUDA Math API that C++ does not have.
#pragma once

// glibc declares some of these names itself, so they are macros.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN: 0
inline float sinpif(float x) { return float(sin(M_PI * fmod(double(x), 2.0))); }
inline float cospif(float x) { return float(cos(M_PI * fmod(double(x), 2.0))); }
inline double sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
inline double cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline void sincospi(double x, double* s, double* c) { *s = sinpi(x), *c = cospi(x); }

namespace trtforge_host {

/** A rounded number as an integer: saturated, and 0 for NaN (PTX ISA, cvt). */
template <typename Int>
Int saturated(double x) {
    using Limits = std::numeric_limits<Int>;
    if (x != x) return 0;
    if (x >= ldexp(1.0, Limits::digits)) return Limits::max();
    return x <= double(Limits::min()) ? Limits::min() : Int(x);
}

template <typename To, typename From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace trtforge_host

#define TRTFORGE_HOST_TO_INTEGER(name, from, to)                                             \
    inline to name##_rn(from x) { return trtforge_host::saturated<to>(nearbyint(x)); }       \
    inline to name##_rz(from x) { return trtforge_host::saturated<to>(trunc(x)); }           \
    inline to name##_rd(from x) { return trtforge_host::saturated<to>(floor(x)); }           \
    inline to name##_ru(from x) { return trtforge_host::saturated<to>(ceil(x)); }
TRTFORGE_HOST_TO_INTEGER(__float2int, float, int)
TRTFORGE_HOST_TO_INTEGER(__float2uint, float, unsigned)
TRTFORGE_HOST_TO_INTEGER(__float2ll, float, long long)
TRTFORGE_HOST_TO_INTEGER(__double2int, double, int)
TRTFORGE_HOST_TO_INTEGER(__double2ll, double, long long)
#undef TRTFORGE_HOST_TO_INTEGER
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

inline int __float_as_int(float x) { return trtforge_host::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return trtforge_host::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return trtforge_host::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return trtforge_host::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return trtforge_host::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return trtforge_host::same_bits<double>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(uint64_t(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned found = 0;
    for (int i = 0; i < 32; ++i) found |= (x >> i & 1) << (31 - i);
    return found;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }
inline int __mulhi(int x, int y) { return int(int64_t(x) * y >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned chosen) {
    const uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned found = 0;
    for (int i = 0; i < 4; ++i)
        found |= unsigned(bytes >> (chosen >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return found;
}

// Loads and stores with a hint for the cache.
#define TRTFORGE_HOST_LOAD(name)                \
    template <typename T>                       \
    T name(const T* from) { return *from; }
TRTFORGE_HOST_LOAD(__ldg)
TRTFORGE_HOST_LOAD(__ldca)
TRTFORGE_HOST_LOAD(__ldcg)
TRTFORGE_HOST_LOAD(__ldcs)
TRTFORGE_HOST_LOAD(__ldcv)
TRTFORGE_HOST_LOAD(__ldlu)
#undef TRTFORGE_HOST_LOAD
#define TRTFORGE_HOST_STORE(name)               \
    template <typename T>                       \
    void name(T* to, std::type_identity_t<T> value) { *to = value; }
TRTFORGE_HOST_STORE(__stcg)
TRTFORGE_HOST_STORE(__stcs)
TRTFORGE_HOST_STORE(__stwb)
TRTFORGE_HOST_STORE(__stwt)
#undef TRTFORGE_HOST_STORE
