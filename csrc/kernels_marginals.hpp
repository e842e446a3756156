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
void missing_channel(const T* f, std::size_t width, const T* total, T* missing, std::size_t rows) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            missing[i] = (total == nullptr ? T(0) : total[i]) - row_sum(f + i * w, w);
    });
}

/// One or two rows of `mix`, so that each row of the matrix is loaded once for both.
template <std::size_t Rows, typename T, typename Width>
inline void mix_rows(const T* f, std::size_t width, std::size_t inputs, const T* matrix, T* m,
                     Width columns, std::size_t stride) {
    RowOf<T, Width> one(columns), two(columns);
    one.add(T(1), m);
    if (Rows > 1) two.add(T(1), m + stride);
    for (std::size_t k = 0; k < inputs; ++k) {
        one.add(f[k], matrix + k * stride);
        if (Rows > 1) two.add(f[width + k], matrix + k * stride);
    }
    one.store(m);
    if (Rows > 1) two.store(m + stride);
}

template <typename T>
void mix(const T* f, std::size_t width, std::size_t inputs, const T* matrix, T* m,
         std::size_t stride, std::size_t rows) {
    const std::size_t whole = stride / kGroup * kGroup;
    with_width(stride - whole, [&](auto rest) {
        const auto columns = [&](auto count, std::size_t i) {
            constexpr std::size_t together = decltype(count)::value;
            const T* from = f + i * width;
            T* to = m + i * stride;
            for (std::size_t at = 0; at < whole; at += kGroup)
                mix_rows<together>(from, width, inputs, matrix + at, to + at, FixedWidth<kGroup>(),
                                   stride);
            if (rest > 0)
                mix_rows<together>(from, width, inputs, matrix + whole, to + whole, rest, stride);
        };
        std::size_t i = 0;
        for (; i + 2 <= rows; i += 2) columns(std::integral_constant<std::size_t, 2>(), i);
        if (i < rows) columns(std::integral_constant<std::size_t, 1>(), i);
    });
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
void potts(T* m, std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T sum = row_sum(m + i * s, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::all(sum) - V::load(m + i * s + c)).store(m + i * s + c);
            });
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
void log_sum_exp(T* z, std::size_t width, T* out, std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i) {
        T* row = z + i * width;
        out[i] = row_top(row, width);
        for (std::size_t c = 0; c < width; ++c) row[c] -= out[i];
    }
    for_lanes<T>(rows * width, [&](auto tag, std::size_t k) {
        exponential(decltype(tag)::load(z + k)).store(z + k);
    });
    for (std::size_t i = 0; i < rows; ++i) out[i] += std::log(row_sum(z + i * width, width));
}

template <typename T>
void softmax_backward(const T* q, const T* h, T* out, std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            const std::size_t at = i * s;
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(q + at + c) * V::load(h + at + c)).store(out + at + c);
            });
            const T dot = row_sum(out + at, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(out + at + c) - V::load(q + at + c) * V::all(dot)).store(out + at + c);
            });
        }
    });
}

template <typename T>
void outer(const T* r, const T* q, T* sums, std::size_t stride, std::size_t count,
           std::size_t rows) {
    with_width(stride, [&](auto s) {
        const auto sum_up = [&](std::size_t a, std::size_t c, auto sum) {
            for (std::size_t i = 0; i < rows; ++i) sum.add(r[i * stride + a], q + i * stride + c);
            T total[kGroup];
            sum.store(total);
            for (std::size_t k = 0; k < kGroup && c + k < stride; ++k)
                sums[a * stride + c + k] += total[k];
        };
        for (std::size_t a = 0; a < count; ++a) {
            if constexpr (!std::is_same_v<decltype(s), std::size_t>) {
                sum_up(a, 0, RowOf<T, decltype(s)>(s));
            } else {
                for (std::size_t c = 0; c < s; c += kGroup)
                    sum_up(a, c, RowOf<T, std::size_t>(s - c < kGroup ? s - c : kGroup));
            }
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
