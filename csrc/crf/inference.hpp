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
    std::vector<std::size_t> steps;         ///< updates computed for each image
    std::vector<Certificate> certificates;  ///< of each image
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

/// The weights of the kept classes, and zero for the class that stands for all others.
template <typename T>
std::vector<T> kept_weights(const std::vector<T>& weights, std::size_t classes,
                            const std::vector<std::size_t>& kept) {
    // Weight zero: the message to the class that stands for all others is zero. Its logit is the
    // log of the sum of the exponentials of those that it replaces, so their softmax is exact.
    std::vector<T> columns;
    for (std::size_t k = 0; k < weights.size() / classes; ++k) {
        for (const std::size_t c : kept) columns.push_back(weights[k * classes + c]);
        columns.push_back(T(0));
    }
    return columns;
}

/// Marginals and labels of every image: pruning, then the recurrence. Each image is pruned on its
/// own, so its result is that of a batch of one.
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
    const std::vector<T> weights = penalty_weights(crf, model.is_potts);
    InferenceReport report;
    report.steps.resize(crf.images);
    report.certificates.resize(crf.images);
    std::vector<char> finite(crf.images);
    const auto infer_image = [&](std::size_t b) {
        Model<T> of_image = model;
        for (const auto* filter : crf.filters[b])
            of_image.terms.push_back(options.half ? filter->half_term() : filter->term());
        Certificate& certificate = report.certificates[b];
        if (options.prunes && model.is_potts)
            certificate = certify(logits + b * image_size, crf.classes, crf.n, crf.row,
                                  of_image.terms, weights, options.iterations, options.threads);
        of_image.kept = certificate.kept;
        of_image.is_even = of_image.kept.empty();
        of_image.classes = of_image.is_even ? crf.classes : of_image.kept.size() + 1;
        const std::vector<T> columns =
            of_image.is_even ? weights : kept_weights(weights, crf.classes, of_image.kept);
        of_image.weights = columns.data();
        if (of_image.is_even && of_image.classes == 2)
            for (std::size_t k = 0; k < of_image.terms.size(); ++k)
                of_image.terms[k].total = crf.filters[b][k]->total(options.threads);
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
    };
    Team::run(std::min(options.together, crf.images),
              [&](Team& team) { team.for_each(crf.images, infer_image); });
    report.is_finite = std::all_of(finite.begin(), finite.end(), [](char is) { return is != 0; });
    return report;
}

}  // namespace crfrnn
