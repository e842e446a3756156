#include "bindings.hpp"

#include <string>

#include "loops/loops.hpp"

namespace nb = nanobind;

NB_MODULE(_core, m) {
    using namespace crfrnn::bindings;
    m.doc() = "Compiled core of crfrnn: arithmetic on arrays, nothing that a person calls.";
    bind_filters<float>(m);
    bind_terms<float>(m, "Term32");
    bind_crf<float>(m);
    bind_inference<float>(m, "Filter32");
    bind_filters<double>(m);
    bind_terms<double>(m, "Term64");
    bind_crf<double>(m);
    bind_inference<double>(m, "Filter64");
    bind_memory(m);
    bind_sizes(m);
    m.def("stores_half", [] { return crfrnn::loops<float>().half_tables.blur != nullptr; });
    m.def("instruction_set", [] { return std::string(crfrnn::loops<float>().name); });
}
