#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <variant>
#include <vector>

#include "exact.hpp"
#include "grid.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "permutohedral.hpp"

namespace crfrnn {

/// Points of the exact filter, and the kernel value below which it may leave a pair out.
template <typename T>
struct PointSet {
    const T* features;
    std::size_t n, d;
    double tolerance;
};

/// A kernel's Gaussian filter, with what scales its input and output; null stands for ones.
template <typename T>
struct Term {
    /// On a lattice, or along each axis of a grid, or summed exactly over points.
    std::variant<Lattice<T>, std::vector<BandMatrix<T>>, PointSet<T>> gaussian;
    const T* before = nullptr;
    const T* after = nullptr;
    const T* total = nullptr;  ///< the filter's response to ones, `before` and `after` included
    bool half = false;         ///< a lattice may store its values in half precision
};

/// A filter at work on rows of `width` channels: `prepare` on all pixels, then `tile` on some.
template <typename T>
class TermFilter {
public:
    /// @param parts see `LatticeFilter`: if not 0, values have to be given to `scatter` as well
    TermFilter(const Term<T>& term, std::size_t n, std::size_t row, std::size_t width, bool adjoint,
               std::size_t parts = 0)
        : term_(term),
          n_(n),
          row_(row),
          width_(width),
          adjoint_(adjoint),
          before_(adjoint ? term.after : term.before),
          after_(adjoint ? term.before : term.after) {
        if (const auto* lattice = std::get_if<Lattice<T>>(&term.gaussian)) {
            lattice_ =
                std::make_unique<LatticeFilter<T>>(*lattice, width, parts, before_, term.half);
            return;
        }
        if (const auto* points = std::get_if<PointSet<T>>(&term.gaussian)) {
            exact_ =
                std::make_unique<ExactFilter<T>>(points->features, n, points->d, points->tolerance);
            one_ = uninitialized<T>(n * width);
            if (before_ != nullptr) two_ = uninitialized<T>(n * width);
            return;
        }
        const std::size_t axes = bands().size();
        if (before_ != nullptr || axes > 1) one_ = uninitialized<T>(n * width);
        if ((before_ != nullptr && axes > 1) || axes > 2) two_ = uninitialized<T>(n * width);
    }

    /// Once, before the first `prepare`. All workers call.
    void load(Team& team) {
        if (lattice_) lattice_->load(team);
    }

    /// Hand over the values of pixels begin..end, before `prepare` and from one worker a part.
    void scatter(std::size_t part, const T* values, std::size_t begin, std::size_t end) {
        if (lattice_) lattice_->scatter(part, values, begin, end);
    }

    bool on_lattice() const { return lattice_ != nullptr; }

    /// Whether `tile` reads the values that `prepare` was given, which must then not change.
    bool keeps_input() const { return !lattice_ && !exact_ && one_ == nullptr; }

    void prepare(Team& team, const T* values) {
        if (lattice_) {
            lattice_->blur(team, values, adjoint_);
            return;
        }
        if (exact_) {
            if (before_ != nullptr) values = scaled(team, values, two_.get());
            for (std::size_t done = 0; done < width_; done += kGroup)
                exact_->apply(team, values + done, one_.get() + done,
                              std::min(kGroup, width_ - done), width_);
            return;
        }
        T* to = one_.get();
        if (before_ != nullptr) {
            values = scaled(team, values, to);
            to = two_.get();
        }
        std::size_t outer = 1, inner = n_ * width_;
        for (std::size_t axis = 0; axis + 1 < bands().size(); ++axis) {
            inner /= bands()[axis].size();
            apply_band(team, bands()[axis].view(), values, to, outer, inner);
            outer *= bands()[axis].size();
            values = to;
            to = to == one_.get() ? two_.get() : one_.get();
        }
        team.once([&] { last_axis_ = values; });
    }

    /// Filtered values of pixels begin..end, which lie in one row of the grid.
    void tile(T* out, std::size_t begin, std::size_t end) const {
        if (lattice_) {
            lattice_->slice(after_, out, begin, end);
            return;
        }
        if (exact_) {
            std::copy(one_.get() + begin * width_, one_.get() + end * width_, out);
            if (after_ != nullptr)
                kernels<T>().scale_rows(out, after_ + begin, end - begin, width_);
            return;
        }
        const std::size_t start = begin / row_ * row_;
        kernels<T>().band(bands().back().view(), last_axis_ + start * width_, width_, out, width_,
                          width_, begin - start, end - start);
        if (after_ != nullptr) kernels<T>().scale_rows(out, after_ + begin, end - begin, width_);
    }

private:
    /// Write values times `before` to `to`.
    const T* scaled(Team& team, const T* values, T* to) const {
        team.for_range(n_, 4096, [&](std::size_t begin, std::size_t end) {
            std::copy(values + begin * width_, values + end * width_, to + begin * width_);
            kernels<T>().scale_rows(to + begin * width_, before_ + begin, end - begin, width_);
        });
        return to;
    }

    const std::vector<BandMatrix<T>>& bands() const {
        return std::get<std::vector<BandMatrix<T>>>(term_.gaussian);
    }

    const Term<T>& term_;
    std::size_t n_, row_, width_;
    bool adjoint_;
    const T *before_, *after_;
    std::unique_ptr<LatticeFilter<T>> lattice_;
    std::unique_ptr<ExactFilter<T>> exact_;
    Buffer<T> one_, two_;
    const T* last_axis_ = nullptr;
};

/// out = (F 1) to the power `power`; kept away from zero where that is negative.
template <typename T>
void response(const Term<T>& term, std::size_t n, std::size_t row, double power, T* out,
              std::size_t threads) {
    constexpr std::size_t grain = 4096;
    if (!std::holds_alternative<std::vector<BandMatrix<T>>>(term.gaussian)) row = grain;
    const T least = std::sqrt(std::numeric_limits<T>::min());
    const std::size_t used = threads_for(2 * n, threads);
    const std::size_t parts = LatticeFilter<T>::parts_for(used, 1);
    TermFilter<T> filter(term, n, row, 1, false, parts);
    const auto ones = uninitialized<T>(n);
    Team::run(used, [&](Team& team) {
        filter.load(team);
        const std::size_t jobs = std::max<std::size_t>(1, parts);
        team.for_each(jobs, [&](std::size_t job) {
            const std::size_t begin = job * n / jobs, end = (job + 1) * n / jobs;
            std::fill(ones.get() + begin, ones.get() + end, T(1));
            if (parts > 0) filter.scatter(job, ones.get() + begin, begin, end);
        });
        filter.prepare(team, ones.get());
        const std::size_t rows = std::max<std::size_t>(1, grain / row);
        team.for_range((n + row - 1) / row, rows, [&](std::size_t first, std::size_t last) {
            for (std::size_t begin = first * row; begin < std::min(n, last * row); begin += row) {
                T* to = out + begin;
                const std::size_t count = std::min(row, n - begin);
                filter.tile(to, begin, begin + count);
                if (power == 1) continue;
                for (std::size_t i = 0; i < count; ++i) {
                    const T norm = std::max(to[i], least);
                    to[i] = power == -0.5 ? 1 / std::sqrt(norm) : 1 / norm;
                }
            }
        });
    });
}

}  // namespace crfrnn
