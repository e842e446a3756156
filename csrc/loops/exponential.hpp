// exp(x) and 2^x of small vectors, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "loops/lanes.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

/// exp(x) for x <= 0, to rounding; zero where that is below the smallest normal number.
///
/// Write x = n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n exp(r).
///
/// n: the spacing of floats between 2^23 and 2^24 is one (doubles: 2^52 and 2^53). So adding
/// 1.5 * 2^23 rounds x / ln 2 to the nearest integer n and leaves n in the low bits of the sum. A
/// shift moves these bits into the exponent of exp(r), which multiplies it by 2^n.
///
/// r: n ln 2 would lose the digits that r needs. ln 2 is therefore split into a high part with
/// trailing zeros, whose product with n is exact, and the rest.
///
/// exp(r): Taylor's series, cut where the remainder (ln 2 / 2)^(k+1) / (k+1)! is below half a
/// rounding: 5e-9 after 7 terms for floats, 4e-18 after 13 for doubles.
template <typename T>
struct Exponential;

template <>
struct Exponential<float> {
    using Bits = std::int32_t;
    static constexpr int kMantissa = 23, kTerms = 7;
    static constexpr float kLowest = -87.0f, kMagic = 12582912.0f, kInverseLog2 = 1.44269504f;
    static constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;
    // The minimax polynomial of fifth degree for 2^r, with its first coefficient, 1 + 7e-8, set to
    // 1 so that it is exact at r = 0: a relative error of 1.6e-7 at most.
    static constexpr int kPowerTerms = 5;
    static constexpr float kPower[] = {1.0f,          0.6931469671f, 0.2402211972f,
                                       0.0555071327f, 0.0096755413f, 0.0013276472f};
    static constexpr float kLowestPower = -126.0f;
};

template <>
struct Exponential<double> {
    using Bits = std::int64_t;
    static constexpr int kMantissa = 52, kTerms = 13;
    static constexpr double kLowest = -700.0, kMagic = 6755399441055744.0;
    static constexpr double kInverseLog2 = 1.4426950408889634;
    static constexpr double kLog2High = 0.693147180369123816490, kLog2Low = 1.90821492927058770e-10;
    static constexpr int kPowerTerms = 13;  // Taylor's series
    static constexpr double kPower[] = {1.0,
                                        0.6931471805599453,
                                        0.24022650695910072,
                                        0.05550410866482158,
                                        0.009618129107628477,
                                        0.0013333558146428443,
                                        0.0001540353039338161,
                                        1.5252733804059841e-05,
                                        1.321548679014431e-06,
                                        1.01780860092397e-07,
                                        7.054911620801123e-09,
                                        4.4455382718708116e-10,
                                        2.5678435993488206e-11,
                                        1.3691488853904128e-12};
    static constexpr double kLowestPower = -1022.0;
};

/// p * 2^n, where n is in the low bits of `shifted`.
template <typename T, std::size_t L>
inline Lanes<T, L> times_power_of_two(const Lanes<T, L>& p, const Lanes<T, L>& shifted) {
    using E = Exponential<T>;
    Lanes<T, L> result;
#if defined(__GNUC__)
    typedef typename E::Bits Bits __attribute__((vector_size(sizeof(result))));
    Bits bits = reinterpret_cast<Bits>(p.v);
    bits += reinterpret_cast<Bits>(shifted.v) << E::kMantissa;
    result.v = reinterpret_cast<typename Lanes<T, L>::Vector>(bits);
#else
    typename E::Bits bits[L], exponent[L];
    std::memcpy(bits, &p.v, sizeof bits);
    std::memcpy(exponent, &shifted.v, sizeof exponent);
    for (std::size_t l = 0; l < L; ++l)
        bits[l] += static_cast<typename E::Bits>(
            static_cast<std::make_unsigned_t<typename E::Bits>>(exponent[l]) << E::kMantissa);
    std::memcpy(&result.v, bits, sizeof bits);
#endif
    return result;
}

/// x[i] = exp(x[i]). N vectors advance in step, because each product of Horner's rule waits for the
/// one before, and a single vector would leave the multipliers idle.
template <std::size_t N, typename T, std::size_t L>
inline void exponentials(Lanes<T, L> (&x)[N]) {
    using E = Exponential<T>;
    using V = Lanes<T, L>;
    V shifted[N], r[N], p[N];
    for (std::size_t i = 0; i < N; ++i) r[i] = larger(V::all(E::kLowest), x[i]);  // NaN stays
    for (std::size_t i = 0; i < N; ++i)
        shifted[i] = r[i] * V::all(E::kInverseLog2) + V::all(E::kMagic);
    for (std::size_t i = 0; i < N; ++i) {
        const V n = shifted[i] - V::all(E::kMagic);
        r[i] = (r[i] - n * V::all(E::kLog2High)) - n * V::all(E::kLog2Low);
    }
    T factorial = 1;
    for (int k = 2; k <= E::kTerms; ++k) factorial *= static_cast<T>(k);
    for (std::size_t i = 0; i < N; ++i) p[i] = V::all(T(1) / factorial);
    for (int k = E::kTerms; k > 0; --k) {
        factorial /= static_cast<T>(k);
        for (std::size_t i = 0; i < N; ++i) p[i] = p[i] * r[i] + V::all(T(1) / factorial);
    }
    for (std::size_t i = 0; i < N; ++i) {
        V result = times_power_of_two(p[i], shifted[i]);
#if defined(__GNUC__)
        typedef typename E::Bits Bits __attribute__((vector_size(sizeof(V))));
        Bits bits = reinterpret_cast<Bits>(result.v);
        bits &= ~(x[i].v < E::kLowest);  // NaN stays
        result.v = reinterpret_cast<typename V::Vector>(bits);
#else
        for (std::size_t l = 0; l < L; ++l)
            if (x[i].v[l] < E::kLowest) result.v[l] = 0;
#endif
        x[i] = result;
    }
}

template <typename T, std::size_t L>
inline Lanes<T, L> exponential(const Lanes<T, L>& argument) {
    Lanes<T, L> x[1] = {argument};
    exponentials(x);
    return x[0];
}

template <typename T>
inline Lanes<T, 1> exponential(const Lanes<T, 1>& argument) {
    T value, results[4];
    argument.store(&value);
    exponential(Lanes<T, 4>::all(value)).store(results);
    return Lanes<T, 1>::load(results);
}

/// x[n][i] = 2^x[n][i] for x <= 0, to a few roundings; about the smallest normal number where the
/// result would be below it; see `exponentials`.
template <typename T, std::size_t N, std::size_t L>
inline void powers_of_two(T (*x)[N][L], std::size_t count) {
    using E = Exponential<T>;
    using V = Lanes<T, L>;
    const V lowest = V::all(E::kLowestPower), magic = V::all(E::kMagic);
    for (std::size_t n = 0; n < count; ++n) {
        V r[N], shifted[N], p[N];
        for (std::size_t i = 0; i < N; ++i) r[i] = larger(V::load(x[n][i]), lowest);
        for (std::size_t i = 0; i < N; ++i) shifted[i] = r[i] + magic;
        for (std::size_t i = 0; i < N; ++i) r[i] = r[i] - (shifted[i] - magic);  // exact
        for (std::size_t i = 0; i < N; ++i) p[i] = V::all(E::kPower[E::kPowerTerms]);
        for (int k = E::kPowerTerms; k > 0; --k)
            for (std::size_t i = 0; i < N; ++i) p[i] = p[i] * r[i] + V::all(E::kPower[k - 1]);
        for (std::size_t i = 0; i < N; ++i) times_power_of_two(p[i], shifted[i]).store(x[n][i]);
    }
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
