#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <variant>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "filters/separable.hpp"
#include "filters/term.hpp"
#include "lattice/filter.hpp"

namespace crfrnn {

/// out = (F 1) to the power `power`, from which the normalizations follow: -1/2 on both sides is
/// the symmetric one, -1 after or before the filter the others, and 1 is the response itself.
/// Responses are kept away from zero if the power is negative.
template <typename T>
void response(const Term<T>& term, std::size_t n, std::size_t row, double power, T* out,
              std::size_t threads) {
    constexpr std::size_t grain = 4096;
    if (!std::holds_alternative<std::vector<BandMatrix<T>>>(term.gaussian)) row = grain;
    const T least = std::sqrt(std::numeric_limits<T>::min());
    const std::size_t used = threads_for(2 * n, threads);
    const std::size_t parts = LatticeFilter<T>::parts_for(used, 1);
    TermFilter<T> filter(term, n, row, 1, false, parts);
    const auto ones = uninitialized<T>(n);
    Team::run(used, [&](Team& team) {
        filter.load(team);
        const std::size_t jobs = std::max<std::size_t>(1, parts);
        team.for_each(jobs, [&](std::size_t job) {
            const std::size_t begin = job * n / jobs, end = (job + 1) * n / jobs;
            std::fill(ones.get() + begin, ones.get() + end, T(1));
            if (parts > 0) filter.splat(job, ones.get() + begin, begin, end);
        });
        filter.prepare(team, ones.get());
        const std::size_t rows = std::max<std::size_t>(1, grain / row);
        team.for_range((n + row - 1) / row, rows, [&](std::size_t first, std::size_t last) {
            for (std::size_t begin = first * row; begin < std::min(n, last * row); begin += row) {
                T* to = out + begin;
                const std::size_t count = std::min(row, n - begin);
                filter.tile(to, begin, begin + count);
                if (power == 1) continue;
                for (std::size_t i = 0; i < count; ++i) {
                    const T norm = std::max(to[i], least);
                    to[i] = power == -0.5 ? 1 / std::sqrt(norm) : 1 / norm;
                }
            }
        });
    });
}

}  // namespace crfrnn
