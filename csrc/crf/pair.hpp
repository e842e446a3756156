#pragma once

#include <cstddef>
#include <vector>

#include "base/tiles.hpp"
#include "loops/loops.hpp"

/// Two classes as a single column that treats them alike. With s = (q_0 - q_1) / 2,
///
///     q_0 = 1/2 + s,  q_1 = 1/2 - s,  so  F q_0 = (F 1)/2 + F s  and  F q_1 = (F 1)/2 - F s.
///
/// Rounding does not see a sign. So a tie, s = 0, stays a tie, and swapping the classes only
/// changes the signs of s. `total` is F 1.
namespace crfrnn::pair {

/// Messages to both classes, from the filtered column.
template <typename T>
void widen(const T* f, const T* total, std::size_t rows, T* r) {
    for (std::size_t i = 0; i < rows; ++i) {
        const T half = total[i] / 2;
        r[2 * i] = half + f[i];
        r[2 * i + 1] = half - f[i];
    }
}

/// z = u + the Potts messages of a tile, up to a constant per row unless `is_exact`.
template <typename T>
void step(const std::vector<Message<T>>& messages, const T* u, T* z, bool is_exact,
          std::size_t rows) {
    T first[kTile] = {}, second[kTile] = {};
    for (const auto& message : messages) {  // in the outer loop, so that the inner ones vectorize
        const T* const f = message.rows;
        const T* const total = message.total;
        const T w = message.weight[0], v = message.weight[1];
        if (is_exact) {
            for (std::size_t i = 0; i < rows; ++i) {
                first[i] += w * (total[i] / 2 + f[i]);
                second[i] += v * (total[i] / 2 - f[i]);
            }
            continue;
        }
        // Without the half of both, a message is small where the classes are nearly tied, and the
        // recurrence multiplies rounding errors there.
        for (std::size_t i = 0; i < rows; ++i) {
            first[i] += w * f[i] + (w - v) / 2 * (total[i] / 2);
            second[i] += v * -f[i] + (v - w) / 2 * (total[i] / 2);
        }
    }
    for (std::size_t i = 0; i < rows; ++i) {
        z[2 * i] = u[2 * i] + first[i];
        z[2 * i + 1] = u[2 * i + 1] + second[i];
    }
}

/// The column from rows q of both marginals. Returns the sum of their changes from `before`, the
/// column of the last step, if that is not null.
template <typename T>
double narrow(const T* q, const T* before, std::size_t rows, T* s) {
    double change = 0;
    for (std::size_t i = 0; i < rows; ++i) {
        const T column = (q[2 * i] - q[2 * i + 1]) / 2;
        if (before != nullptr) {
            const double moved = static_cast<double>(column - before[i]);
            change += 2 * (moved < 0 ? -moved : moved);
        }
        s[i] = column;
    }
    return change;
}

}  // namespace crfrnn::pair
