#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "base/memory.hpp"
#include "crf/mean_field.hpp"
#include "crf/model.hpp"
#include "crf/recurrence.hpp"
#include "filters/kernel_filter.hpp"
#include "filters/restricted.hpp"
#include "filters/restricted_terms.hpp"

namespace crfrnn {

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
    Model<T> alone = model;  // all keep their scores
    alone.terms.clear();
    MeanField<T>(alone, logits, result, 0, nullptr, 0, threads).infer();
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

    Model<T> inner = alone;
    inner.n = inner.row = count;
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
