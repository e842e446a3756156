#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "base/finite.hpp"
#include "base/threads.hpp"
#include "crf/certificate.hpp"
#include "crf/clamped.hpp"
#include "crf/mean_field.hpp"
#include "crf/model.hpp"
#include "filters/kernel_filter.hpp"

namespace crfrnn {

/// A fully connected CRF over a batch of images of one size.
template <typename T>
struct Crf {
    std::size_t images, classes, n;
    std::size_t row;  ///< pixels in a row of the grid; n if there is no grid
    /// Kernel weights: kernels x classes, or kernels x classes x classes.
    std::vector<T> weights;
    /// Penalty for label c beside label d, classes x classes. Empty is Potts.
    std::vector<T> compatibility;
    /// The filters of the kernels, for each image.
    std::vector<std::vector<const KernelFilter<T>*>> filters;
};

struct InferenceOptions {
    std::size_t iterations;
    double tolerance;  ///< an image stops when its marginals change by less on average; 0: never
    bool prunes;       ///< leave out the classes that `certify` permits
    bool half;         ///< lattices may store their values as float16
    std::size_t together;  ///< images that are computed at a time
    std::size_t threads;   ///< of each of these images
};

/// What an inference reports besides marginals and labels.
struct InferenceReport {
    std::vector<std::size_t> steps;  ///< updates computed for each image
    Certificate certificate;
    bool is_finite = true;
};

/// The weights as the recurrence takes them: kernels x classes for Potts with a weight per class,
/// otherwise kernels x classes x classes, A W_k.
template <typename T>
std::vector<T> penalty_weights(const Crf<T>& crf, bool& is_potts) {
    const std::size_t c = crf.classes;
    const std::size_t kernels = crf.filters.empty() ? 0 : crf.filters[0].size();
    const bool is_diagonal = crf.weights.size() == kernels * c;
    is_potts = crf.compatibility.empty() && is_diagonal;
    if (is_potts) return crf.weights;
    std::vector<T> product(kernels * c * c, T(0));
    for (std::size_t k = 0; k < kernels; ++k)
        for (std::size_t to = 0; to < c; ++to)
            for (std::size_t from = 0; from < c; ++from) {
                const auto a = [&](std::size_t d) {
                    return crf.compatibility.empty() ? T(to != d) : crf.compatibility[to * c + d];
                };
                T& sum = product[(k * c + to) * c + from];
                if (is_diagonal) {
                    sum = a(from) * crf.weights[k * c + from];
                    continue;
                }
                for (std::size_t d = 0; d < c; ++d)
                    sum += a(d) * crf.weights[(k * c + d) * c + from];
            }
    return product;
}

/// Marginals and labels of every image: pruning, then the recurrence.
///
/// @throws std::invalid_argument if a logit is not finite
/// @param logits  images x classes x n
/// @param probs   out, images x classes x n
/// @param labels  out, images x n
/// @param held    images x n, the clamped pixels; null for none
template <typename T>
InferenceReport infer(const Crf<T>& crf, const T* logits, const InferenceOptions& options, T* probs,
                      std::int64_t* labels, const bool* held = nullptr) {
    const std::size_t image_size = crf.classes * crf.n;
    if (!all_finite(logits, crf.images * image_size, options.together * options.threads))
        throw std::invalid_argument("the logits must be finite");
    Model<T> model;
    model.n = crf.n;
    model.row = crf.row;
    model.all = crf.classes;
    std::vector<T> weights = penalty_weights(crf, model.is_potts);
    InferenceReport report;
    if (options.prunes && model.is_potts) {
        std::vector<const T*> starts;
        std::vector<std::vector<Term<T>>> terms(crf.images);
        for (std::size_t b = 0; b < crf.images; ++b) {
            starts.push_back(logits + b * image_size);
            for (const auto* filter : crf.filters[b]) terms[b].push_back(filter->term());
        }
        report.certificate = certify(starts, crf.classes, crf.n, crf.row, terms, weights,
                                     options.iterations, options.together, options.threads);
    }
    const std::vector<std::size_t>& kept = report.certificate.kept;
    model.kept = kept;
    model.classes = kept.empty() ? crf.classes : kept.size() + 1;
    model.is_even = kept.empty();
    if (!kept.empty()) {
        // Weight zero: the message to the class that stands for all others is zero. Its logit is
        // the log of the sum of the exponentials of those that it replaces, so their softmax is
        // exact.
        std::vector<T> columns;
        for (std::size_t k = 0; k < weights.size() / crf.classes; ++k) {
            for (const std::size_t c : kept) columns.push_back(weights[k * crf.classes + c]);
            columns.push_back(T(0));
        }
        weights = std::move(columns);
    }
    model.weights = weights.data();
    report.steps.resize(crf.images);
    std::vector<char> finite(crf.images);
    Team::run(std::min(options.together, crf.images), [&](Team& team) {
        team.for_each(crf.images, [&](std::size_t b) {
            Model<T> of_image = model;
            for (const auto* filter : crf.filters[b]) {
                of_image.terms.push_back(options.half ? filter->half_term() : filter->term());
                if (model.is_even && model.classes == 2)
                    of_image.terms.back().total = filter->total(options.threads);
            }
            Result<T> result{probs + b * image_size, labels + b * crf.n};
            if (held != nullptr) {
                infer_clamped(of_image, crf.filters[b], logits + b * image_size, held + b * crf.n,
                              result, options.iterations, options.tolerance, options.threads);
            } else {
                MeanField<T>(of_image, logits + b * image_size, result, options.iterations, nullptr,
                             options.tolerance, options.threads)
                    .infer();
            }
            report.steps[b] = result.iterations;
            finite[b] = result.is_finite;
        });
    });
    report.is_finite = std::all_of(finite.begin(), finite.end(), [](char is) { return is != 0; });
    return report;
}

}  // namespace crfrnn
