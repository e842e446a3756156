// Loops over the values of a row, for one instruction set; see loops_impl.hpp.
//
// A row holds one pixel's or vertex's channels. Its width is known only at run time, but a handful
// of widths are usual. Loops are compiled for each of those, so that a row's sum stays in registers
// and no remainder is left.

#pragma once

#include <cstddef>
#include <limits>
#include <type_traits>

#include "loops/lanes.hpp"
#include "loops/loops.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

template <std::size_t N>
struct FixedWidth {
    constexpr operator std::size_t() const { return N; }
};

/// Call `body` with the width as a constant where it is usual, so that loops unroll.
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
/// of `stride`: equally wide, or with room for one more class.
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
///
/// With `Twos`, also by twos, for rows of two at scattered addresses. Where such rows lie side by
/// side, compilers compute several at a time if they see single values.
template <typename T, bool Twos = false, typename Width, typename Body>
inline void for_lanes(Width width, Body&& body) {
    std::size_t c = 0;
    for (; c + 8 <= width; c += 8) body(Lanes<T, 8>(), c);
    if (c + 4 <= width) {
        body(Lanes<T, 4>(), c);
        c += 4;
    }
    if (width % 4 == 0) return;
    if constexpr (Twos) {
        if (c + 2 <= width) {
            body(Lanes<T, 2>(), c);
            c += 2;
        }
    }
    for (; c < width; ++c) body(Lanes<T, 1>(), c);
}

/// A row of W values, W at most 32, that stays in registers while it is summed up. It consists of
/// lanes and a shorter row, because compilers keep an array of lanes in memory.
template <typename T, std::size_t W>
class Row {
    static constexpr std::size_t kLanes = W >= 8 ? 8 : W >= 4 ? 4 : W >= 2 ? 2 : 1;

public:
    /// Zeros. The width repeats the type's, so that LooseRow can be constructed alike.
    explicit Row(std::size_t width) : rest_(width) {}

    void load(const T* row) {
        lanes_ = Lanes<T, kLanes>::load(row);
        rest_.load(row + kLanes);
    }

    /// this += weight * row; the row may be stored as another type
    template <typename S>
    void add(T weight, const S* row) {
        lanes_ = lanes_ + Lanes<T, kLanes>::all(weight) * Lanes<T, kLanes>::load(row);
        rest_.add(weight, row + kLanes);
    }

    void add(const Row& other) {
        lanes_ = lanes_ + other.lanes_;
        rest_.add(other.rest_);
    }

    template <typename S>
    void store(S* row) const {
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
    void load(const T*) {}
    template <typename S>
    void add(T, const S*) {}
    void add(const Row&) {}
    template <typename S>
    void store(S*) const {}
};

/// A row whose width is known only at run time.
template <typename T>
class LooseRow {
public:
    explicit LooseRow(std::size_t width) : width_(width) {}
    void load(const T* row) {
        for (std::size_t c = 0; c < width_; ++c) sum_[c] = row[c];
    }
    template <typename S>
    void add(T weight, const S* row) {
        using V = Lanes<T, 1>;  // reads other types too
        for (std::size_t c = 0; c < width_; ++c)
            sum_[c] = (V::load(sum_ + c) + V::all(weight) * V::load(row + c)).sum();
    }
    void add(const LooseRow& other) { add(T(1), other.sum_); }
    template <typename S>
    void store(S* row) const {
        for (std::size_t c = 0; c < width_; ++c) Lanes<T, 1>::load(sum_ + c).store(row + c);
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

/// Longest row whose sum does not depend on the order of its values; see `OrderFree`.
constexpr std::size_t kOrderFree = 256;

/// Sums of at most `count` numbers in 0..1 that do not depend on their order, so that classes may
/// change places without changing a bit of the result.
///
/// Adding and subtracting a large number rounds e to a multiple of its spacing, `coarse`. Sums of
/// such multiples are exact in any order as long as they fit the mantissa, which the choice of the
/// large number ensures. The remainders are exact too, and summed likewise with a finer spacing. A
/// total is rounded once, when its two parts are added. For C classes and a rounding of eps, what
/// is lost is below C^3 eps^2.
template <typename T>
struct OrderFree {
    explicit OrderFree(std::size_t count) {
        T range = 2;
        while (range < static_cast<T>(count)) range *= 2;
        coarse = T(1.5) * range;
        fine = T(0.75) * range * range * std::numeric_limits<T>::epsilon();
    }

    /// Split e into two multiples that can be added up in any order.
    template <std::size_t L>
    void split(const Lanes<T, L>& e, Lanes<T, L>& high, Lanes<T, L>& low) const {
        using V = Lanes<T, L>;
        high = (e + V::all(coarse)) - V::all(coarse);
        low = ((e - high) + V::all(fine)) - V::all(fine);
    }

    T coarse, fine;
};

/// Rounds doubles so that four floats in 0..1 have an exact sum.
constexpr double kCoarse4 = 6.0 * (1 << 8);

/// The sum of a row of numbers in 0..1, in no order if it has at most kOrderFree.
template <typename T, typename Width>
inline T order_free_sum(const T* row, Width width) {
    if (width > kOrderFree) return row_sum(row, width);
    if constexpr (std::is_same_v<T, float>) {
        if (width == 4) {  // the usual row after pruning: doubles have room for a single part
            double sums[4];
            for (std::size_t c = 0; c < 4; ++c)
                sums[c] = (static_cast<double>(row[c]) + kCoarse4) - kCoarse4;
            return static_cast<float>((sums[0] + sums[2]) + (sums[1] + sums[3]));
        }
    }
    const OrderFree<T> parts(width);
    Sum<T> high, low;
    for_lanes<T>(width, [&](auto tag, std::size_t c) {
        using V = decltype(tag);
        V coarse, fine;
        parts.split(V::load(row + c), coarse, fine);
        high.add(coarse);
        low.add(fine);
    });
    return high.value() + low.value();
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
