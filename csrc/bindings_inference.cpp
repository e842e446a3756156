// Inference as a whole, for arrays without gradients: filters that own what they need, marginals
// and labels.

#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings.hpp"
#include "crf/independent.hpp"
#include "crf/inference.hpp"
#include "filters/kernel_filter.hpp"
#include "filters/points.hpp"

namespace crfrnn::bindings {
namespace {

using Mask = std::optional<In<bool, 1>>;

Normalization to_normalization(const std::string& name) {
    if (name == "symmetric") return Normalization::symmetric;
    if (name == "before") return Normalization::before;
    if (name == "after") return Normalization::after;
    return Normalization::none;
}

Pixels to_pixels(std::size_t n, std::size_t row, const Mask& mask) {
    return {n, row, mask ? mask->data() : nullptr};
}

template <typename T>
using Maps = std::vector<nb::ndarray<const T, nb::device::cpu>>;

/// Maps of a grid, aligned with its axes from the last one on. An axis of length one, or one that a
/// map lacks, repeats.
template <typename T>
std::vector<FeatureMap<T>> to_feature_maps(const Maps<T>& maps,
                                           const std::vector<double>& bandwidths,
                                           const std::vector<std::size_t>& sizes) {
    std::vector<FeatureMap<T>> features;
    for (std::size_t k = 0; k < maps.size(); ++k) {
        const auto& map = maps[k];
        if (map.ndim() > sizes.size()) throw std::invalid_argument("a map has too many axes");
        FeatureMap<T> feature{map.data(), std::vector<std::ptrdiff_t>(sizes.size(), 0),
                              static_cast<T>(bandwidths[k])};
        const std::size_t missing = sizes.size() - map.ndim();
        for (std::size_t axis = 0; axis < map.ndim(); ++axis) {
            if (map.shape(axis) == 1) continue;
            if (map.shape(axis) != sizes[missing + axis])
                throw std::invalid_argument("a map has another size than the grid");
            feature.steps[missing + axis] = map.stride(axis);
        }
        features.push_back(std::move(feature));
    }
    return features;
}

std::size_t product(const std::vector<std::size_t>& sizes) {
    std::size_t n = 1;
    for (const std::size_t size : sizes) n *= size;
    return n;
}

template <typename T>
KernelFilter<T> lattice_filter(const Maps<T>& maps, const std::vector<double>& bandwidths,
                               const std::vector<std::size_t>& sizes,
                               const std::string& normalization, const Mask& mask,
                               std::size_t threads) {
    const auto features = to_feature_maps(maps, bandwidths, sizes);
    nb::gil_scoped_release release;
    const auto points = to_points(features, sizes, threads);
    return KernelFilter<T>::on_lattice(points.get(), maps.size(),
                                       to_pixels(product(sizes), sizes.back(), mask),
                                       to_normalization(normalization), threads);
}

/// A filter for inferences in which the pixels of `held` are clamped: they are joined where no
/// feature varies by more than `spread` bandwidths.
template <typename T>
KernelFilter<T> joined_filter(const Maps<T>& maps, const std::vector<double>& bandwidths,
                              const std::vector<std::size_t>& sizes,
                              const std::string& normalization, In<bool, 1> held, double spread,
                              std::size_t threads) {
    const auto features = to_feature_maps(maps, bandwidths, sizes);
    if (held.shape(0) != product(sizes)) throw std::invalid_argument("held has another size");
    nb::gil_scoped_release release;
    const auto points = to_points(features, sizes, threads);
    return KernelFilter<T>::on_lattice(
        join_alike(points.get(), maps.size(), sizes, held.data(), spread), maps.size(),
        to_normalization(normalization), threads);
}

template <typename T>
KernelFilter<T> exact_filter(const Maps<T>& maps, const std::vector<double>& bandwidths,
                             const std::vector<std::size_t>& sizes,
                             const std::string& normalization, const Mask& mask, double tolerance,
                             std::size_t threads) {
    const auto features = to_feature_maps(maps, bandwidths, sizes);
    nb::gil_scoped_release release;
    auto points = to_points(features, sizes, threads);
    return KernelFilter<T>::exact(std::move(points), maps.size(), tolerance,
                                  to_pixels(product(sizes), sizes.back(), mask),
                                  to_normalization(normalization), threads);
}

template <typename T>
KernelFilter<T> grid_filter(const std::vector<std::size_t>& sizes,
                            const std::vector<double>& bandwidths, double reach,
                            const std::string& normalization, const Mask& mask,
                            std::size_t threads) {
    nb::gil_scoped_release release;
    return KernelFilter<T>::on_grid(sizes, bandwidths, reach,
                                    to_pixels(product(sizes), sizes.back(), mask),
                                    to_normalization(normalization), threads);
}

/// @throws std::invalid_argument if a logit is not finite
/// @param filters one list per image, with one filter per kernel
/// @param row     pixels in a row of the grid; n if there is no grid
/// @param held    images x n, the clamped pixels, or none
/// @param together images that are computed at a time, each by `threads`
/// @returns marginals, labels, and for each image the steps, the classes that took part (empty for
///          all) and the bound of the messages to the others; whether all marginals are finite
template <typename T>
auto infer(In<T, 3> logits, std::size_t row,
           const std::vector<std::vector<const KernelFilter<T>*>>& filters, AnyIn<T> weights,
           std::optional<In<T, 2>> compatibility, std::size_t iterations, double tolerance,
           bool prune, bool half, const std::optional<In<bool, 2>>& held, std::size_t together,
           std::size_t threads) {
    Crf<T> crf{logits.shape(0), logits.shape(1), logits.shape(2), row, {}, {}, filters};
    crf.weights.assign(weights.data(), weights.data() + weights.size());
    if (compatibility)
        crf.compatibility.assign(compatibility->data(),
                                 compatibility->data() + compatibility->size());
    auto probs = uninitialized<T>(logits.size());
    auto labels = uninitialized<std::int64_t>(crf.images * crf.n);
    InferenceReport report;
    {
        nb::gil_scoped_release release;
        report = crfrnn::infer(crf, logits.data(),
                               {iterations, tolerance, prune, half, together, threads}, probs.get(),
                               labels.get(), held ? held->data() : nullptr);
    }
    std::vector<std::vector<std::size_t>> kept;
    std::vector<double> bounds;
    for (const Certificate& certificate : report.certificates) {
        kept.push_back(certificate.kept);
        bounds.push_back(certificate.bound);
    }
    return std::make_tuple(to_numpy(std::move(probs), {crf.images, crf.classes, crf.n}),
                           to_numpy(std::move(labels), {crf.images, crf.n}), report.steps, kept,
                           bounds, report.is_finite);
}

/// Independent masks of one image: the marginals of the foreground. Returns whether they are
/// finite.
///
/// @throws std::invalid_argument if a logit is not finite
/// @param weights kernel weights of background and foreground, kernels x 2
/// @param held    the clamped pixels of each mask, or none
template <typename T>
bool infer_masks(In<T, 2> logits, std::size_t row,
                 const std::vector<const KernelFilter<T>*>& filters, In<T, 2> weights,
                 std::size_t iterations, bool half, const std::optional<In<bool, 2>>& held,
                 Out<T, 2> probs, std::size_t threads) {
    Masks<T> masks{logits.shape(0),
                   logits.shape(1),
                   row,
                   logits.data(),
                   filters,
                   {},
                   {},
                   held ? held->data() : nullptr};
    for (std::size_t k = 0; k < filters.size(); ++k) {
        masks.background.push_back(weights.data()[2 * k]);
        masks.foreground.push_back(weights.data()[2 * k + 1]);
    }
    nb::gil_scoped_release release;
    return crfrnn::infer_masks(masks, iterations, half, threads, probs.data());
}

template <typename T>
auto apply(const KernelFilter<T>& filter, In<T, 2> q, std::size_t threads) {
    auto out = uninitialized<T>(q.size());
    {
        nb::gil_scoped_release release;
        filter.apply(q.data(), q.shape(0), out.get(), threads);
    }
    return to_numpy(std::move(out), {q.shape(0), q.shape(1)});
}

}  // namespace

template <typename T>
void bind_inference(nb::module_& m, const char* class_name) {
    nb::class_<KernelFilter<T>>(m, class_name)
        .def("apply", &apply<T>, nb::arg("q"), nb::arg("threads"));
    m.def("lattice_filter", &lattice_filter<T>, nb::arg("maps"), nb::arg("bandwidths"),
          nb::arg("sizes"), nb::arg("normalization"), nb::arg("mask").none(), nb::arg("threads"));
    m.def("joined_filter", &joined_filter<T>, nb::arg("maps"), nb::arg("bandwidths"),
          nb::arg("sizes"), nb::arg("normalization"), nb::arg("held"), nb::arg("spread"),
          nb::arg("threads"));
    m.def("exact_filter", &exact_filter<T>, nb::arg("maps"), nb::arg("bandwidths"),
          nb::arg("sizes"), nb::arg("normalization"), nb::arg("mask").none(), nb::arg("tolerance"),
          nb::arg("threads"));
    const char* const grid = sizeof(T) == 4 ? "grid_filter32" : "grid_filter64";
    m.def(grid, &grid_filter<T>, nb::arg("sizes"), nb::arg("bandwidths"), nb::arg("reach"),
          nb::arg("normalization"), nb::arg("mask").none(), nb::arg("threads"));
    m.def("infer", &infer<T>, nb::arg("logits"), nb::arg("row"), nb::arg("filters"),
          nb::arg("weights"), nb::arg("compatibility").none(), nb::arg("iterations"),
          nb::arg("tolerance"), nb::arg("prune"), nb::arg("half"), nb::arg("held").none(),
          nb::arg("together"), nb::arg("threads"));
    m.def("infer_masks", &infer_masks<T>, nb::arg("logits"), nb::arg("row"), nb::arg("filters"),
          nb::arg("weights"), nb::arg("iterations"), nb::arg("half"), nb::arg("held").none(),
          nb::arg("probs"), nb::arg("threads"));
}

template void bind_inference<float>(nb::module_&, const char*);
template void bind_inference<double>(nb::module_&, const char*);

}  // namespace crfrnn::bindings
