#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "filters/exact.hpp"
#include "filters/restricted.hpp"
#include "filters/separable.hpp"
#include "filters/term.hpp"
#include "lattice/restricted.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// `Restricted` on a lattice.
template <typename T>
class RestrictedOnLattice final : public Restricted<T> {
public:
    /// @param rows  the clamped marginals of all points, zero at the free ones
    RestrictedOnLattice(const Term<T>& term, std::size_t n, const FreePixels& free, const T* rows,
                        std::size_t width, std::size_t threads)
        : width_(width),
          constant_(uninitialized<T>(free.size() * width)),
          lattice_(std::get<Lattice<T>>(term.gaussian), free, term.before, term.after, width) {
        const std::size_t used = threads_for(n * (1 + width / 4), threads);
        const std::size_t parts = LatticeFilter<T>::parts_for(used, width);
        TermFilter<T> whole(term, n, n, width, false, parts);
        Team::run(used, [&](Team& team) {
            whole.load(team);
            team.for_each(parts, [&](std::size_t part) {
                const std::size_t begin = part * n / parts, end = (part + 1) * n / parts;
                whole.splat(part, rows + begin * width, begin, end);
            });
            whole.prepare(team, rows);
            team.for_range(free.size(), 4096, [&](std::size_t begin, std::size_t end) {
                for_each_run(free, n, begin, end, [&](std::size_t from, std::size_t to) {
                    const auto pixel = static_cast<std::size_t>(free[from]);
                    whole.tile(constant_.get() + from * width, pixel, pixel + to - from);
                });
            });
        });
    }

    void prepare(Team& team, const T* values) override { lattice_.blur(team, values); }

    void tile(T* out, std::size_t begin, std::size_t end) const override {
        lattice_.slice(out, begin, end);
        const T* const sent = constant_.get() + begin * width_;
        for (std::size_t i = 0; i < (end - begin) * width_; ++i) out[i] += sent[i];
    }

private:
    std::size_t width_;
    Buffer<T> constant_;
    RestrictedLattice<T> lattice_;
};

/// `Restricted` for the sum over all pairs of points: pairs of free points in each update, and once
/// those of a clamped and a free one.
template <typename T>
class RestrictedExact final : public Restricted<T> {
public:
    RestrictedExact(const Term<T>& term, const FreePixels& free, const T* rows, std::size_t width,
                    std::size_t threads)
        : RestrictedExact(std::get<PointSet<T>>(term.gaussian), term, free, rows, width, threads) {}

    void prepare(Team& team, const T* values) override {
        if (!before_.empty()) {
            team.for_range(count_, 4096, [&](std::size_t begin, std::size_t end) {
                T* const to = scaled_.get() + begin * width_;
                std::copy(values + begin * width_, values + end * width_, to);
                loops<T>().scale_rows(to, before_.data() + begin, end - begin, width_);
            });
            values = scaled_.get();
        }
        sum(team, filter_, values, sums_.get());
    }

    void tile(T* out, std::size_t begin, std::size_t end) const override {
        for (std::size_t i = begin * width_; i < end * width_; ++i)
            out[i - begin * width_] = sums_[i] + constant_[i];
        if (!after_.empty()) loops<T>().scale_rows(out, after_.data() + begin, end - begin, width_);
    }

private:
    RestrictedExact(const PointSet<T>& points, const Term<T>& term, const FreePixels& free,
                    const T* rows, std::size_t width, std::size_t threads)
        : count_(free.size()),
          width_(width),
          before_(gathered(term.before, free)),
          after_(gathered(term.after, free)),
          sums_(uninitialized<T>(count_ * width)),
          scaled_(uninitialized<T>(before_.empty() ? 0 : count_ * width)),
          constant_(uninitialized<T>(count_ * width)),
          filter_(features(points, free).data(), count_, points.d, points.tolerance) {
        // The clamped points, which send, and then the free ones, which receive.
        FreePixels order;
        std::size_t next = 0;
        for (std::size_t i = 0; i < points.n; ++i) {
            if (next < count_ && static_cast<std::size_t>(free[next]) == i) {
                ++next;
            } else {
                order.push_back(static_cast<std::int32_t>(i));
            }
        }
        std::fill_n(constant_.get(), count_ * width, T(0));
        if (order.empty()) return;
        const std::size_t senders = order.size();
        const auto sent = uninitialized<T>(senders * width);
        for (std::size_t k = 0; k < senders; ++k) {
            const auto i = static_cast<std::size_t>(order[k]);
            const T scale = term.before == nullptr ? T(1) : term.before[i];
            for (std::size_t c = 0; c < width; ++c)
                sent[k * width + c] = scale * rows[i * width + c];
        }
        order.insert(order.end(), free.begin(), free.end());
        ExactFilter<T> across(features(points, order).data(), points.n, points.d, points.tolerance,
                              count_);
        Team::run(threads, [&](Team& team) { sum(team, across, sent.get(), constant_.get()); });
    }

    static std::vector<T> features(const PointSet<T>& points, const FreePixels& some) {
        std::vector<T> found;
        found.reserve(some.size() * points.d);
        for (const std::int32_t i : some) {
            const T* const from = points.features + static_cast<std::size_t>(i) * points.d;
            found.insert(found.end(), from, from + points.d);
        }
        return found;
    }

    void sum(Team& team, ExactFilter<T>& filter, const T* values, T* out) const {
        for (std::size_t done = 0; done < width_; done += kGroup)
            filter.apply(team, values + done, out + done, std::min(kGroup, width_ - done), width_);
    }

    std::size_t count_, width_;
    std::vector<T> before_, after_;
    Buffer<T> sums_, scaled_, constant_;
    ExactFilter<T> filter_;
};

/// `Restricted` for a Gaussian of the position, along each axis of a grid.
///
/// Marginals of all pixels lie in one array, in which only the free ones change. A pass along an
/// axis computes the pixels that later passes read, so the clamped ones need no second part.
template <typename T>
class RestrictedGrid final : public Restricted<T> {
public:
    RestrictedGrid(const Term<T>& term, std::size_t n, std::size_t row, const FreePixels& free,
                   const T* rows, std::size_t width)
        : bands_(std::get<std::vector<BandMatrix<T>>>(term.gaussian)),
          free_(free),
          row_(row),
          width_(width),
          before_(gathered(term.before, free)),
          after_(gathered(term.after, free)),
          rows_(uninitialized<T>(n * width)) {
        std::copy(rows, rows + n * width, rows_.get());
        if (term.before != nullptr) loops<T>().scale_rows(rows_.get(), term.before, n, width);
        const std::size_t axes = bands_.size();
        for (std::size_t k = 0; k < std::min<std::size_t>(2, axes - 1); ++k)
            passes_.push_back(uninitialized<T>(n * width));
        // From the last pass to the first: what a pass reads has to be computed by the one before.
        std::vector<std::uint8_t> wanted(n, 0);
        for (const std::int32_t pixel : free) wanted[static_cast<std::size_t>(pixel)] = 1;
        runs_.resize(axes);
        std::size_t inner = 1;
        for (std::size_t axis = axes; axis-- > 1;) {
            wanted = widened(wanted, bands_[axis].size(), inner, bands_[axis].view().radius);
            inner *= bands_[axis].size();
            runs_[axis - 1] = runs_of(wanted);
        }
    }

    void prepare(Team& team, const T* values) override {
        team.for_range(free_.size(), 4096, [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                T* const to = rows_.get() + static_cast<std::size_t>(free_[i]) * width_;
                const T scale = before_.empty() ? T(1) : before_[i];
                for (std::size_t c = 0; c < width_; ++c) to[c] = scale * values[i * width_ + c];
            }
        });
        const T* from = rows_.get();
        std::size_t inner = 1;
        for (const auto& band : bands_) inner *= band.size();
        for (std::size_t axis = 0; axis + 1 < bands_.size(); ++axis) {
            const Band<T> band = bands_[axis].view();
            inner /= band.size;
            T* const to = passes_[axis % 2].get();
            const std::vector<Run>& runs = runs_[axis];
            const std::size_t step = inner * width_;
            team.for_range(runs.size(), 64, [&](std::size_t begin, std::size_t end) {
                for (std::size_t r = begin; r < end; ++r) {
                    const std::size_t line = runs[r].begin / inner, i = line % band.size;
                    const std::size_t start = ((line - i) * inner + runs[r].begin % inner) * width_;
                    loops<T>().band(band, from + start, step, to + runs[r].begin * width_, step,
                                    (runs[r].end - runs[r].begin) * width_, i, i + 1);
                }
            });
            from = to;
        }
        team.once([&] { last_axis_ = from; });
    }

    void tile(T* out, std::size_t begin, std::size_t end) const override {
        for_each_run(free_, row_, begin, end, [&](std::size_t from, std::size_t to) {
            const auto pixel = static_cast<std::size_t>(free_[from]);
            const std::size_t x = pixel % row_;
            loops<T>().band(bands_.back().view(), last_axis_ + (pixel - x) * width_, width_,
                            out + (from - begin) * width_, width_, width_, x, x + to - from);
        });
        if (!after_.empty()) loops<T>().scale_rows(out, after_.data() + begin, end - begin, width_);
    }

private:
    struct Run {
        std::size_t begin, end;  // pixels, in one row of the grid
    };

    /// Pixels within `radius` of wanted ones along one axis of outer x size x inner.
    static std::vector<std::uint8_t> widened(const std::vector<std::uint8_t>& wanted,
                                             std::size_t size, std::size_t inner,
                                             std::size_t radius) {
        std::vector<std::uint8_t> wide(wanted.size(), 0);
        const std::size_t outer = wanted.size() / (size * inner);
        std::vector<std::size_t> until(inner);  // how far the last wanted pixel reaches
        for (std::size_t o = 0; o < outer; ++o) {
            for (const bool forth : {true, false}) {
                std::fill(until.begin(), until.end(), 0);
                for (std::size_t i = 0; i < size; ++i) {
                    const std::size_t line = (o * size + (forth ? i : size - 1 - i)) * inner;
                    for (std::size_t k = 0; k < inner; ++k) {
                        until[k] = wanted[line + k] != 0 ? i + radius + 1 : until[k];
                        if (i < until[k]) wide[line + k] = 1;
                    }
                }
            }
        }
        return wide;
    }

    std::vector<Run> runs_of(const std::vector<std::uint8_t>& wanted) const {
        std::vector<Run> runs;
        for (std::size_t start = 0; start < wanted.size(); start += row_) {
            for (std::size_t x = 0; x < row_; ++x) {
                if (wanted[start + x] == 0) continue;
                if (!runs.empty() && runs.back().end == start + x && x > 0) {
                    ++runs.back().end;
                } else {
                    runs.push_back({start + x, start + x + 1});
                }
            }
        }
        return runs;
    }

    const std::vector<BandMatrix<T>>& bands_;
    const FreePixels& free_;
    std::size_t row_, width_;
    std::vector<T> before_, after_;
    Buffer<T> rows_;
    std::vector<Buffer<T>> passes_;
    std::vector<std::vector<Run>> runs_;  // of each pass but the last
    const T* last_axis_ = nullptr;
};

/// The filter of a term between free pixels.
///
/// @param n,row  pixels of the image, and of a row of its grid
/// @param rows   the clamped marginals of all pixels, `width` wide, zero at the free ones
template <typename T>
std::unique_ptr<Restricted<T>> restricted(const Term<T>& term, std::size_t n, std::size_t row,
                                          const FreePixels& free, const T* rows, std::size_t width,
                                          std::size_t threads) {
    if (std::holds_alternative<Lattice<T>>(term.gaussian))
        return std::make_unique<RestrictedOnLattice<T>>(term, n, free, rows, width, threads);
    if (std::holds_alternative<PointSet<T>>(term.gaussian))
        return std::make_unique<RestrictedExact<T>>(term, free, rows, width, threads);
    return std::make_unique<RestrictedGrid<T>>(term, n, row, free, rows, width);
}

}  // namespace crfrnn
