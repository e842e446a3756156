// Frank-Wolfe steps and their adjoint, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>

#include "loops/lanes.hpp"
#include "loops/loops.hpp"
#include "loops/marginals.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

/// The point of the simplex nearest to z is max(z - tau, 0) with tau such that it sums to one
/// (Martins & Astudillo, 2016). The excess f(tau) = sum of max(z - tau, 0) - 1 is convex,
/// decreasing and piecewise linear with slope -(number of z above tau). Newton's method from a tau
/// below the root never passes it, and ends exactly once no more values drop below tau: after one
/// or two rounds where a class is likely, and after as many rounds as there are classes at most.
///
/// Values are taken relative to the largest, whose tau lies in -1..-1/C, so that digits are not
/// lost where logits are large.
template <typename T, typename Width>
inline T threshold(const T* row, T top, Width s) {
    T tau = -1, last = static_cast<T>(s + 1);
    while (true) {
        Sum<T> above, number;
        for_lanes<T>(s, [&](auto tag, std::size_t c) {
            using V = decltype(tag);
            const V over = (V::load(row + c) - V::all(top)) - V::all(tau);
            above.add(larger(V::all(T(0)), over));
            number.add(positive(over));
        });
        const T count = number.value();
        if (!(count < last)) return tau;
        tau += (above.value() - T(1)) / count;
        if (!(count > T(1))) return tau;
        last = count;
    }
}

template <typename T>
double project(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
               std::size_t width, const T* before, std::size_t rows) {
    double change = 0;
    with_rows(width, stride, [&](auto w, auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* const row = z + i * s;
            const T top = row_top(row, s);
            const T tau = threshold(row, top, s);
            const auto project_to = [&](T* to) {
                for_lanes<T>(w, [&](auto tag, std::size_t c) {
                    using V = decltype(tag);
                    larger((V::load(row + c) - V::all(top)) - V::all(tau), V::all(T(0)))
                        .store(to + c);
                });
            };
            if (before != nullptr) {  // q may be where `before` is
                project_to(row);
                change += static_cast<double>(row_change(row, before + i * w, w, kept == count));
                for (std::size_t c = 0; c < w; ++c) q[i * w + c] = row[c];
            } else {
                project_to(q + i * w);
            }
        }
    });
    return change;
}

template <typename T>
void potts_pull(const Message<T>* messages, std::size_t count, const T* q, T* h, T* sums,
                std::size_t stride, std::size_t classes, std::size_t width, std::size_t rows) {
    const bool is_complete = width >= classes;
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* const to = h + i * stride;
            Sum<T> filtered;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V here = V::load(q + i * w + c);
                V sum_h = V::all(T(0));
                for (std::size_t k = 0; k < count; ++k) {
                    const V r = V::load(messages[k].rows + i * w + c);
                    T* const sum = sums + k * stride + c;
                    (V::load(sum) + r * here).store(sum);
                    sum_h = sum_h - V::load(messages[k].weight + c) * r;
                }
                sum_h.store(to + c);
                filtered.add(here);
            });
            if (is_complete) continue;
            const T last = T(1) - filtered.value();
            for (std::size_t c = w; c < stride; ++c) to[c] = T(0);
            for (std::size_t k = 0; k < count; ++k) {
                const T r = (messages[k].total == nullptr ? T(0) : messages[k].total[i]) -
                            row_sum(messages[k].rows + i * w, w);
                sums[k * stride + w] += r * last;
                to[w] -= messages[k].weight[w] * r;
            }
        }
    });
}

/// The projection moves along its support S only, and there away from the mean: J h = h - (mean of
/// h over S) on S, and zero elsewhere. With v = 1 on S and 0 elsewhere, that is v (h - sum of v h /
/// sum of v): the softmax's Jacobian with v in place of s, whose sum is one.
template <typename T>
void target_backward(const T* s, const T* h, bool is_l2, T scale, T sign, T* total, T* next,
                     std::size_t stride, std::size_t width, std::size_t rows) {
    with_rows(width, stride, [&](auto w, auto all) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T *const at = s + i * all, *const by = h + i * all;
            T *const sum_up = total + i * all, *const to = next + i * w;
            Sum<T> dot, number;
            for_lanes<T>(all, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V v = is_l2 ? positive(V::load(at + c)) : V::load(at + c);
                dot.add(v * V::load(by + c));
                number.add(v);
            });
            const T in_support = number.value();  // zero if the whole target is below rounding
            const T mean = is_l2 && in_support > 0 ? dot.value() / in_support : dot.value();
            const auto pull = [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V v = is_l2 ? positive(V::load(at + c)) : V::load(at + c);
                const V g = v * (V::load(by + c) - V::all(mean)) * V::all(scale);
                (V::load(sum_up + c) + g).store(sum_up + c);
                return g * V::all(sign);
            };
            for_lanes<T>(w, [&](auto tag, std::size_t c) { pull(tag, c).store(to + c); });
            if (w < all) pull(Lanes<T, 1>(), w);  // the last class, which is not filtered
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
