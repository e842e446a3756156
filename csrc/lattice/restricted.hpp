#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "lattice/lattice.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// The part of a lattice that values of some of its points reach on their way to the same points.
///
/// The splat fills the vertices V of these points, and the slice reads V. Blur a moves values by at
/// most one step along axis a. So before blur a, only those vertices count
///
///     that steps along some of the axes 0 .. a-1 reach from V, and
///     from which steps along some of the axes a .. d reach V.
///
/// Each of these d+2 stages has a numbering of its own, and a table without gaps. A blur reads
/// three rows of one stage for each row of the next; those outside of the stage are zero, so they
/// are row 0. The result is that of the whole lattice, up to the order of roundings.
template <typename T>
class RestrictedLattice {
public:
    /// @param points of the lattice, ascending
    /// @param before factor of each point of the lattice in the splat, and `after` in the slice;
    ///               null for ones
    /// @param width  channels of a row, `padded`
    template <typename Points>
    RestrictedLattice(const Lattice<T>& lattice, const Points& points, const T* before,
                      const T* after, std::size_t width)
        : corners_(lattice.d + 1), count_(points.size()), width_(width), gain_(lattice.gain()) {
        find_stages(lattice, points);
        gather(lattice, points, before, after);
        const std::size_t group = std::min(width, kGroup);
        std::size_t most = 0;
        for (const std::size_t rows : rows_) most = std::max(most, rows);
        for (auto& table : tables_) table = uninitialized<T>((most + 1) * group);
        last_ = uninitialized<T>((rows_.back() + 1) * width);
    }

    /// Splat rows of `width` values, one per point, and blur. All workers call this together.
    void blur(Team& team, const T* values) {
        const Loops<T>& l = loops<T>();
        for (std::size_t done = 0; done < width_; done += kGroup) {
            const std::size_t width = std::min(kGroup, width_ - done);
            T* from = tables_[0].get();
            team.once([&] { std::fill_n(from, width, T(0)); });
            team.for_range(rows_[0], kGrain, [&](std::size_t begin, std::size_t end) {
                l.tables.splat(entries_.data(), offset_.data(), values + done, width_, width, from,
                               begin + 1, end + 1);
            });
            for (std::size_t axis = 0; axis < corners_; ++axis) {
                T* const to = axis + 1 == corners_ ? group(done) : tables_[(axis + 1) % 2].get();
                team.once([&] { std::fill_n(to, width, T(0)); });
                const bool far = rows_[axis] * width * sizeof(T) > kNearRows;
                team.for_range(rows_[axis + 1], kGrain, [&](std::size_t begin, std::size_t end) {
                    l.blur_rows(sources_[axis].get(), width, from, to, far, begin + 1, end + 1);
                });
                from = to;
            }
        }
    }

    /// Read the blurred values at the points begin..end into rows of `width`.
    void slice(T* out, std::size_t begin, std::size_t end) const {
        for (std::size_t done = 0; done < width_; done += kGroup)
            loops<T>().tables.slice(
                vertex_.data(), weight_.data(), corners_, std::min(kGroup, width_ - done),
                group(done), gain_, after_.empty() ? nullptr : after_.data(), out + done, width_,
                (rows_.back() + 1) * width_ * sizeof(T) > kNearPoints, begin, end);
    }

private:
    static constexpr std::size_t kGrain = 2048;

    /// Vertices, each at most once.
    struct List {
        explicit List(std::size_t most) : items(uninitialized<std::int32_t>(most)) {}
        void add(std::int32_t vertex) { items[count++] = vertex; }

        Buffer<std::int32_t> items;
        std::size_t count = 0;
    };

    T* group(std::size_t done) const { return last_.get() + done * (rows_.back() + 1); }

    /// The rows of every stage, and where each blur reads.
    template <typename Points>
    void find_stages(const Lattice<T>& lattice, const Points& points) {
        // Stages only grow from V on, in both directions. So it is enough to know the first stage
        // at which a vertex is reached, and the last from which it reaches V.
        constexpr std::uint8_t never = std::numeric_limits<std::uint8_t>::max();
        const std::size_t axes = corners_, m = lattice.m;
        const auto first = uninitialized<std::uint8_t>(m + 1),
                   last = uninitialized<std::uint8_t>(m + 1);
        std::fill_n(first.get(), m + 1, never);
        std::fill_n(last.get(), m + 1, std::uint8_t{0});
        List reached(m), reaching(m);
        for (const auto point : points) {
            for (std::size_t r = 0; r < corners_; ++r) {
                const std::int32_t v = lattice.vertex[index(point) * corners_ + r];
                if (first[index(v)] == 0) continue;
                first[index(v)] = 0;
                last[index(v)] = static_cast<std::uint8_t>(axes + 1);  // one more: 0 is never
                reached.add(v);
            }
        }
        std::copy_n(reached.items.get(), reached.count, reaching.items.get());
        reaching.count = reached.count;
        first[0] = 0;  // "none" is never listed
        last[0] = static_cast<std::uint8_t>(axes + 1);
        // Neighbors are mutual: who is a step away from a listed vertex joins the list.
        const auto grow = [&](List& list, std::size_t axis, auto&& joins) {
            const std::int32_t* const pair = lattice.neighbor + axis * lattice.neighbor_stride;
            const std::size_t count = list.count;
            for (std::size_t k = 0; k < count; ++k) {
                const std::size_t v = index(list.items[k]);
                for (const std::int32_t neighbor : {pair[2 * v - 2], pair[2 * v - 1]})
                    if (joins(index(neighbor))) list.add(neighbor);
            }
        };
        for (std::size_t axis = 0; axis < axes; ++axis)
            grow(reached, axis, [&](std::size_t v) {
                if (first[v] != never) return false;
                first[v] = static_cast<std::uint8_t>(axis + 1);
                return true;
            });
        for (std::size_t axis = axes; axis-- > 0;)
            grow(reaching, axis, [&](std::size_t v) {
                if (last[v] != 0) return false;
                last[v] = static_cast<std::uint8_t>(axis + 1);
                return true;
            });
        // In ascending order again; the lists are no longer needed.
        List& used = reached;
        used.count = 0;
        rows_.assign(axes + 1, 0);
        for (std::size_t v = 1; v <= m; ++v) {
            if (first[v] >= last[v]) continue;
            used.add(static_cast<std::int32_t>(v));
            for (std::size_t stage = first[v]; stage < last[v]; ++stage) ++rows_[stage];
        }
        auto before = uninitialized<std::int32_t>(m + 1), now = uninitialized<std::int32_t>(m + 1);
        std::fill_n(before.get(), m + 1, 0);
        std::fill_n(now.get(), m + 1, 0);
        for (std::size_t stage = 0; stage <= axes; ++stage) {
            std::int32_t rows = 0;
            if (stage > 0) sources_.push_back(uninitialized<std::int32_t>(3 * rows_[stage]));
            std::int32_t* to = stage > 0 ? sources_.back().get() : nullptr;
            const std::int32_t* const pairs =
                lattice.neighbor + (stage > 0 ? stage - 1 : 0) * lattice.neighbor_stride;
            for (std::size_t k = 0; k < used.count; ++k) {
                const std::size_t v = index(used.items[k]);
                const bool in = first[v] <= stage && stage < last[v];
                now[v] = in ? ++rows : 0;
                if (!in || stage == 0) continue;
                *to++ = before[v];
                *to++ = before[index(pairs[2 * v - 2])];
                *to++ = before[index(pairs[2 * v - 1])];
            }
            if (stage == 0) {
                start_ = uninitialized<std::int32_t>(m + 1);
                std::copy_n(now.get(), m + 1, start_.get());
            }
            std::swap(before, now);
        }
        numbering_ = std::move(before);  // of the last stage
    }

    /// Entries of the splat by vertex, and the corners of the slice.
    template <typename Points>
    void gather(const Lattice<T>& lattice, const Points& points, const T* before, const T* after) {
        offset_.assign(rows_[0] + 1, 0);
        vertex_.reserve(count_ * corners_);
        weight_.reserve(count_ * corners_);
        const auto at = [&](auto point) { return static_cast<std::size_t>(point) * corners_; };
        for (const auto point : points) {
            for (std::size_t r = 0; r < corners_; ++r) {
                const std::size_t v = index(lattice.vertex[at(point) + r]);
                ++offset_[index(start_[v])];
                vertex_.push_back(numbering_[v]);
                weight_.push_back(lattice.weight[at(point) + r]);
            }
            if (after != nullptr) after_.push_back(after[point]);
        }
        for (std::size_t row = 1; row < offset_.size(); ++row) offset_[row] += offset_[row - 1];
        entries_.resize(count_ * corners_);
        std::vector<std::int32_t> next(offset_.begin(), offset_.end() - 1);
        std::int32_t number = 0;
        for (const auto point : points) {
            for (std::size_t r = 0; r < corners_; ++r) {
                const std::size_t v = index(lattice.vertex[at(point) + r]);
                const T scale = before == nullptr ? T(1) : before[point];
                const auto entry = index(next[index(start_[v]) - 1]++);
                entries_[entry] = {number, lattice.weight[at(point) + r] * scale};
            }
            ++number;
        }
        start_.reset();
        numbering_.reset();
    }

    template <typename I>
    static std::size_t index(I i) {
        return static_cast<std::size_t>(i);
    }

    std::size_t corners_, count_, width_;
    T gain_;
    std::vector<std::size_t> rows_;              // of each stage
    std::vector<Buffer<std::int32_t>> sources_;  // of each blur, three per row
    Buffer<std::int32_t> start_, numbering_;     // rows of the first and the last stage
    std::vector<std::int32_t> offset_, vertex_;
    std::vector<Entry<T>> entries_;
    std::vector<T> weight_, after_;
    Buffer<T> tables_[2], last_;
};

}  // namespace crfrnn
