// A step of the recurrence and its adjoint, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <type_traits>

#include "loops/exponential.hpp"
#include "loops/lanes.hpp"
#include "loops/loops.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

/// For Potts, A = 1 1' - I, so the penalty of class c is the sum of all messages minus its own:
///
///     z_c = u_c - (A m)_c = u_c + m_c - sum of m,   m_c = sum over k of w_kc F_k q_c.
///
/// The sum is the same for all classes and cancels in the next softmax: only the last step, whose
/// logits are returned, subtracts it. The last class is not filtered where rows are shorter without
/// it. Its message is m_C = sum over k of w_kC (F_k 1 - sum of F_k q_c); see `widen`.
template <typename T>
void potts_step(const Message<T>* messages, std::size_t count, const T* u, T* z, std::size_t stride,
                std::size_t classes, std::size_t width, bool is_exact, std::size_t rows) {
    const auto step = [&](auto w, auto terms, auto complete) {
        constexpr bool is_complete = decltype(complete)::value;
        for (std::size_t i = 0; i < rows; ++i) {
            const T* from = u + i * stride;
            T* to = z + i * stride;
            Sum<T> sum, last;  // of the messages w_c F q_c, and of w_C F q_c with the last weight
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                V m = V::all(T(0)), n = V::all(T(0));
                for (std::size_t k = 0; k < terms; ++k) {
                    const V f = V::load(messages[k].rows + i * w + c);
                    m = m + V::load(messages[k].weight + c) * f;
                    if (!is_complete) n = n + V::all(messages[k].weight[w]) * f;
                }
                (V::load(from + c) + m).store(to + c);
                if (is_exact) sum.add(m);
                if (!is_complete) last.add(n);
            });
            T last_message = 0;
            if (!is_complete) {
                last_message = -last.value();
                for (std::size_t k = 0; k < terms; ++k)
                    last_message += messages[k].weight[w] *
                                    (messages[k].total == nullptr ? T(0) : messages[k].total[i]);
                to[w] = from[w] + last_message;
                for (std::size_t c = w + 1; c < stride; ++c) to[c] = from[c];
            }
            if (is_exact) {
                const T all = sum.value() + last_message;
                for (std::size_t c = 0; c < classes; ++c) to[c] -= all;
            }
        }
    };
    const auto step_of_terms = [&](auto w, auto complete) {
        if (count == 2) {  // a bilateral and a spatial kernel: the loop over them unrolls
            step(w, FixedWidth<2>(), complete);
        } else {
            step(w, count, complete);
        }
    };
    with_width(width, [&](auto w) {
        if (width >= classes) {
            step_of_terms(w, std::true_type());
        } else {
            step_of_terms(w, std::false_type());
        }
    });
}

/// For independent two-class models, one in each column; see crf/independent.hpp.
template <typename T>
void independent_step(const Message<T>* messages, std::size_t count, const T* shift, const T* u,
                      T* z, std::size_t width, std::size_t rows) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                V sum = V::load(u + i * w + c) + V::all(shift[i]);
                for (std::size_t k = 0; k < count; ++k)
                    sum = sum +
                          V::load(messages[k].weight + c) * V::load(messages[k].rows + i * w + c);
                sum.store(z + i * w + c);
            });
    });
}

/// q - center. With e = exp(-|z|), q is 1 / (1 + e) for z >= 0, and e / (1 + e) below: no
/// exponential overflows.
template <typename T>
void sigmoid(const T* z, T center, T* q, std::size_t n) {
    for_lanes<T>(n, [&](auto tag, std::size_t i) {
        using V = decltype(tag);
        const V zero = V::all(T(0)), from = V::load(z + i), minus = zero - from;
        const V e = exponential(zero - larger(from, minus));
        const V above = exponential(zero - larger(zero, minus));  // 1, or e below zero; NaN stays
        (above / (V::all(T(1)) + e) - V::all(center)).store(q + i);
    });
}

/// With g = dL/dz after the step, A and w act on classes and F_k on pixels, so they commute:
///
///     R_k      = F_k' A' g                       what the adjoint filters were given is A' g
///     dL/dw_kc = -sum over pixels of R_kc q_c    the caller negates
///     h        = dL/dq = -sum over k of w_k R_k
///     g_before = q (h - sum over classes of q h) the softmax's Jacobian
///
/// As in the forward pass, the last class's R_k is F_k' (row sum of A' g) minus the other columns.
/// The row sum is zero except for the gradient that the loss gave: g_before sums to zero, because q
/// sums to one. For the same reason A' g_before = (sum of g_before) - g_before = -g_before.
template <typename T>
void potts_step_backward(const Message<T>* messages, std::size_t count, const T* q, T* total,
                         T* next, T* sums, std::size_t stride, std::size_t classes,
                         std::size_t width, std::size_t rows) {
    const bool is_complete = width >= classes;
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T* from = q + i * w;
            T* to = next + i * w;
            T* sum_up = total + i * stride;
            Sum<T> dot, filtered;  // of q h, and of q over the filtered classes
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
                filtered.add(here);
            });
            T last = 0, h_last = 0;
            if (!is_complete) {
                last = T(1) - filtered.value();
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
                (V::all(T(0)) - g).store(to + c);  // A' g = -g: g sums to zero
            });
            if (!is_complete) sum_up[w] += last * (h_last - mean);
        }
    });
}

/// The loss may give any gradient, so here the sum does not vanish: A' g = (sum of g) - g, and the
/// row sum of that over C classes is (C - 1) times the sum of g.
template <typename T>
void start_backward(const T* g, std::size_t stride, std::size_t classes, bool is_potts, T* next,
                    std::size_t width, T* sums, std::size_t rows) {
    with_rows(width, stride, [&](auto w, auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* const to = next + i * w;
            const T sum = row_sum(g + i * s, s);
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V here = V::load(g + i * s + c);
                (is_potts ? V::all(sum) - here : here).store(to + c);
            });
            for (std::size_t c = classes; c < w; ++c) to[c] = T(0);
            sums[i] = is_potts ? static_cast<T>(classes - 1) * sum : sum;
        }
    });
}

/// dq_c / dz_d = q_c ([c = d] - q_d), so dL/dz = q (h - sum of q h) for h = dL/dq.
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
