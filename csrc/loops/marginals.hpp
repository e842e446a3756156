// Softmax, and exponentials of logits, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>

#include "loops/exponential.hpp"
#include "loops/lanes.hpp"
#include "loops/loops.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

template <typename T>
void scale_rows(T* x, const T* scale, std::size_t rows, std::size_t width) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(x + i * w + c) * V::all(scale[i])).store(x + i * w + c);
            });
    });
}

/// The class that is not filtered. Marginals q_c sum to one over the C classes and a filter F is
/// linear, so F q_C = F(1 - sum of the other q_c) = F 1 - sum of the other F q_c. The response F 1
/// is computed once; each step then filters C - 1 columns. An adjoint filter obeys the same rule
/// with the row sums of its input in place of 1.
template <typename T>
void widen(const T* f, std::size_t width, const T* total, T* r, std::size_t stride,
           std::size_t rows) {
    with_rows(width, stride, [&](auto w, auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* const to = r + i * s;
            Sum<T> sum;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                const auto values = decltype(tag)::load(f + i * w + c);
                values.store(to + c);
                sum.add(values);
            });
            if (s == w) continue;
            for (std::size_t c = w; c < s; ++c) to[c] = T(0);
            to[w] = (total == nullptr ? T(0) : total[i]) - sum.value();
        }
    });
}

/// z = exp(z - the largest of z) in rows of `s`. The shift cancels in the softmax and keeps exp
/// from overflowing.
template <typename T, typename Width>
inline void exp_rows(T* z, Width s, std::size_t rows) {
    if (s >= 8) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* row = z + i * s;
            const T top = row_top(row, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                exponential(V::load(row + c) - V::all(top)).store(row + c);
            });
        }
        return;
    }
    for (std::size_t i = 0; i < rows; ++i) {
        const T top = row_top(z + i * s, s);
        for (std::size_t c = 0; c < s; ++c) z[i * s + c] -= top;
    }
    for_lanes<T>(rows * s, [&](auto tag, std::size_t k) {  // short rows: across them
        exponential(decltype(tag)::load(z + k)).store(z + k);
    });
}

/// The sum of |row - before| over all classes, the one that is not kept included.
template <typename T>
inline T row_change(const T* row, const T* before, std::size_t width, bool is_complete) {
    T moved[4] = {}, sum = 0;
    for (std::size_t c = 0; c < width; ++c) {
        const T difference = row[c] - before[c];
        moved[c % 4] += difference < 0 ? -difference : difference;
        sum += difference;
    }
    // Marginals sum to one: the class that is not kept moved against all the others.
    if (!is_complete) moved[0] += sum < 0 ? -sum : sum;
    return (moved[0] + moved[1]) + (moved[2] + moved[3]);
}

/// `softmax` without the change of q, and without classes to set to zero. With both ruled out
/// before the loop, rows of two are computed several at a time.
template <typename T, typename Width, typename Stride>
inline void softmax_rows(T* z, Stride s, T* q, Width w, std::size_t rows) {
    exp_rows(z, s, rows);
    for (std::size_t i = 0; i < rows; ++i) {
        const T inverse = T(1) / order_free_sum(z + i * s, s);
        for_lanes<T>(w, [&](auto tag, std::size_t c) {
            using V = decltype(tag);
            (V::load(z + i * s + c) * V::all(inverse)).store(q + i * w + c);
        });
    }
}

template <typename T>
double softmax(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
               std::size_t width, const T* before, std::size_t rows) {
    double change = 0;
    with_rows(width, stride, [&](auto w, auto s) {
        if (before == nullptr && kept >= w) return softmax_rows(z, s, q, w, rows);
        exp_rows(z, s, rows);
        for (std::size_t i = 0; i < rows; ++i) {
            T* row = z + i * s;
            T* out = q + i * w;
            const T inverse = T(1) / order_free_sum(row, s);
            for (std::size_t c = kept; c < w; ++c) row[c] = T(0);
            if (before != nullptr) {
                for (std::size_t c = 0; c < w; ++c) row[c] *= inverse;
                change += static_cast<double>(row_change(row, before + i * w, w, kept == count));
            }
            const T scale = before == nullptr ? inverse : T(1);
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(row + c) * V::all(scale)).store(out + c);
            });
        }
    });
    return change;
}

template <typename T>
void scaled_exp(const T* x, const T* shift, const T* scale, T* out, std::size_t n) {
    for_lanes<T>(n, [&](auto tag, std::size_t i) {
        using V = decltype(tag);
        (V::load(scale + i) * exponential(V::load(x + i) - V::load(shift + i))).store(out + i);
    });
}

template <typename T>
void add_exp(const T* x, const T* shift, std::size_t count, T* high, T* low, std::size_t n) {
    const OrderFree<T> parts(count);
    for_lanes<T>(n, [&](auto tag, std::size_t i) {
        using V = decltype(tag);
        const V e = exponential(V::load(x + i) - V::load(shift + i));
        V coarse = e, fine = V::all(T(0));
        if (count <= kOrderFree) parts.split(e, coarse, fine);
        (V::load(high + i) + coarse).store(high + i);
        (V::load(low + i) + fine).store(low + i);
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
