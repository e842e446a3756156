#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory.hpp"
#include "lattice/build.hpp"

namespace crfrnn {

/// Clamped pixels that are alike, as one point.
///
/// What clamped pixels send never changes, and a free pixel reads the sum over thousands of them.
/// So a square of them whose points differ little may send from the mean of its points, as often as
/// it has pixels. For points within a distance of 2 e, the Gaussian of another point changes by a
/// share of e^2 / 2 in the mean; a lattice rounds points to cells that are wider than that.
template <typename T>
struct Senders {
    Buffer<T> points;             ///< count x d: the free pixels first, in ascending order
    Buffer<std::int32_t> member;  ///< the point of each pixel
    Buffer<T> share;              ///< how many pixels each point stands for
    std::size_t count = 0;
};

/// The joined squares within 8 x 8 pixels from `start` on, of which `rows` x `columns` pairs of
/// lines lie in the grid. A square is joined if its four parts are, and if their bounds together
/// are narrow.
template <typename T>
void find_squares(const T* points, std::size_t d, const bool* held, std::size_t width,
                  std::size_t start, std::size_t rows, std::size_t columns, T most,
                  std::uint8_t* side) {
    struct Bounds {
        bool joined = false;
        std::array<T, kMaxDimensions> low, high;
    };
    Bounds square[4][4];
    for (std::size_t y = 0; y < rows; ++y) {
        for (std::size_t x = 0; x < columns; ++x) {
            const std::size_t first = start + 2 * y * width + 2 * x;
            const std::size_t pixel[] = {first, first + 1, first + width, first + width + 1};
            if (!(held[pixel[0]] && held[pixel[1]] && held[pixel[2]] && held[pixel[3]])) continue;
            Bounds& bounds = square[y][x];
            bounds.joined = true;
            for (std::size_t k = d; k-- > 0 && bounds.joined;) {  // colors differ first
                const T a = points[pixel[0] * d + k], b = points[pixel[1] * d + k];
                const T c = points[pixel[2] * d + k], e = points[pixel[3] * d + k];
                bounds.low[k] = std::min(std::min(a, b), std::min(c, e));
                bounds.high[k] = std::max(std::max(a, b), std::max(c, e));
                bounds.joined = bounds.high[k] - bounds.low[k] <= most;
            }
            if (bounds.joined) side[first] = 2;
        }
    }
    for (std::size_t step = 2; step <= 4; step *= 2) {  // squares of 4, then of 8 pixels
        for (std::size_t y = 0; y + step <= rows; y += step) {
            for (std::size_t x = 0; x + step <= columns; x += step) {
                const std::size_t half = step / 2;
                Bounds& all = square[y][x];
                const Bounds* const others[] = {&square[y][x + half], &square[y + half][x],
                                                &square[y + half][x + half]};
                for (const Bounds* other : others) all.joined = all.joined && other->joined;
                for (std::size_t k = 0; k < d && all.joined; ++k) {
                    for (const Bounds* other : others) {
                        all.low[k] = std::min(all.low[k], other->low[k]);
                        all.high[k] = std::max(all.high[k], other->high[k]);
                    }
                    all.joined = all.high[k] - all.low[k] <= most;
                }
                if (all.joined)
                    side[start + 2 * y * width + 2 * x] = static_cast<std::uint8_t>(2 * step);
            }
        }
    }
}

/// Join squares of 2, 4 and 8 clamped pixels a side within which no feature varies by more than
/// `spread`, in bandwidths.
///
/// @param points n x d, divided by the bandwidths
/// @param sizes  of the grid; squares lie in its last two axes
/// @param held   the clamped pixels
template <typename T>
Senders<T> join_alike(const T* points, std::size_t d, const std::vector<std::size_t>& sizes,
                      const bool* held, double spread) {
    std::size_t n = 1;
    for (const std::size_t size : sizes) n *= size;
    const std::size_t width = sizes.back();
    const std::size_t height = sizes.size() > 1 ? sizes[sizes.size() - 2] : 1;
    const T most = static_cast<T>(spread);

    // The side of the largest joined square that begins at a pixel.
    const auto side = uninitialized<std::uint8_t>(n);
    std::fill_n(side.get(), n, std::uint8_t{1});
    for (std::size_t slice = 0; slice < n; slice += width * height)
        for (std::size_t y = 0; y < height; y += 8)
            for (std::size_t x = 0; x < width; x += 8)
                find_squares(points, d, held, width, slice + y * width + x,
                             std::min<std::size_t>(8, height - y) / 2,
                             std::min<std::size_t>(8, width - x) / 2, most, side.get());

    Senders<T> senders;
    senders.member = uninitialized<std::int32_t>(n);
    std::int32_t* const member = senders.member.get();
    std::int32_t next = 0;
    for (std::size_t i = 0; i < n; ++i) member[i] = held[i] ? -1 : next++;
    for (std::size_t i = 0; i < n; ++i) {
        if (member[i] >= 0) continue;
        for (std::size_t y = 0; y < side[i]; ++y)
            for (std::size_t x = 0; x < side[i]; ++x) member[i + y * width + x] = next;
        ++next;
    }
    senders.count = static_cast<std::size_t>(next);
    senders.share = uninitialized<T>(senders.count);
    std::fill_n(senders.share.get(), senders.count, T(0));
    senders.points = uninitialized<T>(senders.count * d);
    for (std::size_t i = 0; i < n; ++i) {
        const auto m = static_cast<std::size_t>(member[i]);
        T* const sum = senders.points.get() + m * d;
        const bool is_first = senders.share[m] == T(0);
        for (std::size_t k = 0; k < d; ++k)
            sum[k] = is_first ? points[i * d + k] : sum[k] + points[i * d + k];
        senders.share[m] += T(1);
    }
    for (std::size_t m = 0; m < senders.count; ++m)
        if (senders.share[m] > T(1))
            for (std::size_t k = 0; k < d; ++k) senders.points[m * d + k] /= senders.share[m];
    return senders;
}

}  // namespace crfrnn
