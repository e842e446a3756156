#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "base/threads.hpp"

namespace crfrnn {

/// The largest ratio of each class's marginal to the likeliest class's: exp(max over pixels of
/// (u_c - max over classes of u)). The softmax's denominator cancels in the ratio, so that one
/// exponential per class is enough.
template <typename T>
void class_peaks(const T* logits, std::size_t classes, std::size_t n, double* peaks,
                 std::size_t threads) {
    constexpr std::size_t grain = 4096;
    const std::size_t chunks = (n + grain - 1) / grain;
    std::vector<T> below(chunks * classes);
    Team::run(threads_for(n * classes / 8, threads), [&](Team& team) {
        team.for_each(chunks, [&](std::size_t chunk) {
            const std::size_t begin = chunk * grain, count = std::min(grain, n - begin);
            T top[grain];
            std::copy_n(logits + begin, count, top);
            for (std::size_t c = 1; c < classes; ++c) {
                const T* u = logits + c * n + begin;
                for (std::size_t i = 0; i < count; ++i) top[i] = u[i] > top[i] ? u[i] : top[i];
            }
            for (std::size_t c = 0; c < classes; ++c) {
                const T* u = logits + c * n + begin;
                T lanes[8];
                std::fill_n(lanes, 8, u[0] - top[0]);
                for (std::size_t i = 0; i < count; ++i)
                    lanes[i % 8] = u[i] - top[i] > lanes[i % 8] ? u[i] - top[i] : lanes[i % 8];
                below[chunk * classes + c] = *std::max_element(lanes, lanes + 8);
            }
        });
    });
    for (std::size_t c = 0; c < classes; ++c) {
        T highest = below[c];
        for (std::size_t chunk = 1; chunk < chunks; ++chunk)
            highest = std::max(highest, below[chunk * classes + c]);
        peaks[c] = std::exp(static_cast<double>(highest));
    }
}

}  // namespace crfrnn
