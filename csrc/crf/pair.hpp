#pragma once

#include <cstddef>
#include <vector>

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

/// z = u + the Potts messages, up to a constant per row unless `is_exact`.
template <typename T>
void step(const std::vector<Message<T>>& messages, const T* u, T* z, bool is_exact,
          std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i) {
        T first = 0, second = 0;
        for (const auto& message : messages) {
            const T half = message.total[i] / 2, f = message.rows[i];
            const T w = message.weight[0], v = message.weight[1];
            // Without the half of both, a message is small where the classes are nearly tied, and
            // the recurrence multiplies rounding errors there.
            first += is_exact ? w * (half + f) : w * f + (w - v) / 2 * half;
            second += is_exact ? v * (half - f) : v * -f + (v - w) / 2 * half;
        }
        z[2 * i] = u[2 * i] + first;
        z[2 * i + 1] = u[2 * i + 1] + second;
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
