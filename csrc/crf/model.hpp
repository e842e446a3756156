#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "filters/term.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// A regularized Frank-Wolfe step in place of mean field's (Lê-Huu & Alahari, 2021):
///
///     s = the distribution nearest to z / strength,   Q = (1 - size) Q + size s
///
/// where "nearest" is the softmax or, with l2, the point of the simplex at the least distance. The
/// result is the logarithm of (1 - mix) Q + mix Q_0. See crf/frank_wolfe.hpp.
struct FrankWolfe {
    bool is_l2 = false;
    double strength = 1, size = 1, mix = 0;
    bool blends = false;  ///< whether size may differ from 1
    bool learns = false;  ///< whether the gradients to strength and size are wanted

    /// Whether rows must hold the last class. It is otherwise derived as one minus the others, too
    /// coarse for the logarithm of a small sum.
    bool needs_all() const { return blends || mix > 0; }
};

/// A fully connected CRF over one image: sizes, kernels, and how messages become penalties.
template <typename T>
struct Model {
    std::size_t n = 0;  ///< pixels
    std::size_t classes = 0;
    std::size_t row = 0;  ///< pixels in a row of the grid; n if there is no grid
    std::vector<Term<T>> terms;
    const T* weights =
        nullptr;  ///< Potts: terms x classes. Otherwise terms x classes x classes, A W_k
    bool is_potts = true;
    /// With classes left out: those that are kept, out of `all`. The last class of the model then
    /// stands for the others together; it takes part in the softmax but sends no messages.
    std::vector<std::size_t> kept;
    std::size_t all = 0;
    /// Whether all classes are treated alike, to the bit: the message to the last one is then not
    /// derived from the others. Two classes have a single column of opposite messages, q_0 - 1/2.
    bool is_even = false;
    std::optional<FrankWolfe> step;  ///< absent: mean field
};

/// Where mean-field inference puts its result, classes x n: the logits after the last update, or
/// with `labels` the marginals, and the likeliest class of each pixel.
template <typename T>
struct Result {
    T* values;
    std::int64_t* labels = nullptr;
    std::size_t iterations = 0;  ///< out: number of updates performed
    bool is_finite = true;       ///< out, with labels: whether all marginals are
};

/// Whether the last class is not filtered, so that terms need their totals.
///
/// The message to it follows from the others by a sum over each row (see `widen` in
/// loops/marginals.hpp), and F 1 has to be filtered once. That is worth it only where padded rows
/// become shorter: 21 classes are 24 values a row, 20 classes are 20.
///
/// The derived message is rounded otherwise than the filtered ones, and a step may amplify the
/// difference fourfold where classes are tied. So this is for training, whose steps are few, and
/// for the class that stands for those left out, whose weight is zero.
constexpr bool needs_total(std::size_t classes) {
    return classes > 1 && padded(classes - 1) < padded(classes);
}

/// Values of each pixel that are saved per iteration: its row of filtered marginals, or of all.
constexpr std::size_t saved_width(std::size_t classes, bool needs_all) {
    return padded(!needs_all && needs_total(classes) ? classes - 1 : classes);
}

}  // namespace crfrnn
