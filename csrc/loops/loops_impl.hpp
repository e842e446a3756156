// Fills the table of loops. Each instruction set includes this file once, with CRFRNN_ISA naming
// its namespace.
//
// Nothing in these headers may call a function template of another folder or of the standard
// library. Two files that instantiate one template leave two copies of it, the linker keeps either,
// and a processor without AVX-512 could be handed the copy that needs it.

#include "loops/band.hpp"
#include "loops/exponential.hpp"
#include "loops/frank_wolfe.hpp"
#include "loops/gauss.hpp"
#include "loops/lanes.hpp"
#include "loops/lattice.hpp"
#include "loops/loops.hpp"
#include "loops/marginals.hpp"
#include "loops/products.hpp"
#include "loops/rows.hpp"
#include "loops/step.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

template <typename T, typename S>
constexpr TableLoops<T, S> table_loops() {
    return {splat<T, S>, blur<T, S>, slice<T, S>};
}

template <typename T>
constexpr TableLoops<T, Half> half_table_loops() {
#if defined(CRFRNN_HALF)
    if constexpr (std::is_same_v<T, float>) return table_loops<T, Half>();
#endif
    return {};
}

template <typename T>
constexpr Loops<T> all_loops(const char* name) {
    return {name,
            table_loops<T, T>(),
            half_table_loops<T>(),
            splat_points<T>,
            blur_rows<T>,
            band<T>,
            gauss<T>,
            scale_rows<T>,
            widen<T>,
            mix<T>,
            potts_step<T>,
            independent_step<T>,
            sigmoid<T>,
            potts_step_backward<T>,
            start_backward<T>,
            softmax<T>,
            project<T>,
            scaled_exp<T>,
            add_exp<T>,
            softmax_backward<T>,
            potts_pull<T>,
            target_backward<T>,
            outer<T>};
}

}  // namespace

#define CRFRNN_TEXT(name) #name
#define CRFRNN_NAME(name) CRFRNN_TEXT(name)

template <typename T>
const Loops<T>& table() {
    static const Loops<T> all = all_loops<T>(CRFRNN_NAME(CRFRNN_ISA));
    return all;
}
template const Loops<float>& table<float>();
template const Loops<double>& table<double>();

}  // namespace crfrnn::CRFRNN_ISA
