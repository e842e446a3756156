// Small vectors and the loops over them, for the inner loops of one instruction set: everything is
// in that set's namespace, so that no other set can be handed its machine code.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

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
        return combine(a, b, [](auto x, auto y) { return x > y ? x : y; });
    }

    T sum() const {
        T part[L];
        store(part);
        for (std::size_t half = L / 2; half > 0; half /= 2)
            for (std::size_t l = 0; l < half; ++l) part[l] += part[l + half];
        return part[0];
    }
    T top() const {
        T part[L];
        store(part);
        for (std::size_t half = L / 2; half > 0; half /= 2)
            for (std::size_t l = 0; l < half; ++l)
                part[l] = part[l + half] > part[l] ? part[l + half] : part[l];
        return part[0];
    }
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

/// exp(x) for x <= 0, to rounding; below the smallest normal number it stays there.
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
};

template <>
struct Exponential<double> {
    using Bits = std::int64_t;
    static constexpr int kMantissa = 52, kTerms = 13;
    static constexpr double kLowest = -700.0, kMagic = 6755399441055744.0;
    static constexpr double kInverseLog2 = 1.4426950408889634;
    static constexpr double kLog2High = 0.693147180369123816490, kLog2Low = 1.90821492927058770e-10;
};

template <typename T, std::size_t L>
inline Lanes<T, L> exponential(const Lanes<T, L>& argument) {
    using E = Exponential<T>;
    using V = Lanes<T, L>;
    const V x = larger(argument, V::all(E::kLowest));
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
#if defined(__GNUC__)
    typedef typename E::Bits Bits __attribute__((vector_size(sizeof(V))));
    Bits bits = reinterpret_cast<Bits>(p.v);
    bits += reinterpret_cast<Bits>(shifted.v) << E::kMantissa;
    V result;
    result.v = reinterpret_cast<typename V::Vector>(bits);
    return result;
#else
    typename E::Bits bits[L], exponent[L];
    std::memcpy(bits, &p.v, sizeof bits);
    std::memcpy(exponent, &shifted.v, sizeof exponent);
    for (std::size_t l = 0; l < L; ++l)
        bits[l] += static_cast<typename E::Bits>(
            static_cast<std::make_unsigned_t<typename E::Bits>>(exponent[l]) << E::kMantissa);
    V result;
    std::memcpy(&result.v, bits, sizeof bits);
    return result;
#endif
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
