// Chooses the loops for the processor that executes this.

#include "loops/loops.hpp"

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#elif defined(CRFRNN_X86)
#include <cpuid.h>
#endif

namespace crfrnn {
namespace {

enum class Level { baseline, avx2, avx512 };

#if !defined(CRFRNN_X86)
Level detect() {
    return Level::baseline;
}
#elif defined(_MSC_VER)
Level detect() {
    int info[4];
    __cpuid(info, 1);
    const bool fma = (info[2] & (1 << 12)) != 0 && (info[2] & (1 << 29)) != 0;
    // The system has to save the wide registers, too, when it switches threads.
    const bool saves_registers = (info[2] & (1 << 27)) != 0;
    if (!fma || !saves_registers || (_xgetbv(0) & 0x6) != 0x6) return Level::baseline;
    __cpuidex(info, 7, 0);
    constexpr int wide = (1 << 16) | (1 << 17) | (1 << 30) | static_cast<int>(1u << 31);
    if ((info[1] & wide) == wide && (_xgetbv(0) & 0xe6) == 0xe6) return Level::avx512;
    return (info[1] & (1 << 5)) != 0 ? Level::avx2 : Level::baseline;
}
#else
Level detect() {
    __builtin_cpu_init();
    // Not every compiler's __builtin_cpu_supports knows this one: conversion of half precision.
    unsigned a, b, c, d;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
    const bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return Level::avx512;
    return avx2 ? Level::avx2 : Level::baseline;
}
#endif

}  // namespace

template <typename T>
const Loops<T>& loops() {
    static const Level level = detect();
#if defined(CRFRNN_X86)
    if (level == Level::avx512) return avx512::table<T>();
    if (level == Level::avx2) return avx2::table<T>();
#else
    (void)level;
#endif
    return baseline::table<T>();
}
template const Loops<float>& loops<float>();
template const Loops<double>& loops<double>();

}  // namespace crfrnn
