#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"

namespace crfrnn {

/// One dimension of the points of a grid: a map of the grid, with steps between its elements along
/// each axis (0 where it repeats), and the bandwidth that divides it.
template <typename T>
struct FeatureMap {
    const T* data;
    std::vector<std::ptrdiff_t> steps;
    T bandwidth;
};

/// The points of a grid, n x d: every map divided by its bandwidth.
template <typename T>
Buffer<T> to_points(const std::vector<FeatureMap<T>>& maps, const std::vector<std::size_t>& sizes,
                    std::size_t threads) {
    const std::size_t d = maps.size(), row = sizes.back();
    std::size_t rows = 1;
    for (std::size_t axis = 0; axis + 1 < sizes.size(); ++axis) rows *= sizes[axis];
    auto points = uninitialized<T>(rows * row * d);
    const std::size_t grain = std::max<std::size_t>(1, 4096 / row);
    Team::run(threads_for(rows * row * d / 8, threads), [&](Team& team) {
        team.for_range(rows, grain, [&](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                for (std::size_t k = 0; k < d; ++k) {
                    const FeatureMap<T>& map = maps[k];
                    std::ptrdiff_t start = 0;
                    for (std::size_t axis = sizes.size() - 1, rest = r; axis-- > 0;) {
                        start += static_cast<std::ptrdiff_t>(rest % sizes[axis]) * map.steps[axis];
                        rest /= sizes[axis];
                    }
                    const T* from = map.data + start;
                    const std::ptrdiff_t step = map.steps.back();
                    T* to = points.get() + r * row * d + k;
                    for (std::size_t x = 0; x < row; ++x, from += step, to += d)
                        *to = *from / map.bandwidth;
                }
            }
        });
    });
    return points;
}

}  // namespace crfrnn
