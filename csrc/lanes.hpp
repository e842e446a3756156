// Small vectors and the loops over them, for the inner loops of one instruction set: everything is
// in that set's namespace, so that no other set can be handed its machine code.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

/// L numbers that one or a few vector registers hold.
template <typename T, std::size_t L>
struct Lanes {
#if defined(__GNUC__)
    typedef T Vector __attribute__((vector_size(L * sizeof(T))));
    Vector v;
#else
    T v[L];
#endif

    static Lanes load(const T* from) {
        Lanes lanes;
        std::memcpy(&lanes.v, from, sizeof lanes.v);
        return lanes;
    }
    static Lanes all(T value) {
        Lanes lanes;
#if defined(__GNUC__)
        lanes.v = value - Vector{};
#else
        for (std::size_t l = 0; l < L; ++l) lanes.v[l] = value;
#endif
        return lanes;
    }
    void store(T* to) const { std::memcpy(to, &v, sizeof v); }

    template <typename Operation>
    static Lanes combine(const Lanes& a, const Lanes& b, Operation operation) {
        Lanes lanes;
#if defined(__GNUC__)
        lanes.v = operation(a.v, b.v);
#else
        for (std::size_t l = 0; l < L; ++l) lanes.v[l] = operation(a.v[l], b.v[l]);
#endif
        return lanes;
    }
    friend Lanes operator+(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x + y; });
    }
    friend Lanes operator-(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x - y; });
    }
    friend Lanes operator*(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x * y; });
    }
    friend Lanes larger(const Lanes& a, const Lanes& b) {
#if defined(__GNUC__) && defined(__AVX__)
        // One instruction, which compilers do not make of the comparison below.
        if constexpr (std::is_same_v<T, float> && L == 8) {
            Lanes lanes;
            lanes.v = _mm256_max_ps(a.v, b.v);
            return lanes;
        }
#endif
        return combine(a, b, [](auto x, auto y) { return x > y ? x : y; });
    }

    T sum() const {
        return fold([](const auto& a, const auto& b) { return a + b; });
    }
    T top() const {
        return fold([](const auto& a, const auto& b) { return larger(a, b); });
    }

private:
    /// Combine the two halves, then the halves of that, and so on down to one number.
    template <typename Operation>
    T fold(Operation operation) const {
        if constexpr (L == 1) {
            T one;
            std::memcpy(&one, &v, sizeof one);
            return one;
        } else {
            Lanes<T, L / 2> low, high;
            std::memcpy(&low.v, &v, sizeof low.v);
            std::memcpy(&high.v, reinterpret_cast<const char*>(&v) + sizeof low.v, sizeof high.v);
            return operation(low, high).template fold<Operation>(operation);
        }
    }
    template <typename, std::size_t>
    friend struct Lanes;
};

template <std::size_t N>
struct FixedWidth {
    constexpr operator std::size_t() const { return N; }
};

/// Call `body` with the width as a constant where it is a usual one, so that loops unroll.
template <typename Body>
inline void with_width(std::size_t width, Body&& body) {
    switch (width) {
        case 1:
            return body(FixedWidth<1>());
        case 2:
            return body(FixedWidth<2>());
        case 4:
            return body(FixedWidth<4>());
        case 8:
            return body(FixedWidth<8>());
        case 12:
            return body(FixedWidth<12>());
        case 16:
            return body(FixedWidth<16>());
        case 20:
            return body(FixedWidth<20>());
        case 24:
            return body(FixedWidth<24>());
        case 28:
            return body(FixedWidth<28>());
        case 32:
            return body(FixedWidth<32>());
        default:
            return body(width);
    }
}

/// Call `body(width, stride)` likewise for rows of marginals `width` wide that are computed in rows
/// of `stride`: as wide, or with room for one class more.
template <typename Body>
inline void with_rows(std::size_t width, std::size_t stride, Body&& body) {
    with_width(width, [&](auto w) {
        if (width == stride) {
            body(w, w);
        } else if constexpr (std::is_same_v<decltype(w), std::size_t>) {
            body(w, padded(w + 1));
        } else {
            body(w, FixedWidth<padded(w + 1)>());
        }
    });
}

/// Call `body(lanes tag, c)` for c in steps that cover 0..width: by eights, then fours, then ones.
template <typename T, typename Width, typename Body>
inline void for_lanes(Width width, Body&& body) {
    std::size_t c = 0;
    for (; c + 8 <= width; c += 8) body(Lanes<T, 8>(), c);
    if (c + 4 <= width) {
        body(Lanes<T, 4>(), c);
        c += 4;
    }
    for (; c < width; ++c) body(Lanes<T, 1>(), c);
}

/// A row of W values, W at most 32, that stays in registers while it is summed up.
template <typename T, std::size_t W>
class Row {
    static constexpr std::size_t kEights = W / 8, kRest = W % 8;
    static constexpr std::size_t kFour = kRest / 4, kOnes = kRest % 4;

public:
    /// Zeros; the width says again what the type says, as for a row of unknown width.
    explicit Row(std::size_t) {
        for (auto& lanes : eights_) lanes = Lanes<T, 8>::all(T(0));
        four_ = Lanes<T, 4>::all(T(0));
        for (auto& one : ones_) one = T(0);
    }

    void load(const T* row) {
        for (std::size_t i = 0; i < kEights; ++i) eights_[i] = Lanes<T, 8>::load(row + 8 * i);
        if (kFour > 0) four_ = Lanes<T, 4>::load(row + 8 * kEights);
        for (std::size_t i = 0; i < kOnes; ++i) ones_[i] = row[W - kOnes + i];
    }

    /// this += weight * row
    void add(T weight, const T* row) {
        for (std::size_t i = 0; i < kEights; ++i)
            eights_[i] = eights_[i] + Lanes<T, 8>::all(weight) * Lanes<T, 8>::load(row + 8 * i);
        if (kFour > 0)
            four_ = four_ + Lanes<T, 4>::all(weight) * Lanes<T, 4>::load(row + 8 * kEights);
        for (std::size_t i = 0; i < kOnes; ++i) ones_[i] += weight * row[W - kOnes + i];
    }

    void add(const Row& other) {
        for (std::size_t i = 0; i < kEights; ++i) eights_[i] = eights_[i] + other.eights_[i];
        if (kFour > 0) four_ = four_ + other.four_;
        for (std::size_t i = 0; i < kOnes; ++i) ones_[i] += other.ones_[i];
    }

    void store(T* row) const {
        for (std::size_t i = 0; i < kEights; ++i) eights_[i].store(row + 8 * i);
        if (kFour > 0) four_.store(row + 8 * kEights);
        for (std::size_t i = 0; i < kOnes; ++i) row[W - kOnes + i] = ones_[i];
    }

private:
    Lanes<T, 8> eights_[kEights > 0 ? kEights : 1];
    Lanes<T, 4> four_;
    T ones_[kOnes > 0 ? kOnes : 1];
};

/// The sum of rows whose width is known only at run time, as `Row` is for a known one.
template <typename T>
class LooseRow {
public:
    explicit LooseRow(std::size_t width) : width_(width) {}
    void load(const T* row) {
        for (std::size_t c = 0; c < width_; ++c) sum_[c] = row[c];
    }
    void add(T weight, const T* row) {
        for (std::size_t c = 0; c < width_; ++c) sum_[c] += weight * row[c];
    }
    void add(const LooseRow& other) { add(T(1), other.sum_); }
    void store(T* row) const {
        for (std::size_t c = 0; c < width_; ++c) row[c] = sum_[c];
    }

private:
    std::size_t width_;
    T sum_[kGroup] = {};
};

template <typename T, typename Width>
struct RowFor {
    using Type = LooseRow<T>;
};
template <typename T, std::size_t N>
struct RowFor<T, FixedWidth<N>> {
    using Type = Row<T, N>;
};
template <typename T, typename Width>
using RowOf = typename RowFor<T, Width>::Type;

/// The sum of lanes of several lengths, in an order that is the same on every vector unit.
template <typename T>
class Sum {
public:
    template <std::size_t L>
    void add(const Lanes<T, L>& lanes) {
        if constexpr (L == 8) {
            eights_ = eights_ + lanes;
        } else {
            rest_ += lanes.sum();
        }
    }
    T value() const { return rest_ + eights_.sum(); }

private:
    Lanes<T, 8> eights_ = Lanes<T, 8>::all(T(0));
    T rest_ = 0;
};

/// The sum and the largest of a row, in an order that is the same on every vector unit.
template <typename T, typename Width>
inline T row_sum(const T* row, Width width) {
    T sum = 0;
    Lanes<T, 8> eights = Lanes<T, 8>::all(T(0));
    for_lanes<T>(width, [&](auto tag, std::size_t c) {
        using V = decltype(tag);
        if constexpr (sizeof(V) == sizeof(eights)) {
            eights = eights + V::load(row + c);
        } else {
            sum += V::load(row + c).sum();
        }
    });
    return width < 8 ? sum : sum + eights.sum();
}

template <typename T, typename Width>
inline T row_top(const T* row, Width width) {
    T top = row[0];
    Lanes<T, 8> eights = Lanes<T, 8>::all(top);
    for_lanes<T>(width, [&](auto tag, std::size_t c) {
        using V = decltype(tag);
        if constexpr (sizeof(V) == sizeof(eights)) {
            eights = larger(eights, V::load(row + c));
        } else {
            const T other = V::load(row + c).top();
            top = other > top ? other : top;
        }
    });
    if (width < 8) return top;
    const T other = eights.top();
    return other > top ? other : top;
}

/// exp(x) for x <= 0, to rounding; zero where that is below the smallest normal number.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, exp(x) = 2^n exp(r). Adding 1.5 * 2^23 (1.5 * 2^52) leaves
/// n in the low bits of the sum, from where it moves into the exponent. exp(r) is Taylor's series,
/// cut where the remainder is below half a rounding.
template <typename T>
struct Exponential;

template <>
struct Exponential<float> {
    using Bits = std::int32_t;
    static constexpr int kMantissa = 23, kTerms = 7;
    static constexpr float kLowest = -87.0f, kMagic = 12582912.0f, kInverseLog2 = 1.44269504f;
    static constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;
    // The best polynomial of fifth degree for 2^r, with its first coefficient, 1 + 7e-8, set to 1
    // so that it is right at r = 0: at most 1.6e-7 off, relatively.
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

template <typename T, std::size_t L>
inline Lanes<T, L> exponential(const Lanes<T, L>& argument) {
    using E = Exponential<T>;
    using V = Lanes<T, L>;
    const V x = larger(V::all(E::kLowest), argument);  // NaN if the argument is
    const V shifted = x * V::all(E::kInverseLog2) + V::all(E::kMagic);
    const V n = shifted - V::all(E::kMagic);
    const V r = (x - n * V::all(E::kLog2High)) - n * V::all(E::kLog2Low);
    T factorial = 1;
    for (int k = 2; k <= E::kTerms; ++k) factorial *= static_cast<T>(k);
    V p = V::all(T(1) / factorial);
    for (int k = E::kTerms; k > 0; --k) {
        factorial /= static_cast<T>(k);
        p = p * r + V::all(T(1) / factorial);
    }
    V result = times_power_of_two(p, shifted);
#if defined(__GNUC__)
    typedef typename E::Bits Bits __attribute__((vector_size(sizeof(V))));
    Bits bits = reinterpret_cast<Bits>(result.v);
    bits &= ~(argument.v < E::kLowest);  // NaN stays
    result.v = reinterpret_cast<typename V::Vector>(bits);
#else
    for (std::size_t l = 0; l < L; ++l)
        if (argument.v[l] < E::kLowest) result.v[l] = 0;
#endif
    return result;
}

/// x[n][i] = 2^x[n][i] for x <= 0, to a few roundings; where that is below the smallest normal
/// number, about that number. N vectors go in step, as one alone would wait for each product to
/// end.
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
