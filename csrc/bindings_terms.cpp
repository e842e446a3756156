// Terms: the normalized kernels of a model, each over arrays that Python owns.

#include "bindings.hpp"
#include "filters/term.hpp"

namespace crfrnn::bindings {

template <typename T>
void bind_terms(nb::module_& m, const char* class_name) {
    using Scale = std::optional<In<T, 1>>;
    using Arrays = TermArrays<T>;
    nb::class_<Arrays>(m, class_name);
    m.def(
        "exact_term",
        [](In<T, 2> features, double tolerance, Scale before, Scale after, Scale total) {
            Arrays arrays;
            arrays.term.gaussian =
                PointSet<T>{features.data(), features.shape(0), features.shape(1), tolerance};
            arrays.borrowed = {nb::cast(features)};
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("features"), nb::arg("tolerance"), nb::arg("before").none(),
        nb::arg("after").none(), nb::arg("total").none());
    m.def(
        "lattice_term",
        [](In<Index, 2> vertex, In<T, 2> weight, In<Index, 3> neighbor, In<Index, 1> entry,
           In<Index, 1> offset, std::size_t start, Scale before, Scale after, Scale total) {
            Arrays arrays;
            arrays.term.gaussian = to_lattice(vertex, weight, neighbor, entry, offset, start);
            arrays.borrowed = {nb::cast(vertex), nb::cast(weight), nb::cast(neighbor),
                               nb::cast(entry), nb::cast(offset)};
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("vertex"), nb::arg("weight"), nb::arg("neighbor"), nb::arg("entry"),
        nb::arg("offset"), nb::arg("start"), nb::arg("before").none(), nb::arg("after").none(),
        nb::arg("total").none());
    m.def(
        "grid_term",
        [](const std::vector<In<T, 2>>& bands, Scale before, Scale after, Scale total) {
            Arrays arrays;
            arrays.term.gaussian = to_bands(bands);
            arrays.scale(before, after, total);
            return arrays;
        },
        nb::arg("bands"), nb::arg("before").none(), nb::arg("after").none(),
        nb::arg("total").none());
}

template void bind_terms<float>(nb::module_&, const char*);
template void bind_terms<double>(nb::module_&, const char*);

}  // namespace crfrnn::bindings
