// The Gaussian filters: building a lattice, and filtering on it, along axes, or exactly.

#include "bindings.hpp"
#include "filters/exact.hpp"
#include "filters/separable.hpp"
#include "lattice/build.hpp"
#include "lattice/entries.hpp"
#include "lattice/filter.hpp"

namespace crfrnn::bindings {
namespace {

template <typename T>
auto build(In<T, 2> features, Out<Index, 2> vertex, Out<T, 2> weight, Out<Index, 1> entry,
           std::size_t threads) {
    const std::size_t d = features.shape(1);
    LatticeTables tables;
    Buffer<std::int32_t> offset;
    {
        nb::gil_scoped_release release;
        tables = build_lattice(features.data(), features.shape(0), d, vertex.data(), weight.data(),
                               threads);
        offset = uninitialized<std::int32_t>(tables.vertices + 1);
        find_entries(vertex.data(), vertex.shape(0) * (d + 1), tables.vertices, entry.data(),
                     offset.get(), threads);
    }
    return std::make_pair(to_numpy(std::move(tables.neighbor), {d + 1, tables.vertices, 2}),
                          to_numpy(std::move(offset), {tables.vertices + 1}));
}

template <typename T>
void filter(In<T, 2> values, In<Index, 2> vertex, In<T, 2> weight, In<Index, 3> neighbor,
            In<Index, 1> entry, In<Index, 1> offset, std::size_t start, bool reverse, Out<T, 2> out,
            std::size_t threads) {
    const auto lattice = to_lattice(vertex, weight, neighbor, entry, offset, start);
    nb::gil_scoped_release release;
    crfrnn::filter(lattice, values.data(), out.data(), values.shape(1), reverse, threads);
}

template <typename T>
void filter_to_weight(In<T, 2> values, In<T, 2> gradient, In<Index, 2> vertex, In<T, 2> weight,
                      In<Index, 3> neighbor, In<Index, 1> entry, In<Index, 1> offset,
                      std::size_t start, bool reverse, Out<T, 2> out, std::size_t threads) {
    const auto lattice = to_lattice(vertex, weight, neighbor, entry, offset, start);
    nb::gil_scoped_release release;
    crfrnn::filter_to_weight(lattice, values.data(), gradient.data(), out.data(), values.shape(1),
                             reverse, threads);
}

template <typename T>
void separable(AnyIn<T> values, const std::vector<In<T, 2>>& bands, AnyOut<T> out,
               std::size_t threads) {
    const auto matrices = to_bands(bands);
    nb::gil_scoped_release release;
    crfrnn::separable(values.data(), out.data(), values.shape(0), matrices,
                      values.shape(values.ndim() - 1), threads);
}

template <typename T>
void exact(In<T, 2> values, In<T, 2> features, std::size_t targets, double tolerance, Out<T, 2> out,
           std::size_t threads) {
    nb::gil_scoped_release release;
    crfrnn::exact(features.data(), features.shape(0), features.shape(1), targets, values.data(),
                  out.data(), values.shape(1), tolerance, threads);
}

}  // namespace

template <typename T>
void bind_filters(nb::module_& m) {
    m.def("build", &build<T>, nb::arg("features"), nb::arg("vertex"), nb::arg("weight"),
          nb::arg("entry"), nb::arg("threads"));
    m.def("filter", &filter<T>, nb::arg("values"), nb::arg("vertex"), nb::arg("weight"),
          nb::arg("neighbor"), nb::arg("entry"), nb::arg("offset"), nb::arg("start"),
          nb::arg("reverse"), nb::arg("out"), nb::arg("threads"));
    m.def("filter_to_weight", &filter_to_weight<T>, nb::arg("values"), nb::arg("gradient"),
          nb::arg("vertex"), nb::arg("weight"), nb::arg("neighbor"), nb::arg("entry"),
          nb::arg("offset"), nb::arg("start"), nb::arg("reverse"), nb::arg("out"),
          nb::arg("threads"));
    m.def("separable", &separable<T>, nb::arg("values"), nb::arg("bands"), nb::arg("out"),
          nb::arg("threads"));
    m.def("exact", &exact<T>, nb::arg("values"), nb::arg("features"), nb::arg("targets"),
          nb::arg("tolerance"), nb::arg("out"), nb::arg("threads"));
}

template void bind_filters<float>(nb::module_&);
template void bind_filters<double>(nb::module_&);

}  // namespace crfrnn::bindings
