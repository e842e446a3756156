#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <variant>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "filters/exact.hpp"
#include "filters/restricted.hpp"
#include "filters/separable.hpp"
#include "lattice/filter.hpp"
#include "lattice/lattice.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Points of the exact filter, and the kernel value below which it may leave a pair out.
template <typename T>
struct PointSet {
    const T* features;
    std::size_t n, d;
    double tolerance;
};

/// A kernel's normalized filter F = D_after G D_before; a null diagonal stands for ones.
template <typename T>
struct Term {
    /// On a lattice, or along each axis of a grid, or summed exactly over points; or the whole of F
    /// between free pixels.
    std::variant<Lattice<T>, std::vector<BandMatrix<T>>, PointSet<T>, Restricted<T>*> gaussian;
    const T* before = nullptr;
    const T* after = nullptr;
    const T* total = nullptr;  ///< F 1, from which the last class's message follows
    bool allows_half = false;  ///< a lattice may store its values in half precision
};

/// A filter at work on rows of `width` channels: `prepare` on all pixels, then `tile` on some.
///
/// The last pass of a filter (the slice, or the last axis of a grid) is left to `tile`, so that its
/// output is used while it is cached and never goes to memory. The adjoint of D_after G D_before is
/// D_before G' D_after: the two diagonals change places. A lattice's G' is its reversed blur, the
/// exact sum is symmetric, and band matrices have to be given transposed.
template <typename T>
class TermFilter {
public:
    /// @param parts see `LatticeFilter`: if not 0, values have to be given to `splat` as well
    TermFilter(const Term<T>& term, std::size_t n, std::size_t row, std::size_t width,
               bool is_adjoint, std::size_t parts = 0)
        : term_(term),
          n_(n),
          row_(row),
          width_(width),
          is_adjoint_(is_adjoint),
          before_(is_adjoint ? term.after : term.before),
          after_(is_adjoint ? term.before : term.after) {
        if (const auto* lattice = std::get_if<Lattice<T>>(&term.gaussian)) {
            lattice_ = std::make_unique<LatticeFilter<T>>(*lattice, width, parts, before_,
                                                          term.allows_half);
            return;
        }
        if (auto* const* restricted = std::get_if<Restricted<T>*>(&term.gaussian)) {
            restricted_ = *restricted;
            return;
        }
        if (const auto* points = std::get_if<PointSet<T>>(&term.gaussian)) {
            exact_ =
                std::make_unique<ExactFilter<T>>(points->features, n, points->d, points->tolerance);
            buffer_ = uninitialized<T>(n * width);
            if (before_ != nullptr) spare_ = uninitialized<T>(n * width);
            return;
        }
        const std::size_t axes = bands().size();
        if (before_ != nullptr || axes > 1) buffer_ = uninitialized<T>(n * width);
        if ((before_ != nullptr && axes > 1) || axes > 2) spare_ = uninitialized<T>(n * width);
    }

    /// Once, before the first `prepare`. All workers call.
    void load(Team& team) {
        if (lattice_) lattice_->load(team);
    }

    /// Splat the values of pixels begin..end, before `prepare`; one worker per part.
    void splat(std::size_t part, const T* values, std::size_t begin, std::size_t end) {
        if (lattice_) lattice_->splat(part, values, begin, end);
    }

    bool on_lattice() const { return lattice_ != nullptr; }

    /// Whether `tile` reads the input of `prepare`, which must then not change.
    bool reads_input() const {
        return !lattice_ && !exact_ && restricted_ == nullptr && buffer_ == nullptr;
    }

    void prepare(Team& team, const T* values) {
        if (lattice_) {
            lattice_->blur(team, values, is_adjoint_);
            return;
        }
        if (restricted_ != nullptr) {
            restricted_->prepare(team, values);
            return;
        }
        if (exact_) {
            if (before_ != nullptr) values = scaled(team, values, spare_.get());
            for (std::size_t done = 0; done < width_; done += kGroup)
                exact_->apply(team, values + done, buffer_.get() + done,
                              std::min(kGroup, width_ - done), width_);
            return;
        }
        T* to = buffer_.get();
        if (before_ != nullptr) {
            values = scaled(team, values, to);
            to = spare_.get();
        }
        std::size_t outer = 1, inner = n_ * width_;
        for (std::size_t axis = 0; axis + 1 < bands().size(); ++axis) {
            inner /= bands()[axis].size();
            apply_band(team, bands()[axis].view(), values, to, outer, inner);
            outer *= bands()[axis].size();
            values = to;
            to = to == buffer_.get() ? spare_.get() : buffer_.get();
        }
        team.once([&] { last_axis_ = values; });
    }

    /// Filtered values of pixels begin..end, which lie in one row of the grid.
    void tile(T* out, std::size_t begin, std::size_t end) const {
        if (lattice_) {
            lattice_->slice(after_, out, begin, end);
            return;
        }
        if (restricted_ != nullptr) {
            restricted_->tile(out, begin, end);
            return;
        }
        if (exact_) {
            std::copy(buffer_.get() + begin * width_, buffer_.get() + end * width_, out);
            if (after_ != nullptr) loops<T>().scale_rows(out, after_ + begin, end - begin, width_);
            return;
        }
        const std::size_t start = begin / row_ * row_;
        loops<T>().band(bands().back().view(), last_axis_ + start * width_, width_, out, width_,
                        width_, begin - start, end - start);
        if (after_ != nullptr) loops<T>().scale_rows(out, after_ + begin, end - begin, width_);
    }

private:
    /// Write values times `before` to `to`.
    const T* scaled(Team& team, const T* values, T* to) const {
        team.for_range(n_, 4096, [&](std::size_t begin, std::size_t end) {
            std::copy(values + begin * width_, values + end * width_, to + begin * width_);
            loops<T>().scale_rows(to + begin * width_, before_ + begin, end - begin, width_);
        });
        return to;
    }

    const std::vector<BandMatrix<T>>& bands() const {
        return std::get<std::vector<BandMatrix<T>>>(term_.gaussian);
    }

    const Term<T>& term_;
    std::size_t n_, row_, width_;
    bool is_adjoint_;
    const T *before_, *after_;
    std::unique_ptr<LatticeFilter<T>> lattice_;
    std::unique_ptr<ExactFilter<T>> exact_;
    Restricted<T>* restricted_ = nullptr;
    Buffer<T> buffer_, spare_;
    const T* last_axis_ = nullptr;  // input of the last axis
};

}  // namespace crfrnn
