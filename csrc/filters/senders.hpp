#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory.hpp"

namespace crfrnn {

/// Clamped pixels that are alike, as one point.
///
/// What clamped pixels send never changes, and a free pixel reads the sum over thousands of them.
/// So a square of them whose points differ little may send from the mean of its points, as often as
/// it has pixels. For points within a distance of 2 e, the Gaussian of another point changes by a
/// share of e^2 / 2 in the mean; a lattice rounds points to cells that are wider than that.
template <typename T>
struct Senders {
    Buffer<T> points;                  ///< count x d: the free pixels first, in ascending order
    std::vector<std::int32_t> member;  ///< the point of each pixel
    std::vector<T> share;              ///< how many pixels each point stands for
    std::size_t count = 0;
};

/// Join squares of 2, 4 and 8 clamped pixels a side within which no feature varies by more than
/// `spread`, in bandwidths.
///
/// @param points n x d, divided by the bandwidths
/// @param sizes  of the grid; squares lie in its last two axes
/// @param held   the clamped pixels
template <typename T>
Senders<T> join_alike(const T* points, std::size_t d, const std::vector<std::size_t>& sizes,
                      const bool* held, double spread) {
    constexpr std::size_t kLevels = 3;
    std::size_t n = 1;
    for (const std::size_t size : sizes) n *= size;
    const std::size_t width = sizes.back();
    const std::size_t height = sizes.size() > 1 ? sizes[sizes.size() - 2] : 1;
    const std::size_t slices = n / (width * height);
    const T most = static_cast<T>(spread);

    Senders<T> senders;
    senders.member.assign(n, -1);
    std::int32_t next = 0;
    for (std::size_t i = 0; i < n; ++i)
        if (!held[i]) senders.member[i] = next++;

    // Bounds of the features in every square, level by level: a square is joined if its four parts
    // are and their bounds together are narrow. `level[i]` is the largest joined square that begins
    // at pixel i.
    std::vector<std::uint8_t> level(n, 0);
    std::vector<T> low, high, low_next, high_next;
    low.assign(points, points + n * d);
    high = low;
    std::size_t rows = height, columns = width;  // of the present level
    std::vector<std::uint8_t> joined(n), joined_next;
    for (std::size_t i = 0; i < n; ++i) joined[i] = held[i] ? 1 : 0;
    for (std::size_t at = 1; at <= kLevels; ++at) {
        const std::size_t new_rows = rows / 2, new_columns = columns / 2;
        const std::size_t count = slices * new_rows * new_columns;
        if (count == 0) break;
        low_next.resize(count * d);
        high_next.resize(count * d);
        joined_next.assign(count, 0);
        for (std::size_t s = 0; s < slices; ++s) {
            for (std::size_t y = 0; y < new_rows; ++y) {
                for (std::size_t x = 0; x < new_columns; ++x) {
                    const std::size_t first = (s * rows + 2 * y) * columns + 2 * x;
                    const std::size_t part[] = {first, first + 1, first + columns,
                                                first + columns + 1};
                    if (!(joined[part[0]] & joined[part[1]] & joined[part[2]] & joined[part[3]]))
                        continue;
                    const std::size_t square = (s * new_rows + y) * new_columns + x;
                    bool narrow = true;
                    for (std::size_t k = 0; k < d; ++k) {
                        T least = low[first * d + k], greatest = high[first * d + k];
                        for (const std::size_t p : part) {
                            least = std::min(least, low[p * d + k]);
                            greatest = std::max(greatest, high[p * d + k]);
                        }
                        low_next[square * d + k] = least;
                        high_next[square * d + k] = greatest;
                        narrow = narrow && greatest - least <= most;
                    }
                    if (!narrow) continue;
                    joined_next[square] = 1;
                    const std::size_t side = std::size_t{1} << at;
                    level[(s * height + y * side) * width + x * side] =
                        static_cast<std::uint8_t>(at);
                }
            }
        }
        low.swap(low_next);
        high.swap(high_next);
        joined.swap(joined_next);
        rows = new_rows;
        columns = new_columns;
    }

    // Number the rest. A square begins at its first pixel, so parts of it are numbered already when
    // their turn comes.
    for (std::size_t i = 0; i < n; ++i) {
        if (senders.member[i] >= 0) continue;
        const std::size_t side = std::size_t{1} << level[i];
        for (std::size_t y = 0; y < side; ++y)
            for (std::size_t x = 0; x < side; ++x) senders.member[i + y * width + x] = next;
        ++next;
    }
    senders.count = static_cast<std::size_t>(next);
    senders.share.assign(senders.count, T(0));
    senders.points = uninitialized<T>(senders.count * d);
    T* const sums = senders.points.get();
    std::fill_n(sums, senders.count * d, T(0));
    for (std::size_t i = 0; i < n; ++i) {
        const auto m = static_cast<std::size_t>(senders.member[i]);
        senders.share[m] += T(1);
        for (std::size_t k = 0; k < d; ++k) sums[m * d + k] += points[i * d + k];
    }
    for (std::size_t m = 0; m < senders.count; ++m)
        if (senders.share[m] > T(1))
            for (std::size_t k = 0; k < d; ++k) sums[m * d + k] /= senders.share[m];
    return senders;
}

}  // namespace crfrnn
