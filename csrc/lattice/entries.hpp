#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "lattice/lattice.hpp"

namespace crfrnn {

/// Sort the corners of all points by vertex, then by point: count, add up, put each in its place.
///
/// @param vertex  rows (1..m) of the corners
/// @param entry   out, `corners` positions in `vertex`
/// @param offset  out, m+1: where each vertex's entries begin
inline void find_entries(const std::int32_t* vertex, std::size_t corners, std::size_t m,
                         std::int32_t* entry, std::int32_t* offset, std::size_t threads) {
    const std::size_t chunks = threads_for(corners / 4, threads);
    const auto begin_of = [&](std::size_t c) { return c * corners / chunks; };
    std::vector<std::vector<std::int32_t>> next(chunks);
    Team::run(chunks, [&](Team& team) {
        team.for_each(chunks, [&](std::size_t c) {
            next[c].assign(m, 0);
            for (std::size_t i = begin_of(c); i < begin_of(c + 1); ++i)
                ++next[c][static_cast<std::size_t>(vertex[i]) - 1];
        });
        team.once([&] {
            std::int32_t total = 0;
            for (std::size_t v = 0; v < m; ++v) {
                offset[v] = total;
                for (auto& counts : next) {
                    const std::int32_t count = counts[v];
                    counts[v] = total;
                    total += count;
                }
            }
            offset[m] = total;
        });
        team.for_each(chunks, [&](std::size_t c) {
            for (std::size_t i = begin_of(c); i < begin_of(c + 1); ++i)
                entry[next[c][static_cast<std::size_t>(vertex[i]) - 1]++] =
                    static_cast<std::int32_t>(i);
        });
    });
}

/// A lattice's entries, which are sorted when a filter first splats wide rows. Narrow rows do
/// without them, and they take a tenth to a fifth of the time that a lattice takes.
class LazyEntries {
public:
    explicit LazyEntries(std::size_t threads) : threads_(threads) {}

    /// Fill in a lattice's entries. Any number of threads may call this at once.
    template <typename T>
    void complete(Lattice<T>& lattice) {
        std::call_once(once_, [&] {
            const std::size_t corners = lattice.n * (lattice.d + 1);
            entry_ = uninitialized<std::int32_t>(corners);
            offset_ = uninitialized<std::int32_t>(lattice.m + 1);
            find_entries(lattice.vertex, corners, lattice.m, entry_.get(), offset_.get(), threads_);
        });
        lattice.entry = entry_.get();
        lattice.offset = offset_.get();
    }

private:
    std::size_t threads_;
    std::once_flag once_;
    Buffer<std::int32_t> entry_, offset_;
};

}  // namespace crfrnn
