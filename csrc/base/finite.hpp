#pragma once

#include <atomic>
#include <cstddef>

#include "base/threads.hpp"

namespace crfrnn {

/// Whether all values are finite.
template <typename T>
bool all_finite(const T* values, std::size_t count, std::size_t threads) {
    constexpr std::size_t grain = 1 << 16;
    std::atomic<bool> finite{true};
    Team::run(threads_for(count / 64, threads), [&](Team& team) {
        team.for_range(count, grain, [&](std::size_t begin, std::size_t end) {
            T difference[16] = {};  // of a value and itself: zero, or NaN
            for (std::size_t i = begin; i < end; ++i) difference[i % 16] += values[i] - values[i];
            for (const T d : difference)
                if (!(d == 0)) finite = false;
        });
    });
    return finite;
}

}  // namespace crfrnn
