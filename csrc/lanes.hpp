// Small vectors and the loops over them, for the inner loops of one instruction set: everything is
// in that set's namespace, so that no other set can be handed its machine code.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

#if defined(__GNUC__)
template <typename T, std::size_t L>
struct VectorOf {
    typedef T Type __attribute__((vector_size(L * sizeof(T))));
};
template <typename T>
struct VectorOf<T, 1> {
    using Type = T;  // compilers make detours for a vector of one
};
#endif

/// L numbers that one or a few vector registers hold.
template <typename T, std::size_t L>
struct Lanes {
#if defined(__GNUC__)
    using Vector = typename VectorOf<T, L>::Type;
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

/// A row of W values, W at most 32, that stays in registers while it is summed up. It is made of
/// lanes and a shorter row: compilers keep an array of lanes in memory.
template <typename T, std::size_t W>
class Row {
    static constexpr std::size_t kLanes = W >= 8 ? 8 : W >= 4 ? 4 : 1;

public:
    /// Zeros; the width says again what the type says, as for a row of unknown width.
    explicit Row(std::size_t width) : rest_(width) {}

    /// this += weight * row
    void add(T weight, const T* row) {
        lanes_ = lanes_ + Lanes<T, kLanes>::all(weight) * Lanes<T, kLanes>::load(row);
        rest_.add(weight, row + kLanes);
    }

    void add(const Row& other) {
        lanes_ = lanes_ + other.lanes_;
        rest_.add(other.rest_);
    }

    void store(T* row) const {
        lanes_.store(row);
        rest_.store(row + kLanes);
    }

private:
    Lanes<T, kLanes> lanes_ = Lanes<T, kLanes>::all(T(0));
    Row<T, W - kLanes> rest_;
};

template <typename T>
class Row<T, 0> {
public:
    explicit Row(std::size_t) {}
    void add(T, const T*) {}
    void add(const Row&) {}
    void store(T*) const {}
};

/// The sum of rows whose width is known only at run time, as `Row` is for a known one.
template <typename T>
class LooseRow {
public:
    explicit LooseRow(std::size_t width) : width_(width) {}
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
    static constexpr int kPowerTerms = 7;
    static constexpr float kLowestPower = -126.0f, kLog2 = 0.693147181f;
};

template <>
struct Exponential<double> {
    using Bits = std::int64_t;
    static constexpr int kMantissa = 52, kTerms = 13;
    static constexpr double kLowest = -700.0, kMagic = 6755399441055744.0;
    static constexpr double kInverseLog2 = 1.4426950408889634;
    static constexpr double kLog2High = 0.693147180369123816490, kLog2Low = 1.90821492927058770e-10;
    static constexpr int kPowerTerms = 13;
    static constexpr double kLowestPower = -1022.0, kLog2 = 0.69314718055994530942;
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

template <typename T>
inline Lanes<T, 1> exponential(const Lanes<T, 1>& argument) {
    T one, values[4];
    argument.store(&one);
    exponential(Lanes<T, 4>::all(one)).store(values);
    return Lanes<T, 1>::load(values);
}

/// 2^-x for x >= 0, to rounding; where that is below the smallest normal number, about that number.
template <typename T, std::size_t L>
inline Lanes<T, L> inverse_power_of_two(const Lanes<T, L>& x) {
    using E = Exponential<T>;
    using V = Lanes<T, L>;
    const V exponent = larger(V::all(T(0)) - x, V::all(E::kLowestPower));
    const V shifted = exponent + V::all(E::kMagic);
    const V r = exponent - (shifted - V::all(E::kMagic));  // exact
    T term = 1;
    for (int k = 1; k <= E::kPowerTerms; ++k) term *= E::kLog2 / static_cast<T>(k);
    V p = V::all(term);
    for (int k = E::kPowerTerms; k > 0; --k) {
        term *= static_cast<T>(k) / E::kLog2;
        p = p * r + V::all(term);
    }
    return times_power_of_two(p, shifted);
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
