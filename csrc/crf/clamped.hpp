#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "crf/mean_field.hpp"
#include "crf/model.hpp"
#include "crf/recurrence.hpp"
#include "filters/kernel_filter.hpp"
#include "filters/restricted.hpp"
#include "filters/restricted_terms.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Marginals and labels of the scores, before any update.
template <typename T>
void write_scores(const T* logits, std::size_t n, std::size_t classes, const Result<T>& result,
                  std::size_t threads) {
    const Loops<T>& l = loops<T>();
    const Tiles tiles(n, n, 0);
    Team::run(threads_for(n * (1 + classes / 4), threads), [&](Team& team) {
        tiles.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
            const std::size_t rows = end - begin;
            T top[kTile], high[kTile] = {}, low[kTile] = {}, best[kTile] = {};
            std::copy_n(logits + begin, rows, top);
            for (std::size_t c = 1; c < classes; ++c) {
                const T* const z = logits + c * n + begin;
                for (std::size_t i = 0; i < rows; ++i) top[i] = top[i] < z[i] ? z[i] : top[i];
            }
            for (std::size_t c = 0; c < classes; ++c)
                l.add_exp(logits + c * n + begin, top, std::min<std::size_t>(classes, 256), high,
                          low, rows);
            for (std::size_t i = 0; i < rows; ++i) high[i] = 1 / (high[i] + low[i]);
            std::int64_t* const labels = result.labels + begin;
            for (std::size_t c = 0; c < classes; ++c) {
                T* const q = result.values + c * n + begin;
                l.scaled_exp(logits + c * n + begin, top, high, q, rows);
                for (std::size_t i = 0; i < rows; ++i) {
                    labels[i] = q[i] > best[i] ? static_cast<std::int64_t>(c) : labels[i];
                    best[i] = q[i] > best[i] ? q[i] : best[i];
                }
            }
        });
    });
}

/// The mean marginals of the pixels of each point.
template <typename T>
Buffer<T> joined(const T* rows, std::size_t n, std::size_t width, const KernelFilter<T>& kernel) {
    auto means = uninitialized<T>(kernel.count() * width);
    std::fill_n(means.get(), kernel.count() * width, T(0));
    for (std::size_t i = 0; i < n; ++i) {
        const auto m = static_cast<std::size_t>(kernel.member()[i]);
        for (std::size_t c = 0; c < width; ++c)
            means[m * width + c] += rows[i * width + c] / kernel.share()[m];
    }
    return means;
}

/// Mean-field inference of one image in which some pixels are clamped: they send messages and keep
/// their scores. It is the recurrence in which the clamped rows are put back after each step, but
/// runs on the free pixels alone, with filters that are restricted to them.
///
/// @param kernels the filters of the terms, some of which may join clamped pixels
/// @param held of each pixel; with a tolerance, the mean change is that of the free pixels
template <typename T>
void infer_clamped(const Model<T>& model, const std::vector<const KernelFilter<T>*>& kernels,
                   const T* logits, const bool* held, Result<T>& result, std::size_t iterations,
                   double tolerance, std::size_t threads) {
    const std::size_t n = model.n, all = model.kept.empty() ? model.classes : model.all;
    write_scores(logits, n, all, result, threads);
    FreePixels free;
    for (std::size_t i = 0; i < n; ++i)
        if (!held[i]) free.push_back(static_cast<std::int32_t>(i));
    const std::size_t count = free.size();
    if (count == 0 || iterations == 0) {
        result.iterations = tolerance > 0 ? std::min<std::size_t>(iterations, 1) : iterations;
        return;
    }

    // The clamped marginals as the filters take them; see `Recurrence` and pair.hpp. The class that
    // stands for those left out has no weight, so nobody looks at what it sends.
    const Recurrence<T> r(model);
    const std::size_t filtered = std::min(r.filtered, model.kept.empty() ? all : model.kept.size());
    const auto rows = uninitialized<T>(n * r.width);
    std::fill_n(rows.get(), n * r.width, T(0));
    for (std::size_t c = 0; c < filtered; ++c) {
        const T* const q = result.values + (model.kept.empty() ? c : model.kept[c]) * n;
        for (std::size_t i = 0; i < n; ++i) {
            const T value = r.is_pair ? (q[i] - q[n + i]) / 2 : q[i];
            rows[i * r.width + c] = held[i] ? value : T(0);
        }
    }

    Model<T> inner = model;
    inner.n = inner.row = count;
    inner.terms.clear();
    std::vector<std::unique_ptr<Restricted<T>>> filters;
    std::vector<std::vector<T>> totals;
    for (std::size_t k = 0; k < kernels.size(); ++k) {
        const Term<T>& term = model.terms[k];
        const KernelFilter<T>& kernel = *kernels[k];
        if (kernel.member() == nullptr) {
            filters.push_back(restricted(term, n, model.row, free, rows.get(), r.width, threads));
            totals.push_back(gathered(term.total, free));
        } else {
            FreePixels first(count);  // the points of free pixels come first
            std::iota(first.begin(), first.end(), 0);
            const auto sent = joined(rows.get(), n, r.width, kernel);
            filters.push_back(restricted(term, kernel.count(), kernel.count(), first, sent.get(),
                                         r.width, threads));
            totals.push_back(gathered(term.total, first));
        }
        Term<T> between;
        between.gaussian = filters.back().get();
        between.total = or_null(totals.back());
        inner.terms.push_back(between);
    }
    const auto scores = uninitialized<T>(all * count), probs = uninitialized<T>(all * count);
    const auto labels = uninitialized<std::int64_t>(count);
    for (std::size_t c = 0; c < all; ++c)
        for (std::size_t k = 0; k < count; ++k)
            scores[c * count + k] = logits[c * n + static_cast<std::size_t>(free[k])];
    Result<T> found{probs.get(), labels.get()};
    MeanField<T>(inner, scores.get(), found, iterations, nullptr, tolerance, threads).infer();
    for (std::size_t k = 0; k < count; ++k) {
        for (std::size_t c = 0; c < all; ++c)
            result.values[c * n + static_cast<std::size_t>(free[k])] = probs[c * count + k];
        result.labels[free[k]] = labels[k];
    }
    result.iterations = found.iterations;
    result.is_finite = result.is_finite && found.is_finite;
}

}  // namespace crfrnn
