// Softmax, and exponentials of logits, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <type_traits>

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

/// x[i] = exp(x[i]) for i < n.
template <typename T>
inline void exp_all(T* x, std::size_t n) {
    using V = Lanes<T, 8>;
    std::size_t at = 0;
    for (; at + 32 <= n; at += 32) {
        V v[4];
        for (std::size_t i = 0; i < 4; ++i) v[i] = V::load(x + at + 8 * i);
        exponentials(v);
        for (std::size_t i = 0; i < 4; ++i) v[i].store(x + at + 8 * i);
    }
    for_lanes<T>(n - at, [&](auto tag, std::size_t i) {
        exponential(decltype(tag)::load(x + at + i)).store(x + at + i);
    });
}

/// z = exp(z - the largest of z) in rows of `s`. The shift cancels in the softmax and keeps exp
/// from overflowing.
template <typename T, typename Width>
inline void exp_rows(T* z, Width s, std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i) {
        T* const row = z + i * s;
        const T top = row_top(row, s);
        if (s >= 8) {
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(row + c) - V::all(top)).store(row + c);
            });
        } else {
            for (std::size_t c = 0; c < s; ++c) row[c] -= top;
        }
    }
    exp_all(z, rows * s);
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

/// Each lane combined with the other lanes of its row, for rows of S lanes side by side.
template <std::size_t S, typename T, std::size_t L, typename Operation>
inline Lanes<T, L> across_rows(Lanes<T, L> x, Operation operation) {
    x = operation(x, x.template swapped<1>());
    x = operation(x, x.template swapped<2>());
    if constexpr (S == 8) x = operation(x, x.template swapped<4>());
    return x;
}

/// x = the sum of each row of x, in 0..1, in all lanes of the row. To the bit that of
/// `order_free_sum`: no order of additions changes it.
template <std::size_t S, std::size_t N>
inline void sum_rows(Lanes<float, 8> (&x)[N]) {
    const auto add = [](const auto& a, const auto& b) { return a + b; };
    for (std::size_t n = 0; n < N; ++n) {
        if constexpr (S == 8) {
            Lanes<float, 8> high, low;
            OrderFree<float>(S).split(x[n], high, low);
            x[n] = across_rows<S>(high, add) + across_rows<S>(low, add);
        } else {
            float all[8];
            x[n].store(all);
            const auto spacing = Lanes<double, 4>::all(kCoarse4);
            for (std::size_t at = 0; at < 8; at += 4) {
                Lanes<double, 4> wide;
                for (std::size_t c = 0; c < 4; ++c) wide.v[c] = static_cast<double>(all[at + c]);
                wide = across_rows<S>((wide + spacing) - spacing, add);
                for (std::size_t c = 0; c < 4; ++c) all[at + c] = static_cast<float>(wide.v[c]);
            }
            x[n] = Lanes<float, 8>::load(all);
        }
    }
}

/// `softmax_rows` for rows of S = 4 or 8 floats, as many as four vectors hold at a time, without
/// leaving the lanes for the largest and the sum of a row. Returns the rows done.
template <std::size_t S, typename Width>
inline std::size_t softmax_lanes(const float* z, FixedWidth<S>, float* q, Width w,
                                 std::size_t rows) {
    using V = Lanes<float, 8>;
    constexpr std::size_t vectors = 4, in_vector = 8 / S;
    const auto most = [](const V& a, const V& b) { return larger(a, b); };
    std::size_t i = 0;
    for (; i + vectors * in_vector <= rows; i += vectors * in_vector) {
        V e[vectors], sum[vectors];
        for (std::size_t n = 0; n < vectors; ++n) e[n] = V::load(z + i * S + 8 * n);
        for (std::size_t n = 0; n < vectors; ++n) e[n] = e[n] - across_rows<S>(e[n], most);
        exponentials(e);
        for (std::size_t n = 0; n < vectors; ++n) sum[n] = e[n];
        sum_rows<S>(sum);
        for (std::size_t n = 0; n < vectors; ++n) {
            const V p = e[n] * (V::all(1.0f) / sum[n]);
            float* const to = q + (i + n * in_vector) * w;
            if (w == S) {
                p.store(to);
                continue;
            }
            float all[8];
            p.store(all);
            for (std::size_t k = 0; k < in_vector; ++k)
                for (std::size_t c = 0; c < w; ++c) to[k * w + c] = all[k * S + c];
        }
    }
    return i;
}

/// `softmax` without the change of q, and without classes to set to zero. With both ruled out
/// before the loop, rows of two are computed several at a time.
template <typename T, typename Width, typename Stride>
inline void softmax_rows(T* z, Stride s, T* q, Width w, std::size_t rows) {
    if constexpr (std::is_same_v<T, float> && !std::is_same_v<Stride, std::size_t>) {
        if constexpr (Stride() == 4 || Stride() == 8) {
            const std::size_t done = softmax_lanes(z, s, q, w, rows);
            z += done * s;
            q += done * w;
            rows -= done;
        }
    }
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
        // The exponentials of padding are zero.
        if (before == nullptr && (kept >= w || kept == count))
            return softmax_rows(z, s, q, w, rows);
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
