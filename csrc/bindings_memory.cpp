// Large blocks of memory, and giving them back.

#include "base/memory.hpp"
#include "bindings.hpp"

namespace crfrnn::bindings {
namespace {

/// Bytes in large pages, which go back to the pool when Python lets go of them.
nb::ndarray<nb::numpy, std::uint8_t> memory(std::size_t bytes) {
    return to_numpy(uninitialized<std::uint8_t>(bytes), {bytes});
}

}  // namespace

void bind_memory(nb::module_& m) {
    m.def("memory", &memory, nb::arg("bytes"));
    m.def("release_memory", [] { Pool::shared().clear(); });
}

}  // namespace crfrnn::bindings
