// What the files of bindings share: arrays in, arrays out, and the functions that each file
// defines. The Python side checks shapes and types first, with messages for people.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/memory.hpp"
#include "filters/separable.hpp"
#include "filters/term.hpp"
#include "lattice/lattice.hpp"

namespace crfrnn::bindings {

namespace nb = nanobind;

template <typename T>
using AnyIn = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <typename T>
using AnyOut = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t Axes>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu, nb::ndim<Axes>>;
template <typename T, std::size_t Axes>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu, nb::ndim<Axes>>;
using Index = std::int32_t;

/// Hand memory to Python as a NumPy array that owns it.
template <typename T>
nb::ndarray<nb::numpy, T> to_numpy(Buffer<T> buffer, std::initializer_list<std::size_t> shape) {
    auto block = std::make_unique<Buffer<T>>(std::move(buffer));
    T* const data = block->get();
    nb::capsule owner(block.get(), [](void* p) noexcept { delete static_cast<Buffer<T>*>(p); });
    block.release();
    return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

/// One batch item's lattice, whose neighbors begin at row `start` of the batch's table.
template <typename T>
Lattice<T> to_lattice(const In<Index, 2>& vertex, const In<T, 2>& weight,
                      const In<Index, 3>& neighbor, const In<Index, 1>& entry,
                      const In<Index, 1>& offset, std::size_t start) {
    return {vertex.data(),       weight.data(),       neighbor.data() + 2 * start,
            entry.data(),        offset.data(),       vertex.shape(0),
            vertex.shape(1) - 1, offset.shape(0) - 1, 2 * neighbor.shape(1)};
}

template <typename T>
std::vector<BandMatrix<T>> to_bands(const std::vector<In<T, 2>>& arrays) {
    std::vector<BandMatrix<T>> bands;
    for (const auto& array : arrays)
        bands.emplace_back(array.data(), array.shape(0), (array.shape(1) - 1) / 2);
    return bands;
}

/// A term and the arrays that it borrows from Python.
template <typename T>
struct TermArrays {
    Term<T> term;
    std::vector<nb::object> borrowed;

    void scale(const std::optional<In<T, 1>>& before, const std::optional<In<T, 1>>& after,
               const std::optional<In<T, 1>>& total) {
        term.before = borrow(before);
        term.after = borrow(after);
        term.total = borrow(total);
    }

private:
    const T* borrow(const std::optional<In<T, 1>>& array) {
        if (!array) return nullptr;
        borrowed.push_back(nb::cast(*array));
        return array->data();
    }
};

template <typename T>
using Terms = std::vector<const TermArrays<T>*>;

void bind_memory(nb::module_& m);
void bind_sizes(nb::module_& m);
template <typename T>
void bind_filters(nb::module_& m);
template <typename T>
void bind_terms(nb::module_& m, const char* class_name);
template <typename T>
void bind_crf(nb::module_& m);
template <typename T>
void bind_inference(nb::module_& m, const char* class_name);

}  // namespace crfrnn::bindings
