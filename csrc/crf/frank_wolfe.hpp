#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "crf/model.hpp"
#include "loops/loops.hpp"

/// Regularized Frank-Wolfe (Lê-Huu & Alahari, 2021) on the rows of a tile, all `stride` wide and
/// with all classes unless a comment says otherwise. With z the logits of a mean-field update,
///
///     s_t = softmax(z_t / strength), or the point of the simplex nearest to z_t / strength
///     Q_t = (1 - size) Q_(t-1) + size s_t
///
/// and the result is y = log((1 - mix) Q_T + mix Q_0) + logsumexp(u). A constant in a row of logits
/// has no meaning; this one makes a step without messages return u where strength is one.
namespace crfrnn::frank_wolfe {

/// Marginals below this have no logarithm of their own: see `finish`.
template <typename T>
constexpr T kTiny = std::numeric_limits<T>::min();

/// z /= strength.
template <typename T>
void divide(const FrankWolfe& step, T* z, std::size_t stride, std::size_t classes,
            std::size_t rows) {
    if (step.strength == 1) return;
    const T inverse = static_cast<T>(1 / step.strength);
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t c = 0; c < classes; ++c) z[i * stride + c] *= inverse;
}

/// s from a = z / strength, in rows `width` wide, without the last class where they leave it out.
/// Destroys a. Returns the sum of |s - before| if `before` is not null.
template <typename T>
double target(const FrankWolfe& step, T* a, std::size_t stride, std::size_t classes,
              std::size_t kept, T* s, std::size_t width, const T* before, std::size_t rows) {
    const auto map = step.is_l2 ? loops<T>().project : loops<T>().softmax;
    return map(a, stride, classes, kept, s, width, before, rows);
}

/// to = (1 - size) q + size s for n values; `to` may be q. Returns the sum of their changes if it
/// is wanted.
template <typename T>
double blend(const FrankWolfe& step, const T* q, const T* s, T* to, bool wants_change,
             std::size_t n) {
    const T size = static_cast<T>(step.size), rest = static_cast<T>(1 - step.size);
    double change = 0;
    for (std::size_t k = 0; k < n && wants_change; ++k)
        change += static_cast<double>(std::abs(size * (s[k] - q[k])));
    for (std::size_t k = 0; k < n; ++k) to[k] = rest * q[k] + size * s[k];
    return change;
}

/// The result y from a = z_T / strength, the marginals q before the step, and the unary u.
///
/// A marginal that underflows still gets a finite logarithm with a gradient, if it has one: its
/// share of the start or of the softmax, computed as a logarithm. Exact zeros of a projection get
/// the logarithm of the smallest normal number.
///
/// @param q      null unless the step blends
/// @param p,s    scratch
template <typename T>
void finish(const FrankWolfe& step, const T* a, const T* q, const T* u, T* y, T* p, T* s,
            std::size_t stride, std::size_t classes, std::size_t rows) {
    std::copy(u, u + rows * stride, y);
    loops<T>().softmax(y, stride, classes, classes, p, stride, nullptr, rows);
    std::copy(a, a + rows * stride, y);
    target<T>(step, y, stride, classes, classes, s, stride, nullptr, rows);
    const T mix = static_cast<T>(step.mix), size = static_cast<T>(step.size);
    const T rest = static_cast<T>(1 - step.size), share = static_cast<T>(1 - step.mix);
    const T log_mix = std::log(mix), log_tiny = std::log(kTiny<T>);
    const T log_share = std::log(share * size);
    for (std::size_t i = 0; i < rows; ++i) {
        const T *const from = a + i * stride, *const unary = u + i * stride;
        const T *const start = p + i * stride, *const aim = s + i * stride;
        T* const to = y + i * stride;
        // logsumexp(x) = x - log(softmax(x)) in any class; the likeliest loses no digits.
        const auto normalizer = [classes](const T* logits, const T* marginals) {
            const T* const top = std::max_element(marginals, marginals + classes);
            return logits[top - marginals] - std::log(*top);
        };
        const T constant = normalizer(unary, start);
        const T shift = step.is_l2 ? T(0) : normalizer(from, aim);
        for (std::size_t c = 0; c < classes; ++c) {
            const T log_s = from[c] - shift + log_share;  // of the softmax
            if (!step.is_l2 && !step.needs_all()) {
                to[c] = log_s + constant;
                continue;
            }
            const T old = q == nullptr ? T(0) : q[i * stride + c];
            const T r = share * (rest * old + size * aim[c]) + mix * start[c];
            if (r >= kTiny<T>) {
                to[c] = std::log(r) + constant;
            } else if (mix > 0) {
                to[c] = log_mix + unary[c];
            } else {
                to[c] = (step.is_l2 ? log_tiny : log_s) + constant;
            }
        }
    }
}

/// The target of a step from the marginals before and after it, which is `after` itself unless the
/// step blends. Where the marginal only shrank, the target was zero: what is left is rounding.
///
/// @param width  of the marginals, which leave out the last class if it is less than `stride`
template <typename T>
void recover(const FrankWolfe& step, const T* before, const T* after, T* s, std::size_t stride,
             std::size_t width, std::size_t rows) {
    static constexpr T kRounding = 8 * std::numeric_limits<T>::epsilon();
    if (step.blends) {
        const T rest = static_cast<T>(1 - step.size), inverse = static_cast<T>(1 / step.size);
        for (std::size_t k = 0; k < rows * stride; ++k) {
            const T moved = after[k] - rest * before[k];
            s[k] = moved > kRounding * after[k] ? moved * inverse : T(0);
        }
        return;
    }
    if (after != s) std::copy(after, after + rows * stride, s);
    if (width == stride || !step.is_l2) return;
    for (std::size_t i = 0; i < rows; ++i)  // the last class, derived from the others
        if (s[i * stride + width] < 4 * kRounding) s[i * stride + width] = 0;
}

/// Gradients to strength and size.
struct RateSums {
    double strength = 0, size = 0;
};

/// Add what a step passes on to strength and size. With g = dL/dz, dL/dstrength = -sum of g z /
/// strength. As g sums to zero, and is zero outside the support, z / strength may be off by a
/// constant there: log s or s itself will do.
///
/// @param h       dL/dQ after the step
/// @param s       its target
/// @param before  Q before the step
template <typename T>
void add_rates(const FrankWolfe& step, const T* h, const T* s, const T* before, std::size_t stride,
               std::size_t classes, std::size_t rows, RateSums& sums) {
    const double scale = step.size / step.strength;
    for (std::size_t i = 0; i < rows * stride; i += stride) {
        double mean = 0, number = 0;
        for (std::size_t c = i; c < i + classes; ++c) {
            const double v = step.is_l2 ? double(s[c] > 0) : double(s[c]);
            mean += v * double(h[c]);
            number += v;
        }
        if (step.is_l2 && number > 0) mean /= number;
        for (std::size_t c = i; c < i + classes; ++c) {
            sums.size += double(h[c]) * (double(s[c]) - double(before[c]));
            if (!(s[c] > 0)) continue;
            const double v = step.is_l2 ? 1 : double(s[c]);
            const double a = step.is_l2 ? double(s[c]) : std::log(double(s[c]));
            sums.strength -= scale * v * (double(h[c]) - mean) * a;
        }
    }
}

/// The adjoint of `finish` and of the last target, from g = dL/dy: dL/dz_T in `next`, and the rest
/// of dL/du in `total`.
///
/// With r = (1 - mix) Q_T + mix Q_0, dL/dr = g / r. The shares that target and start have in r are
/// finite where r is tiny, so they stand in for s / r and Q_0 / r.
///
/// @param first,before,after  Q_0, Q_(T-1) and Q_T
/// @param s                   the last target
/// @param carry               out, null unless the step blends: dL/dQ_(T-1) without the messages
template <typename T>
void start_backward(const FrankWolfe& step, const T* g, const T* first, const T* before,
                    const T* after, const T* s, T* total, T* next, T* carry, std::size_t stride,
                    std::size_t classes, std::size_t rows, RateSums& sums) {
    const T mix = static_cast<T>(step.mix), share = static_cast<T>(1 - step.mix);
    const T size = static_cast<T>(step.size), rest = static_cast<T>(1 - step.size);
    const T inverse = static_cast<T>(1 / step.strength);
    const T held_if_tiny = T(mix > 0), aimed_if_tiny = T(mix == 0);
    for (std::size_t i = 0; i < rows * stride; i += stride) {
        // Without sums, so that compilers vectorize. `next` is s dL/ds for the softmax, and dL/ds
        // itself for a projection.
        for (std::size_t c = i; c < i + classes; ++c) {
            const T r = share * after[c] + mix * first[c];
            const bool is_tiny = r < kTiny<T>;
            const T inverse_r = T(1) / (is_tiny ? T(1) : r);
            const T pulled = is_tiny ? T(0) : share * g[c] * inverse_r;
            const T aimed = is_tiny ? aimed_if_tiny : share * size * s[c] * inverse_r;
            total[c] = g[c] * (is_tiny ? held_if_tiny : mix * first[c] * inverse_r);
            next[c] = !step.is_l2 ? aimed * g[c] : s[c] > 0 ? size * pulled : T(0);
        }
        T sum = 0, from_start = 0, from_target = 0, number = 0;
        for (std::size_t c = i; c < i + classes; ++c) {
            sum += g[c];
            from_start += total[c];
            from_target += next[c];
            number += step.is_l2 ? T(s[c] > 0) : s[c];
        }
        for (std::size_t c = i; c < i + classes && carry != nullptr; ++c) {
            const T r = share * after[c] + mix * first[c];
            const T pulled = r < kTiny<T> ? T(0) : share * g[c] / r;
            carry[c] = rest * pulled;
            if (step.learns) sums.size += double(pulled) * (double(s[c]) - double(before[c]));
        }
        if (step.is_l2 && number > 0) from_target /= number;
        for (std::size_t c = i; c < i + classes; ++c) {
            const T v = step.is_l2 ? T(s[c] > 0) : s[c];
            next[c] = inverse * (next[c] - v * from_target);
            total[c] += first[c] * (sum - from_start) + next[c];
            if (!step.learns || !(s[c] > 0)) continue;
            const double a = step.is_l2 ? double(s[c]) : std::log(double(s[c]));
            sums.strength -= double(next[c]) * a;
        }
        for (std::size_t c = i + classes; c < i + stride; ++c) {
            total[c] = next[c] = T(0);
            if (carry != nullptr) carry[c] = T(0);
        }
    }
}

}  // namespace crfrnn::frank_wolfe
