// nanobind only: arrays in, the interpreter lock released, arrays out.
// The Python side checks shapes and types first, with messages for people.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "class_peaks.hpp"
#include "exact.hpp"
#include "grid.hpp"
#include "lattice_build.hpp"
#include "mean_field.hpp"
#include "memory.hpp"
#include "message_peaks.hpp"
#include "permutohedral.hpp"

namespace nb = nanobind;

namespace {

template <typename T, std::size_t Axes>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu, nb::ndim<Axes>>;
template <typename T, std::size_t Axes>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu, nb::ndim<Axes>>;
using Index = std::int32_t;

/// Hand memory to Python as a NumPy array that owns it.
template <typename T>
nb::ndarray<nb::numpy, T> to_numpy(crfrnn::Buffer<T> buffer,
                                   std::initializer_list<std::size_t> shape) {
    using Buffer = crfrnn::Buffer<T>;
    auto block = std::make_unique<Buffer>(std::move(buffer));
    T* const data = block->get();
    nb::capsule owner(block.get(), [](void* p) noexcept { delete static_cast<Buffer*>(p); });
    block.release();
    return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

/// Bytes in large pages, which go back to the pool when Python lets go of them.
nb::ndarray<nb::numpy, std::uint8_t> memory(std::size_t bytes) {
    return to_numpy(crfrnn::uninitialized<std::uint8_t>(bytes), {bytes});
}

/// A kernel of the recurrence, and the arrays it borrows.
template <typename T>
struct TermArrays {
    crfrnn::Term<T> term;
    std::vector<nb::object> alive;

    void scale(std::optional<In<T, 1>> before, std::optional<In<T, 1>> after,
               std::optional<In<T, 1>> total) {
        term.before = keep(before);
        term.after = keep(after);
        term.total = keep(total);
    }

    template <typename Array>
    const T* keep(const std::optional<Array>& array) {
        if (!array) return nullptr;
        alive.push_back(nb::cast(*array));
        return array->data();
    }
};

template <typename T>
crfrnn::Lattice<T> make_lattice(const In<Index, 2>& vertex, const In<T, 2>& weight,
                                const In<Index, 3>& neighbor, const In<Index, 1>& entry,
                                const In<Index, 1>& offset, std::size_t start) {
    return {vertex.data(),       weight.data(),       neighbor.data() + 2 * start,
            entry.data(),        offset.data(),       vertex.shape(0),
            vertex.shape(1) - 1, offset.shape(0) - 1, 2 * neighbor.shape(1)};
}

template <typename T>
std::vector<crfrnn::BandMatrix<T>> make_bands(const std::vector<In<T, 2>>& arrays) {
    std::vector<crfrnn::BandMatrix<T>> bands;
    for (const auto& array : arrays)
        bands.emplace_back(array.data(), array.shape(0), (array.shape(1) - 1) / 2);
    return bands;
}

template <typename T>
auto build(In<T, 2> features, Out<Index, 2> vertex, Out<T, 2> weight, Out<Index, 1> entry,
           std::size_t threads) {
    const std::size_t d = features.shape(1);
    crfrnn::LatticeTables tables;
    {
        nb::gil_scoped_release release;
        tables = crfrnn::build_lattice(features.data(), features.shape(0), d, vertex.data(),
                                       weight.data(), entry.data(), threads);
    }
    return std::make_pair(to_numpy(std::move(tables.neighbor), {d + 1, tables.vertices, 2}),
                          to_numpy(std::move(tables.offset), {tables.vertices + 1}));
}

template <typename T>
void filter(In<T, 2> values, In<Index, 2> vertex, In<T, 2> weight, In<Index, 3> neighbor,
            In<Index, 1> entry, In<Index, 1> offset, std::size_t start, bool reverse, Out<T, 2> out,
            std::size_t threads) {
    const auto lattice = make_lattice(vertex, weight, neighbor, entry, offset, start);
    nb::gil_scoped_release release;
    crfrnn::filter(lattice, values.data(), out.data(), values.shape(1), reverse, threads);
}

template <typename T>
void separable(nb::ndarray<const T, nb::c_contig, nb::device::cpu> values,
               const std::vector<In<T, 2>>& bands,
               nb::ndarray<T, nb::c_contig, nb::device::cpu> out, std::size_t threads) {
    const auto matrices = make_bands(bands);
    nb::gil_scoped_release release;
    crfrnn::separable(values.data(), out.data(), values.shape(0), matrices,
                      values.shape(values.ndim() - 1), threads);
}

template <typename T>
void exact(In<T, 2> values, In<T, 2> features, double tolerance, Out<T, 2> out,
           std::size_t threads) {
    nb::gil_scoped_release release;
    crfrnn::exact(features.data(), features.shape(0), features.shape(1), values.data(), out.data(),
                  values.shape(1), tolerance, threads);
}

template <typename T>
std::vector<crfrnn::Term<T>> plain(const std::vector<const TermArrays<T>*>& arrays) {
    std::vector<crfrnn::Term<T>> terms;
    for (const auto* one : arrays) terms.push_back(one->term);
    return terms;
}

template <typename T>
crfrnn::Model<T> make_model(std::size_t n, std::size_t classes, std::size_t row,
                            nb::ndarray<const T, nb::c_contig, nb::device::cpu> weights,
                            const std::vector<const TermArrays<T>*>& terms) {
    crfrnn::Model<T> model;
    model.n = n;
    model.classes = classes;
    model.row = row;
    model.potts = weights.ndim() == 2;
    model.weights = weights.data();
    model.terms = plain(terms);
    return model;
}

template <typename T>
std::size_t forward(In<T, 2> logits, nb::ndarray<const T, nb::c_contig, nb::device::cpu> weights,
                    const std::vector<const TermArrays<T>*>& terms, std::size_t row,
                    std::size_t iterations, double tolerance, Out<T, 2> z,
                    std::optional<Out<T, 3>> saved, std::size_t threads) {
    const auto model = make_model(logits.shape(1), logits.shape(0), row, weights, terms);
    T* const history = saved ? saved->data() : nullptr;
    nb::gil_scoped_release release;
    crfrnn::Result<T> result{z.data()};
    crfrnn::Recurrence<T>(model).forward(logits.data(), result, iterations, history, tolerance,
                                         threads);
    return result.steps;
}

/// Inference: marginals and labels instead of logits. With `kept` classes, `weights` has a zero for
/// all the others together. Returns the steps made and whether all marginals are finite.
template <typename T>
auto marginals(In<T, 2> logits, nb::ndarray<const T, nb::c_contig, nb::device::cpu> weights,
               const std::vector<const TermArrays<T>*>& terms, std::size_t row,
               std::size_t iterations, double tolerance, const std::vector<std::size_t>& kept,
               Out<T, 2> probs, Out<std::int64_t, 1> labels, std::size_t threads) {
    const std::size_t all = logits.shape(0);
    auto model =
        make_model(logits.shape(1), kept.empty() ? all : kept.size() + 1, row, weights, terms);
    model.kept = kept;
    model.all = all;
    nb::gil_scoped_release release;
    crfrnn::Result<T> result{probs.data(), labels.data()};
    crfrnn::Recurrence<T>(model).forward(logits.data(), result, iterations, nullptr, tolerance,
                                         threads);
    return std::make_pair(result.steps, result.finite);
}

template <typename T>
void response(const TermArrays<T>& term, std::size_t n, std::size_t row, double power,
              Out<T, 1> out, std::size_t threads) {
    nb::gil_scoped_release release;
    crfrnn::response(term.term, n, row, power, out.data(), threads);
}

template <typename T>
std::vector<double> peaks(In<T, 2> logits, std::size_t threads) {
    std::vector<double> result(logits.shape(0));
    nb::gil_scoped_release release;
    crfrnn::class_peaks(logits.data(), logits.shape(0), logits.shape(1), result.data(), threads);
    return result;
}

template <typename T>
std::vector<double> message_peaks(In<T, 2> logits,
                                  const std::vector<std::vector<std::size_t>>& groups,
                                  In<T, 2> weights, const std::vector<const TermArrays<T>*>& terms,
                                  std::size_t row, std::size_t threads) {
    const auto plain_terms = plain(terms);
    std::vector<double> result(groups.size());
    nb::gil_scoped_release release;
    crfrnn::message_peaks(logits.data(), logits.shape(0), groups, logits.shape(1), row, plain_terms,
                          weights.data(), result.data(), threads);
    return result;
}

template <typename T>
void backward(In<T, 3> saved, In<T, 2> gradient,
              nb::ndarray<const T, nb::c_contig, nb::device::cpu> weights,
              const std::vector<const TermArrays<T>*>& terms, std::size_t row, Out<T, 2> to_logits,
              nb::ndarray<double, nb::c_contig, nb::device::cpu> sums, std::size_t threads) {
    const auto model = make_model(gradient.shape(1), gradient.shape(0), row, weights, terms);
    nb::gil_scoped_release release;
    crfrnn::Recurrence<T>(model).backward(saved.data(), gradient.data(), to_logits.data(),
                                          saved.shape(0), sums.data(), threads);
}

template <typename T>
void define(nb::module_& m, const char* term_name) {
    using Scale = std::optional<In<T, 1>>;
    using Terms = TermArrays<T>;
    m.def("build", &build<T>, nb::arg("features"), nb::arg("vertex"), nb::arg("weight"),
          nb::arg("entry"), nb::arg("threads"));
    m.def("filter", &filter<T>, nb::arg("values"), nb::arg("vertex"), nb::arg("weight"),
          nb::arg("neighbor"), nb::arg("entry"), nb::arg("offset"), nb::arg("start"),
          nb::arg("reverse"), nb::arg("out"), nb::arg("threads"));
    m.def("separable", &separable<T>, nb::arg("values"), nb::arg("bands"), nb::arg("out"),
          nb::arg("threads"));
    m.def("exact", &exact<T>, nb::arg("values"), nb::arg("features"), nb::arg("tolerance"),
          nb::arg("out"), nb::arg("threads"));
    nb::class_<Terms>(m, term_name);
    m.def(
        "exact_term",
        [](In<T, 2> features, double tolerance, Scale before, Scale after, Scale total) {
            Terms arrays;
            arrays.term.gaussian = crfrnn::PointSet<T>{features.data(), features.shape(0),
                                                       features.shape(1), tolerance};
            arrays.alive = {nb::cast(features)};
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("features"), nb::arg("tolerance"), nb::arg("before").none(),
        nb::arg("after").none(), nb::arg("total").none());
    m.def(
        "lattice_term",
        [](In<Index, 2> vertex, In<T, 2> weight, In<Index, 3> neighbor, In<Index, 1> entry,
           In<Index, 1> offset, std::size_t start, Scale before, Scale after, Scale total,
           bool half) {
            Terms arrays;
            arrays.term.half = half;
            arrays.term.gaussian = make_lattice(vertex, weight, neighbor, entry, offset, start);
            arrays.alive = {nb::cast(vertex), nb::cast(weight), nb::cast(neighbor), nb::cast(entry),
                            nb::cast(offset)};
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("vertex"), nb::arg("weight"), nb::arg("neighbor"), nb::arg("entry"),
        nb::arg("offset"), nb::arg("start"), nb::arg("before").none(), nb::arg("after").none(),
        nb::arg("total").none(), nb::arg("half"));
    m.def(
        "grid_term",
        [](const std::vector<In<T, 2>>& bands, Scale before, Scale after, Scale total) {
            Terms arrays;
            arrays.term.gaussian = make_bands(bands);
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("bands"), nb::arg("before").none(), nb::arg("after").none(),
        nb::arg("total").none());
    m.def("mean_field", &forward<T>, nb::arg("logits"), nb::arg("weights"), nb::arg("terms"),
          nb::arg("row"), nb::arg("iterations"), nb::arg("tolerance"), nb::arg("z"),
          nb::arg("saved").none(), nb::arg("threads"));
    m.def("marginals", &marginals<T>, nb::arg("logits"), nb::arg("weights"), nb::arg("terms"),
          nb::arg("row"), nb::arg("iterations"), nb::arg("tolerance"), nb::arg("kept"),
          nb::arg("probs"), nb::arg("labels"), nb::arg("threads"));
    m.def("response", &response<T>, nb::arg("term"), nb::arg("n"), nb::arg("row"), nb::arg("power"),
          nb::arg("out"), nb::arg("threads"));
    m.def("class_peaks", &peaks<T>, nb::arg("logits"), nb::arg("threads"));
    m.def("message_peaks", &message_peaks<T>, nb::arg("logits"), nb::arg("groups"),
          nb::arg("weights"), nb::arg("terms"), nb::arg("row"), nb::arg("threads"));
    m.def("mean_field_backward", &backward<T>, nb::arg("saved"), nb::arg("gradient"),
          nb::arg("weights"), nb::arg("terms"), nb::arg("row"), nb::arg("to_logits"),
          nb::arg("sums"), nb::arg("threads"));
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "Compiled core of crfrnn: arithmetic on arrays, nothing that a person calls.";
    define<float>(m, "Term32");
    define<double>(m, "Term64");
    m.def("memory", &memory, nb::arg("bytes"));
    m.def("release_memory", [] { crfrnn::Pool::shared().clear(); });
    m.attr("message_groups") = crfrnn::kMessageGroups;
    m.def("needs_total", &crfrnn::Recurrence<float>::needs_total, nb::arg("classes"));
    m.def("saved_width", &crfrnn::Recurrence<float>::saved_width, nb::arg("classes"));
    m.def("stores_half", [] { return crfrnn::kernels<float>().half_tables.blur != nullptr; });
    m.def("instruction_set", [] { return std::string(crfrnn::kernels<float>().name); });
}
