#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "lattice/entries.hpp"
#include "lattice/lattice.hpp"
#include "lattice/wave.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// A lattice filter with its tables: `blur` reads values, `slice` gives the filtered ones.
///
/// Channels are handled in groups of at most kGroup, each with its own table; all groups share the
/// second table that blurring needs. Tables may be stored in half precision, if rows are wide;
/// their values then have to be in its range.
///
/// There are two ways to splat. Each vertex may sum up the values of its points, a work that any
/// number of threads can share. Or each point adds its value to its vertices, in parts that each
/// fill a table of their own: tables of narrow rows are small, and their values are still cached
/// when a step has computed them. The first way reads every value d+1 times and writes each row
/// once; the second reads and writes rows d+1 times per point and adds up the parts' tables.
///
/// The cost of a filter is memory: splat and slice read d+1 rows per point, and each of the d+1
/// blurs reads three rows and writes one per vertex. At 500 x 500 x 21 a step moves 315 MB, of
/// which 179 are tables, 32 are indices and weights. At four channels tables fit the third cache,
/// and indices are half of the 40 MB that remain. docs/results/performance.md has more.
template <typename T>
class LatticeFilter {
public:
    /// @param width channels of a row of values, `padded`
    /// @param parts number of parts in which points splat; 0 if vertices do
    /// @param scale factor of each point's values in the splat; null for ones
    /// @param half  store tables in half precision, if the processor can and it is worth it
    LatticeFilter(const Lattice<T>& lattice, std::size_t width, std::size_t parts,
                  const T* scale = nullptr, bool half = false)
        : lattice_(lattice),
          width_(width),
          scale_(scale),
          stores_half_(half && width > kNarrow && loops<T>().half_tables.blur != nullptr),
          entries_(uninitialized<Entry<T>>(parts > 0 ? 0 : lattice.n * (lattice.d + 1))),
          tables_(lattice.m + 1, stores_half_ ? 0 : width),
          half_tables_(lattice.m + 1, stores_half_ ? width : 0) {
        if (parts == 0 && lattice_.entry == nullptr) lattice_.lazy->complete(lattice_);
        for (std::size_t part = 0; part < parts; ++part)
            part_tables_.push_back(uninitialized<T>((lattice.m + 1) * width));
    }

    /// The number of parts in which `threads` should splat rows of this width from the points'
    /// side; 0 if vertices should sum up. Each part's table is added up and cleared, which costs
    /// about as much as a blur: beyond a few threads or eight channels this exceeds the savings.
    static std::size_t parts_for(std::size_t threads, std::size_t width) {
        return threads <= 4 && width <= kNarrow ? threads : 0;
    }

    /// Order scaled weights as splat reads them. All workers call.
    void load(Team& team) {
        if (is_far(std::min(width_, kGroup) * (stores_half_ ? sizeof(Half) : sizeof(T)), kNearRows))
            wave_.load(team, lattice_.neighbor, lattice_.neighbor_stride, lattice_.m,
                       lattice_.d + 1);
        if (!part_tables_.empty()) {
            for (const auto& table : part_tables_)
                team.for_range((lattice_.m + 1) * width_, kGrain * 8,
                               [&](std::size_t begin, std::size_t end) {
                                   std::fill(table.get() + begin, table.get() + end, T(0));
                               });
            return;
        }
        const std::size_t corners = lattice_.d + 1;
        // Division by multiplication with inverse = 2^shift / corners + e, 0 < e <= 1. The product
        // exceeds at / corners by less than at * 2^-shift < 1 / corners for entries at < 2^31,
        // since 2^shift >= 2^32 * corners: too little to reach the next integer. It stays below
        // 2^64.
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
    void splat(std::size_t part, const T* values, std::size_t begin, std::size_t end) {
        loops<T>().splat_points(lattice_.vertex, lattice_.weight, lattice_.d + 1, width_, scale_,
                                values, part_tables_[part].get(),
                                width_ > 1 && is_far(width_ * sizeof(T), kNearPoints), begin, end);
    }

    /// Splat rows of `width` values (or add up the parts' tables) and blur. All workers call this
    /// together.
    ///
    /// The adjoint is the same filter with the axes in reverse. Write the filter as
    ///
    ///     F = gain * S' B_d ... B_1 B_0 S
    ///
    /// with the splat S, an m x n matrix of barycentric weights, and one blur B_a per axis. The
    /// slice is S' because it uses the same weights. Each B_a is symmetric: if u has the neighbor
    /// v, then v has the neighbor u, with the same weight 1/2. So F' = gain * S' B_0 B_1 ... B_d S.
    /// On a complete lattice the B_a commute, and F' = F. Where vertices are missing they do not: a
    /// path over two axes may exist in one order and lead over a missing vertex in the other.
    ///
    /// @param reverse blur the axes backwards: the adjoint
    void blur(Team& team, const T* values, bool reverse) {
        const Loops<T>& l = loops<T>();
        if (stores_half_) {
            blur(team, l.half_tables, half_tables_, values, reverse);
        } else {
            blur(team, l.tables, tables_, values, reverse);
        }
    }

    /// Read the blurred values at points begin..end into rows of `width`, times `scale` if given.
    void slice(const T* scale, T* out, std::size_t begin, std::size_t end) const {
        const Loops<T>& l = loops<T>();
        if (stores_half_) {
            // Each blur has halved the values.
            const int axes = static_cast<int>(lattice_.d + 1);
            slice(l.half_tables, half_tables_, std::ldexp(lattice_.gain(), axes), scale, out, begin,
                  end);
        } else {
            slice(l.tables, tables_, lattice_.gain(), scale, out, begin, end);
        }
    }

    /// For each corner of each point begin..end, add to its number in `out` the gain times the dot
    /// product of the point's row of `width` values and the blurred values at the corner. For rows
    /// of one group and tables in full precision.
    void add_products(const T* rows, T* out, std::size_t begin, std::size_t end) const {
        const std::size_t corners = lattice_.d + 1;
        const T* const table = group(tables_, 0);
        const T gain = lattice_.gain();
        for (std::size_t i = begin; i < end; ++i) {
            const T* const row = rows + i * width_;
            for (std::size_t at = i * corners; at < (i + 1) * corners; ++at) {
                const auto vertex = static_cast<std::size_t>(lattice_.vertex[at]);
                const T* const corner = table + vertex * width_;
                T sums[4] = {};  // independent, so that they are added side by side
                std::size_t c = 0;
                for (; c + 4 <= width_; c += 4)
                    for (std::size_t k = 0; k < 4; ++k) sums[k] += row[c + k] * corner[c + k];
                for (; c < width_; ++c) sums[0] += row[c] * corner[c];
                out[at] += gain * (sums[0] + sums[1] + sums[2] + sums[3]);
            }
        }
    }

private:
    static constexpr std::size_t kGrain = 2048;

    /// Widest rows that points splat, and that are never stored in half precision: their tables are
    /// small enough.
    static constexpr std::size_t kNarrow = 8;

    /// Values of all vertices: one table per group of channels, and the spare table of the blur,
    /// which must not overwrite rows that other vertices have yet to read.
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
    void blur(Team& team, const TableLoops<T, S>& l, const Tables<S>& tables, const T* values,
              bool reverse) {
        const std::size_t axes = lattice_.d + 1;
        for (std::size_t done = 0; done < width_; done += kGroup) {
            const std::size_t width = group_width(done);
            const bool far = is_far(width * sizeof(S), kNearRows);
            // With an odd number of blurs, start in the spare table in order to end in the other.
            S* from = axes % 2 == 0 ? group(tables, done) : tables.spare.get();
            S* to = axes % 2 == 0 ? tables.spare.get() : group(tables, done);
            team.once([&] {
                for (std::size_t c = 0; c < width; ++c) from[c] = to[c] = S{};
            });
            team.for_range(lattice_.m, kGrain, [&](std::size_t begin, std::size_t end) {
                if constexpr (std::is_same_v<S, T>) {
                    if (!part_tables_.empty()) {
                        collect(from, (begin + 1) * width, (end + 1) * width);
                        return;
                    }
                }
                l.splat(entries_.get(), lattice_.offset, values + done, width_, width, from,
                        begin + 1, end + 1);
            });
            if (far) {
                S* const tables_of[] = {from, to};
                wave_.run(team, axes, lattice_.m, reverse,
                          [&](std::size_t step, std::size_t axis, std::size_t block) {
                              const std::size_t begin = block * BlurWave::kBlock;
                              l.blur(lattice_.neighbor + axis * lattice_.neighbor_stride, width,
                                     tables_of[step % 2], tables_of[1 - step % 2], far, begin + 1,
                                     std::min(lattice_.m, begin + BlurWave::kBlock) + 1);
                          });
                continue;
            }
            for (std::size_t a = 0; a < axes; ++a) {
                const std::size_t axis = reverse ? axes - 1 - a : a;
                const std::int32_t* pairs = lattice_.neighbor + axis * lattice_.neighbor_stride;
                team.for_range(lattice_.m, kGrain, [&](std::size_t begin, std::size_t end) {
                    l.blur(pairs, width, from, to, far, begin + 1, end + 1);
                });
                S* const last = from;
                from = to;
                to = last;
            }
        }
    }

    template <typename S>
    void slice(const TableLoops<T, S>& l, const Tables<S>& tables, T gain, const T* scale, T* out,
               std::size_t begin, std::size_t end) const {
        for (std::size_t done = 0; done < width_; done += kGroup) {
            const std::size_t width = group_width(done);
            l.slice(lattice_.vertex, lattice_.weight, lattice_.d + 1, width, group(tables, done),
                    gain, scale, out + done, width_, is_far(width * sizeof(S), kNearPoints), begin,
                    end);
        }
    }

    bool is_far(std::size_t row, std::size_t most) const { return (lattice_.m + 1) * row > most; }

    std::size_t group_width(std::size_t done) const {
        return width_ - done < kGroup ? width_ - done : kGroup;
    }

    /// Move the sum of the parts' tables to one table, and leave zeros.
    void collect(T* to, std::size_t begin, std::size_t end) {
        T* const first = part_tables_[0].get();
        std::copy(first + begin, first + end, to + begin);
        std::fill(first + begin, first + end, T(0));
        for (std::size_t part = 1; part < part_tables_.size(); ++part) {
            T* const other = part_tables_[part].get();
            for (std::size_t i = begin; i < end; ++i) to[i] += other[i];
            std::fill(other + begin, other + end, T(0));
        }
    }

    Lattice<T> lattice_;
    std::size_t width_;
    const T* scale_;
    bool stores_half_;
    Buffer<Entry<T>> entries_;
    Tables<T> tables_;
    Tables<Half> half_tables_;
    std::vector<Buffer<T>> part_tables_;
    BlurWave wave_;  // for tables beyond the caches
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
            LatticeFilter<T>& group = width == widest ? whole : rest;
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i)
                    for (std::size_t k = 0; k < width; ++k)
                        rows[i * width + k] = k < real ? values[i * c + done + k] : T(0);
            });
            group.blur(team, rows.get(), reverse);
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                T* at = rows.get() + begin * width;
                group.slice(nullptr, at, begin, end);
                for (std::size_t i = 0; i < end - begin; ++i)
                    for (std::size_t k = 0; k < real; ++k)
                        out[(begin + i) * c + done + k] = at[i * width + k];
            });
        }
    });
}

/// The gradient to the lattice's weights, n x (d+1), from that of the result of `filter`.
///
/// With X = B S v, the blurred values, and Y = B' S g, the blurred gradient in reverse order, it is
/// gain * (<g_i, X> + <v_i, Y>) at each corner of point i; see `reference_lattice.py`.
template <typename T>
void filter_to_weight(const Lattice<T>& lattice, const T* values, const T* gradient, T* out,
                      std::size_t c, bool reverse, std::size_t threads) {
    constexpr std::size_t grain = 4096;
    const std::size_t width = padded(c < kGroup ? c : kGroup), corners = lattice.d + 1;
    const auto value_rows = uninitialized<T>(lattice.n * width);
    const auto gradient_rows = uninitialized<T>(lattice.n * width);
    LatticeFilter<T> filter(lattice, width, 0);
    Team::run(threads, [&](Team& team) {
        filter.load(team);
        for (std::size_t done = 0; done < c; done += kGroup) {
            const std::size_t real = c - done < kGroup ? c - done : kGroup;
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i) {
                    for (std::size_t k = 0; k < width; ++k) {
                        const std::size_t from = i * c + done + k, to = i * width + k;
                        value_rows[to] = k < real ? values[from] : T(0);
                        gradient_rows[to] = k < real ? gradient[from] : T(0);
                    }
                }
                if (done == 0) std::fill(out + begin * corners, out + end * corners, T(0));
            });
            filter.blur(team, value_rows.get(), reverse);
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                filter.add_products(gradient_rows.get(), out, begin, end);
            });
            filter.blur(team, gradient_rows.get(), !reverse);
            team.for_range(lattice.n, grain, [&](std::size_t begin, std::size_t end) {
                filter.add_products(value_rows.get(), out, begin, end);
            });
        }
    });
}

}  // namespace crfrnn
