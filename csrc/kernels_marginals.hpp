// The inner loops over pixels' marginals and logits, for one instruction set; see kernels_impl.hpp.

#pragma once

#include <cmath>
#include <type_traits>

#include "exponential.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

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

/// Where the factors of a product of matrices lie: that of output j and input k, from `first` on.
template <typename T>
struct Factors {
    const T* first;
    std::size_t output_step, input_step;
};

/// Columns of a product that fill the vector registers when four rows of them are summed up.
template <typename T>
constexpr std::size_t kProductColumns = 96 / sizeof(T);

/// m[j] = from[j] + sum over k of factor(j, k) * x[k] for one, two or four rows j of a block of
/// columns, so that each row of x is loaded once for all. A null `from` is zero.
template <std::size_t Rows, typename T, typename Width>
inline void product_rows(const Factors<T>& factors, const T* x, std::size_t inputs, const T* from,
                         T* m, Width columns, std::size_t stride) {
    RowOf<T, Width> s0(columns), s1(columns), s2(columns), s3(columns);
    if (from != nullptr) {
        s0.add(T(1), from);
        if (Rows > 1) s1.add(T(1), from + stride);
        if (Rows > 2) s2.add(T(1), from + 2 * stride);
        if (Rows > 2) s3.add(T(1), from + 3 * stride);
    }
    for (std::size_t k = 0; k < inputs; ++k) {
        const T* f = factors.first + k * factors.input_step;
        s0.add(f[0], x + k * stride);
        if (Rows > 1) s1.add(f[factors.output_step], x + k * stride);
        if (Rows > 2) s2.add(f[2 * factors.output_step], x + k * stride);
        if (Rows > 2) s3.add(f[3 * factors.output_step], x + k * stride);
    }
    s0.store(m);
    if (Rows > 1) s1.store(m + stride);
    if (Rows > 2) s2.store(m + 2 * stride);
    if (Rows > 2) s3.store(m + 3 * stride);
}

/// The same for all columns of `outputs` rows.
template <typename T>
void product(const Factors<T>& factors, const T* x, std::size_t inputs, const T* from, T* m,
             std::size_t stride, std::size_t outputs) {
    constexpr std::size_t block = kProductColumns<T>;
    const std::size_t whole = stride / block * block;
    with_width(stride - whole, [&](auto rest) {
        const auto columns = [&](auto count, std::size_t j) {
            constexpr std::size_t together = decltype(count)::value;
            const Factors<T> these{factors.first + j * factors.output_step, factors.output_step,
                                   factors.input_step};
            const auto some = [&](auto width, std::size_t at) {
                product_rows<together>(these, x + at, inputs,
                                       from == nullptr ? from : from + j * stride + at,
                                       m + j * stride + at, width, stride);
            };
            for (std::size_t at = 0; at < whole; at += block) some(FixedWidth<block>(), at);
            if (rest > 0) some(rest, whole);
        };
        std::size_t j = 0;
        for (; j + 4 <= outputs; j += 4) columns(std::integral_constant<std::size_t, 4>(), j);
        for (; j + 2 <= outputs; j += 2) columns(std::integral_constant<std::size_t, 2>(), j);
        if (j < outputs) columns(std::integral_constant<std::size_t, 1>(), j);
    });
}

template <typename T>
void mix(const T* f, std::size_t inputs, const T* matrix, const T* from, T* m, std::size_t stride,
         std::size_t rows) {
    product<T>({f, stride, 1}, matrix, inputs, from, m, stride, rows);
}

template <typename T>
void outer(const T* r, const T* q, T* sums, std::size_t stride, std::size_t count,
           std::size_t rows) {
    product<T>({r, 1, stride}, q, rows, sums, sums, stride, count);
}

template <typename T>
void potts_step(const Message<T>* messages, std::size_t count, const T* u, T* z, std::size_t stride,
                std::size_t classes, std::size_t width, bool exact, std::size_t rows) {
    const auto run = [&](auto w, auto terms, auto is_complete) {
        constexpr bool complete = decltype(is_complete)::value;
        for (std::size_t i = 0; i < rows; ++i) {
            const T* from = u + i * stride;
            T* to = z + i * stride;
            Sum<T> sum, last;  // of all weighted messages, and with the last class's weights
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                V m = V::all(T(0)), n = V::all(T(0));
                for (std::size_t k = 0; k < terms; ++k) {
                    const V f = V::load(messages[k].rows + i * w + c);
                    m = m + V::load(messages[k].weight + c) * f;
                    if (!complete) n = n + V::all(messages[k].weight[w]) * f;
                }
                (V::load(from + c) + m).store(to + c);
                if (exact) sum.add(m);
                if (!complete) last.add(n);
            });
            T missing = 0;
            if (!complete) {
                missing = -last.value();
                for (std::size_t k = 0; k < terms; ++k)
                    missing += messages[k].weight[w] *
                               (messages[k].total == nullptr ? T(0) : messages[k].total[i]);
                to[w] = from[w] + missing;
                for (std::size_t c = w + 1; c < stride; ++c) to[c] = from[c];
            }
            if (exact) {
                const T all = sum.value() + missing;
                for (std::size_t c = 0; c < classes; ++c) to[c] -= all;
            }
        }
    };
    const auto run_terms = [&](auto w, auto is_complete) {
        if (count == 2) {  // a bilateral and a spatial kernel: the loop over them unrolls
            run(w, FixedWidth<2>(), is_complete);
        } else {
            run(w, count, is_complete);
        }
    };
    with_width(width, [&](auto w) {
        if (width >= classes) {
            run_terms(w, std::true_type());
        } else {
            run_terms(w, std::false_type());
        }
    });
}

template <typename T>
void potts_step_backward(const Message<T>* messages, std::size_t count, const T* q, T* total,
                         T* next, T* sums, std::size_t stride, std::size_t classes,
                         std::size_t width, std::size_t rows) {
    const bool complete = width >= classes;
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T* from = q + i * w;
            T* to = next + i * w;
            T* sum_up = total + i * stride;
            Sum<T> dot, left;  // of q h, and of q: what is left to one is the last class's
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V here = V::load(from + c);
                V h = V::all(T(0));
                for (std::size_t k = 0; k < count; ++k) {
                    const V r = V::load(messages[k].rows + i * w + c);
                    T* const sum = sums + k * stride + c;
                    (V::load(sum) + r * here).store(sum);
                    h = h - V::load(messages[k].weight + c) * r;
                }
                h.store(to + c);
                dot.add(here * h);
                left.add(here);
            });
            T last = 0, h_last = 0;
            if (!complete) {
                last = T(1) - left.value();
                for (std::size_t k = 0; k < count; ++k) {
                    const T r = (messages[k].total == nullptr ? T(0) : messages[k].total[i]) -
                                row_sum(messages[k].rows + i * w, w);
                    sums[k * stride + w] += r * last;
                    h_last -= messages[k].weight[w] * r;
                }
            }
            const T mean = dot.value() + last * h_last;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V g = V::load(from + c) * (V::load(to + c) - V::all(mean));
                (V::load(sum_up + c) + g).store(sum_up + c);
                (V::all(T(0)) - g).store(to + c);  // A'g = (sum of g) - g, and g sums to zero
            });
            if (!complete) sum_up[w] += last * (h_last - mean);
        }
    });
}

template <typename T>
void start_backward(const T* g, std::size_t stride, std::size_t classes, bool potts, T* next,
                    std::size_t width, T* sums, std::size_t rows) {
    with_rows(width, stride, [&](auto w, auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* const to = next + i * w;
            const T sum = row_sum(g + i * s, s);
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V here = V::load(g + i * s + c);
                (potts ? V::all(sum) - here : here).store(to + c);
            });
            for (std::size_t c = classes; c < w; ++c) to[c] = T(0);
            sums[i] = potts ? static_cast<T>(classes - 1) * sum : sum;
        }
    });
}

/// z = exp(z - the largest of z) in rows of `s`; return nothing, leave sums to the caller.
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

/// The sum of |row - before|, and of the class that is not kept, if there is one.
template <typename T>
inline T row_change(const T* row, const T* before, std::size_t width, bool complete) {
    T moved[4] = {}, sum = 0;
    for (std::size_t c = 0; c < width; ++c) {
        const T difference = row[c] - before[c];
        moved[c % 4] += difference < 0 ? -difference : difference;
        sum += difference;
    }
    // Marginals sum to one: the class that is not kept moved against all the others.
    if (!complete) moved[0] += sum < 0 ? -sum : sum;
    return (moved[0] + moved[1]) + (moved[2] + moved[3]);
}

template <typename T>
double softmax(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
               std::size_t width, const T* before, std::size_t rows) {
    double change = 0;
    with_rows(width, stride, [&](auto w, auto s) {
        exp_rows(z, s, rows);
        for (std::size_t i = 0; i < rows; ++i) {
            T* row = z + i * s;
            T* out = q + i * w;
            const T inverse = T(1) / row_sum(row, s);
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
void add_exp(const T* x, const T* shift, T* sum, std::size_t n) {
    for_lanes<T>(n, [&](auto tag, std::size_t i) {
        using V = decltype(tag);
        (V::load(sum + i) + exponential(V::load(x + i) - V::load(shift + i))).store(sum + i);
    });
}

template <typename T>
void softmax_backward(const T* q, const T* h, T* total, T* next, std::size_t stride,
                      std::size_t width, std::size_t rows) {
    with_rows(width, stride, [&](auto w, auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T *const from = q + i * s, *const by = h + i * s;
            T *const sum_up = total + i * s, *const to = next + i * w;
            Sum<T> dot;
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                dot.add(decltype(tag)::load(from + c) * decltype(tag)::load(by + c));
            });
            const T mean = dot.value();
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V g = V::load(from + c) * (V::load(by + c) - V::all(mean));
                g.store(to + c);
                (V::load(sum_up + c) + g).store(sum_up + c);
            });
            if (w < s) sum_up[w] += from[w] * (by[w] - mean);
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
