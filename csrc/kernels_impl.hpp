// The inner loops themselves. Each instruction set includes this file once, with CRFRNN_ISA naming
// its namespace; nothing here may call a function template of another header, or the linker could
// hand another instruction set's copy to a processor that cannot run it.

#include "exponential.hpp"
#include "kernels.hpp"
#include "kernels_filters.hpp"
#include "kernels_marginals.hpp"
#include "lanes.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

template <typename T, typename S>
constexpr TableKernels<T, S> make_tables() {
    return {splat<T, S>, blur<T, S>, slice<T, S>};
}

template <typename T>
constexpr TableKernels<T, Half> make_half_tables() {
#if defined(CRFRNN_HALF)
    if constexpr (std::is_same_v<T, float>) return make_tables<T, Half>();
#endif
    return {};
}

template <typename T>
constexpr Kernels<T> make(const char* name) {
    return {name,
            make_tables<T, T>(),
            make_half_tables<T>(),
            scatter<T>,
            band<T>,
            gauss<T>,
            scale_rows<T>,
            widen<T>,
            mix<T>,
            potts_step<T>,
            potts_step_backward<T>,
            start_backward<T>,
            softmax<T>,
            scaled_exp<T>,
            add_exp<T>,
            softmax_backward<T>,
            outer<T>};
}

}  // namespace

#define CRFRNN_TEXT(name) #name
#define CRFRNN_NAME(name) CRFRNN_TEXT(name)

template <typename T>
const Kernels<T>& table() {
    static const Kernels<T> all = make<T>(CRFRNN_NAME(CRFRNN_ISA));
    return all;
}
template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace crfrnn::CRFRNN_ISA
