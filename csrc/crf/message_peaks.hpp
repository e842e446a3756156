#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "filters/term.hpp"
#include "lattice/filter.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Groups of classes that `message_peaks` can bound at a time.
constexpr std::size_t kMessageGroups = 4;

/// Upper bounds of the first Potts message, sum over k of w_k F_k Q, to any class of each group.
///
/// The proof that a class stays unlikely starts here. With Potts weights w >= 0, messages are not
/// negative: a message m to class c raises its marginal to exp(m) Q_0(c) at most. Filters with
/// non-negative weights are monotonous. So if M_1 bounds the first message at all pixels, the
/// bounds M_(t+1) = M_1 exp(M_t) hold by induction over the steps; the caller follows them.
///
/// A group is bounded by a single column: at each pixel it holds the likeliest class of the group.
/// This column is at least the marginal of every class in the group, as long as its denominator is
/// no larger than theirs. The softmax below has one column per group and one for each class in no
/// group, so it sums fewer exponentials than the full one, and bounds from above.
///
/// @param groups   lists of classes, at most kMessageGroups
/// @param weights  terms x groups, not negative: at least the weight of every class in the group
/// @param peaks    out, one per group
template <typename T>
void message_peaks(const T* logits, std::size_t classes,
                   const std::vector<std::vector<std::size_t>>& groups, std::size_t n,
                   std::size_t row, const std::vector<Term<T>>& terms, const T* weights,
                   double* peaks, std::size_t threads) {
    constexpr std::size_t width = kMessageGroups;
    using Row = std::array<T, width>;
    // One column for each group, and then one for each class in no group.
    std::vector<std::vector<std::size_t>> columns = groups;
    columns.resize(width);
    for (std::size_t c = 0; c < classes; ++c)
        if (std::none_of(groups.begin(), groups.end(), [c](const auto& group) {
                return std::find(group.begin(), group.end(), c) != group.end();
            }))
            columns.push_back({c});
    const std::size_t stride = padded(columns.size());
    columns.resize(stride);
    const std::size_t used = threads_for(n * classes / 8, threads);
    const std::size_t parts = LatticeFilter<T>::parts_for(used, width);
    std::vector<Row> weight(terms.size(), Row{});
    std::vector<std::unique_ptr<TermFilter<T>>> filters;
    for (std::size_t k = 0; k < terms.size(); ++k) {
        std::copy_n(weights + k * groups.size(), groups.size(), weight[k].begin());
        filters.push_back(std::make_unique<TermFilter<T>>(terms[k], n, row, width, false, parts));
    }
    const auto q = uninitialized<T>(n * width);
    const Tiles tiles(n, row, parts);
    std::vector<Row> highest(tiles.count(), Row{});
    Team::run(used, [&](Team& team) {
        for (auto& filter : filters) filter->load(team);
        const auto scratch = uninitialized<T>(2 * kTile * stride);
        T *const z = scratch.get(), *const all = z + kTile * stride;
        tiles.for_each(
            team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t part) {
                const std::size_t rows = end - begin;
                for (std::size_t column = 0; column < stride; ++column) {
                    T top[kTile];
                    std::fill_n(top, rows, static_cast<T>(kNothing));
                    for (const std::size_t c : columns[column]) {
                        const T* from = logits + c * n + begin;
                        for (std::size_t i = 0; i < rows; ++i)
                            top[i] = top[i] < from[i] ? from[i] : top[i];
                    }
                    for (std::size_t i = 0; i < rows; ++i) z[i * stride + column] = top[i];
                }
                loops<T>().softmax(z, stride, stride, stride, all, stride, nullptr, rows);
                T* const to = q.get() + begin * width;
                for (std::size_t i = 0; i < rows; ++i)
                    std::copy_n(all + i * stride, width, to + i * width);
                if (parts > 0)
                    for (auto& filter : filters) filter->splat(part, to, begin, end);
            });
        for (auto& filter : filters) filter->prepare(team, q.get());
        tiles.for_each(
            team, [&](std::size_t tile, std::size_t begin, std::size_t end, std::size_t) {
                T sum[kTile * width] = {}, message[kTile * width];
                for (std::size_t k = 0; k < filters.size(); ++k) {
                    filters[k]->tile(message, begin, end);
                    for (std::size_t i = 0; i < end - begin; ++i)
                        for (std::size_t g = 0; g < width; ++g)
                            sum[i * width + g] += weight[k][g] * message[i * width + g];
                }
                Row top{};
                for (std::size_t i = 0; i < end - begin; ++i)
                    for (std::size_t g = 0; g < width; ++g)
                        top[g] = top[g] < sum[i * width + g] ? sum[i * width + g] : top[g];
                highest[tile] = top;
            });
    });
    std::fill(peaks, peaks + groups.size(), 0.0);
    for (const Row& top : highest)
        for (std::size_t g = 0; g < groups.size(); ++g)
            peaks[g] = std::max(peaks[g], static_cast<double>(top[g]));
}

}  // namespace crfrnn
