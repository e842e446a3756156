#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "parallel.hpp"

namespace crfrnn {

/// One image's permutohedral lattice (Adams, Baek & Davis, 2010), as borrowed arrays.
///
/// Rows of a value table are 1..m; row 0 is zero and stands for a vertex that does not exist.
template <typename T>
struct Lattice {
    const std::int32_t* vertex;    ///< n x (d+1)
    const T* weight;               ///< n x (d+1)
    const std::int32_t* neighbor;  ///< for axis a: row pairs from neighbor + a * neighbor_stride
    const std::int32_t* entry;     ///< n*(d+1), sorted by vertex
    const std::int32_t* offset;    ///< m+1
    std::size_t n, d, m, neighbor_stride;

    /// Scales the slice; splat, blur and slice then keep a constant signal on a full lattice.
    T gain() const { return static_cast<T>(1.0 / (1.0 + std::pow(2.0, -static_cast<double>(d)))); }
};

/// A lattice filter with its tables: `blur` reads values, `slice` gives the filtered ones.
///
/// Channels are handled in groups of at most kGroup, each with its own table; all groups share the
/// second table that blurring needs. Tables may be stored in half precision, if rows are wide;
/// their values then have to be in its range.
///
/// There are two ways to splat. A vertex may gather its points' values, which any number of threads
/// can share. Or points scatter theirs, in parts that each fill a table of their own: of narrow
/// rows the tables are small, and the points' corners are at hand when their values are made.
template <typename T>
class LatticeFilter {
public:
    /// @param width channels of a row of values, `padded`
    /// @param parts in which points scatter their values; 0 to gather them
    /// @param scale of each point's values when they are splatted; null for ones
    /// @param half  store tables in half precision, if the processor can and it is worth it
    LatticeFilter(const Lattice<T>& lattice, std::size_t width, std::size_t parts,
                  const T* scale = nullptr, bool half = false)
        : lattice_(lattice),
          width_(width),
          scale_(scale),
          half_(half && width > kNarrow && kernels<T>().half_tables.blur != nullptr),
          entries_(uninitialized<Entry<T>>(parts > 0 ? 0 : lattice.n * (lattice.d + 1))),
          tables_(lattice.m + 1, half_ ? 0 : width),
          half_tables_(lattice.m + 1, half_ ? width : 0) {
        for (std::size_t part = 0; part < parts; ++part)
            scattered_.push_back(uninitialized<T>((lattice.m + 1) * width));
    }

    /// The number of parts in which `threads` should scatter rows of this width; 0 if they should
    /// gather.
    static std::size_t parts_for(std::size_t threads, std::size_t width) {
        return threads <= 4 && width <= kNarrow ? threads : 0;
    }

    /// Order scaled weights as splat reads them. All workers call.
    void load(Team& team) {
        if (!scattered_.empty()) {
            for (const auto& table : scattered_)
                team.for_range((lattice_.m + 1) * width_, kGrain * 8,
                               [&](std::size_t begin, std::size_t end) {
                                   std::fill(table.get() + begin, table.get() + end, T(0));
                               });
            return;
        }
        const std::size_t corners = lattice_.d + 1;
        // Division by multiplication: exact, and without overflow, for entries below 2^31.
        unsigned shift = 32;
        while ((std::size_t{1} << (shift - 32)) < corners) ++shift;
        const std::uint64_t inverse = (std::uint64_t{1} << shift) / corners + 1;
        team.for_range(lattice_.n * corners, kGrain * 8, [&](std::size_t begin, std::size_t end) {
            for (std::size_t e = begin; e < end; ++e) {
                const auto at = static_cast<std::size_t>(lattice_.entry[e]);
                const std::size_t point = (at * inverse) >> shift;
                entries_[e] = {static_cast<std::int32_t>(point),
                               lattice_.weight[at] * (scale_ == nullptr ? T(1) : scale_[point])};
            }
        });
    }

    /// Add the values of points begin..end to the table of a part, in rows of `width`.
    void scatter(std::size_t part, const T* values, std::size_t begin, std::size_t end) {
        kernels<T>().scatter(lattice_.vertex, lattice_.weight, lattice_.d + 1, width_, scale_,
                             values, scattered_[part].get(), begin, end);
    }

    /// Splat rows of `width` values (or add up what was scattered) and blur. All workers call this
    /// together.
    ///
    /// @param reverse blur the axes backwards, which is the exact adjoint: each blur is symmetric,
    ///                but where neighbours are missing the blurs do not commute
    void blur(Team& team, const T* values, bool reverse) {
        const Kernels<T>& k = kernels<T>();
        if (half_) {
            blur(team, k.half_tables, half_tables_, values, reverse);
        } else {
            blur(team, k.tables, tables_, values, reverse);
        }
    }

    /// Read the blurred values at points begin..end into rows of `width`, times `scale` if given.
    void slice(const T* scale, T* out, std::size_t begin, std::size_t end) const {
        const Kernels<T>& k = kernels<T>();
        if (half_) {
            const int axes = static_cast<int>(lattice_.d + 1);  // each blur has halved
            slice(k.half_tables, half_tables_, std::ldexp(lattice_.gain(), axes), scale, out, begin,
                  end);
        } else {
            slice(k.tables, tables_, lattice_.gain(), scale, out, begin, end);
        }
    }

private:
    static constexpr std::size_t kGrain = 2048;

    /// Rows that are scattered by few threads, and never stored in half precision: tables are small
    /// as they are.
    static constexpr std::size_t kNarrow = 8;

    /// Values of all vertices: one table a group of channels, and the one that blurring needs.
    template <typename S>
    struct Tables {
        Tables(std::size_t rows, std::size_t width)
            : blurred(uninitialized<S>(rows * width)),
              spare(uninitialized<S>(rows * (width < kGroup ? width : kGroup))) {}

        Buffer<S> blurred, spare;
    };

    template <typename S>
    S* group(const Tables<S>& tables, std::size_t done) const {
        return tables.blurred.get() + done * (lattice_.m + 1);
    }

    template <typename S>
    void blur(Team& team, const TableKernels<T, S>& k, const Tables<S>& tables, const T* values,
              bool reverse) {
        const std::size_t axes = lattice_.d + 1;
        for (std::size_t done = 0; done < width_; done += kGroup) {
            const std::size_t width = group_width(done);
            // With an odd number of blurs, start in the spare table so as to end in the other.
            S* from = axes % 2 == 0 ? group(tables, done) : tables.spare.get();
            S* to = axes % 2 == 0 ? tables.spare.get() : group(tables, done);
            team.once([&] {
                for (std::size_t c = 0; c < width; ++c) from[c] = to[c] = S{};
            });
            team.for_range(lattice_.m, kGrain, [&](std::size_t begin, std::size_t end) {
                if constexpr (std::is_same_v<S, T>) {
                    if (!scattered_.empty()) {
                        collect(from, (begin + 1) * width, (end + 1) * width);
                        return;
                    }
                }
                k.splat(entries_.get(), lattice_.offset, values + done, width_, width, from,
                        begin + 1, end + 1);
            });
            for (std::size_t a = 0; a < axes; ++a) {
                const std::size_t axis = reverse ? axes - 1 - a : a;
                const std::int32_t* pairs = lattice_.neighbor + axis * lattice_.neighbor_stride;
                team.for_range(lattice_.m, kGrain, [&](std::size_t begin, std::size_t end) {
                    k.blur(pairs, width, from, to, begin + 1, end + 1);
                });
                S* const last = from;
                from = to;
                to = last;
            }
        }
    }

    template <typename S>
    void slice(const TableKernels<T, S>& k, const Tables<S>& tables, T gain, const T* scale, T* out,
               std::size_t begin, std::size_t end) const {
        for (std::size_t done = 0; done < width_; done += kGroup)
            k.slice(lattice_.vertex, lattice_.weight, lattice_.d + 1, group_width(done),
                    group(tables, done), gain, scale, out + done, width_, begin, end);
    }

    std::size_t group_width(std::size_t done) const {
        return width_ - done < kGroup ? width_ - done : kGroup;
    }
    /// Move what all parts scattered to one table, and leave zeros.
    void collect(T* to, std::size_t begin, std::size_t end) {
        T* const first = scattered_[0].get();
        std::copy(first + begin, first + end, to + begin);
        std::fill(first + begin, first + end, T(0));
        for (std::size_t part = 1; part < scattered_.size(); ++part) {
            T* const other = scattered_[part].get();
            for (std::size_t i = begin; i < end; ++i) to[i] += other[i];
            std::fill(other + begin, other + end, T(0));
        }
    }

    Lattice<T> lattice_;
    std::size_t width_;
    const T* scale_;
    bool half_;
    Buffer<Entry<T>> entries_;
    Tables<T> tables_;
    Tables<Half> half_tables_;
    std::vector<Buffer<T>> scattered_;
};

/// Filter n x c values.
template <typename T>
void filter(const Lattice<T>& lattice, const T* values, T* out, std::size_t c, bool reverse,
            std::size_t threads) {
    constexpr std::size_t grain = 4096;
    const std::size_t widest = padded(c < kGroup ? c : kGroup);
    const auto rows = uninitialized<T>(lattice.n * widest);
    LatticeFilter<T> whole(lattice, widest, 0);
    LatticeFilter<T> rest(lattice, c > kGroup && c % kGroup != 0 ? padded(c % kGroup) : 1, 0);
    Team::run(threads, [&](Team& team) {
        whole.load(team);
        if (c > kGroup) rest.load(team);
        for (std::size_t done = 0; done < c; done += kGroup) {
            const std::size_t real = c - done < kGroup ? c - done : kGroup;
            const std::size_t width = padded(real);
            LatticeFilter<T>& one = width == widest ? whole : rest;
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i)
                    for (std::size_t k = 0; k < width; ++k)
                        rows[i * width + k] = k < real ? values[i * c + done + k] : T(0);
            });
            one.blur(team, rows.get(), reverse);
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                T* at = rows.get() + begin * width;
                one.slice(nullptr, at, begin, end);
                for (std::size_t i = 0; i < end - begin; ++i)
                    for (std::size_t k = 0; k < real; ++k)
                        out[(begin + i) * c + done + k] = at[i * width + k];
            });
        }
    });
}

}  // namespace crfrnn
