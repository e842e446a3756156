#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/threads.hpp"

namespace crfrnn {

/// The blurs along all axes in one pass over a lattice's table, for tables beyond the caches.
///
/// Vertices are in ascending order of their keys, and the neighbors along an axis are a constant
/// step away. So the first rows can be blurred along the second axis while the next ones are
/// blurred along the first: a wave that runs once over the table, with the rows that it needs in
/// the cache, in place of one pass from memory per axis. Each row is computed as before, from the
/// same values.
///
/// Blurs alternate between two tables. Blur s of a row reads the row's neighbors along its own
/// axis, which blur s-1 has written. It overwrites the row in the table that blur s-1 reads, and
/// there only the row's neighbors along the axis of s-1 need it, as neighbors are mutual. So blur s
/// of a row may start once blur s-1 has finished the neighbors along both axes.
class BlurWave {
public:
    static constexpr std::size_t kBlock = 512;  // rows

    /// Find how far neighbors reach. All workers call, once, before the first `run`.
    void load(Team& team, const std::int32_t* neighbor, std::size_t stride, std::size_t m,
              std::size_t axes) {
        const std::size_t blocks = (m + kBlock - 1) / kBlock;
        team.once([&] {
            blocks_ = blocks;
            axes_ = axes;
            last_.resize(axes * blocks);
            finished_ = std::vector<std::atomic<bool>>(axes * blocks);
            passed_ = std::vector<std::atomic<std::size_t>>(axes);
        });
        team.for_each(axes * blocks, [&](std::size_t item) {
            const std::size_t axis = item / blocks, block = item % blocks;
            const std::int32_t* const rows = neighbor + axis * stride;
            const std::size_t begin = block * kBlock, end = std::min(m, begin + kBlock);
            std::int32_t top = static_cast<std::int32_t>(end);  // rows count from one
            for (std::size_t k = 2 * begin; k < 2 * end; ++k) top = std::max(top, rows[k]);
            last_[item] = (static_cast<std::size_t>(top) - 1) / kBlock;
        });
    }

    /// Call `blur(step, axis, block)` for all blocks and axes, the axes in order or in reverse.
    template <typename Blur>
    void run(Team& team, std::size_t axes, std::size_t m, bool reverse, Blur&& blur) {
        team.once([&] { plan(reverse); });
        team.for_each(axes * ((m + kBlock - 1) / kBlock), [&](std::size_t item) {
            const auto [step, block] = order_[item];
            if (step > 0) await(team, step - 1, needed(step, block, reverse));
            blur(step, axis_of(step, reverse), block);
            finished_[step * blocks_ + block].store(true, std::memory_order_release);
        });
    }

private:
    struct Item {
        std::size_t step, block;
    };

    std::size_t axis_of(std::size_t step, bool reverse) const {
        return reverse ? axes_ - 1 - step : step;
    }

    /// The last block that the step before must have finished.
    std::size_t needed(std::size_t step, std::size_t block, bool reverse) const {
        return std::max(last_[axis_of(step, reverse) * blocks_ + block],
                        last_[axis_of(step - 1, reverse) * blocks_ + block]);
    }

    /// The order in which workers draw blocks: the latest step that can go on. Two blocks of
    /// distance keep workers from waiting for what others have just drawn.
    void plan(bool reverse) {
        constexpr std::size_t distance = 2;
        for (auto& is : finished_) is.store(false, std::memory_order_relaxed);
        for (auto& count : passed_) count.store(0, std::memory_order_relaxed);
        order_.clear();
        std::vector<std::size_t> at(axes_, 0);
        while (order_.size() < axes_ * blocks_) {
            for (std::size_t step = axes_; step-- > 0;) {
                if (at[step] == blocks_) continue;
                if (step > 0 && at[step - 1] < blocks_ &&
                    at[step - 1] <= needed(step, at[step], reverse) + distance)
                    continue;
                order_.push_back({step, at[step]++});
                break;
            }
        }
    }

    /// Wait until a step has finished all blocks up to `last`. They were drawn before.
    void await(Team& team, std::size_t step, std::size_t last) {
        std::size_t passed = passed_[step].load(std::memory_order_acquire);
        for (; passed <= last; ++passed)
            team.until(
                [&] { return finished_[step * blocks_ + passed].load(std::memory_order_acquire); });
        passed_[step].store(
            passed, std::memory_order_release);  // a hint: if it goes back, only time is lost
    }

    std::size_t blocks_ = 0, axes_ = 0;
    std::vector<std::size_t> last_;  // block in which the neighbors of a block end, by axis
    std::vector<std::atomic<bool>> finished_;
    std::vector<std::atomic<std::size_t>> passed_;  // blocks known to be finished, per step
    std::vector<Item> order_;
};

}  // namespace crfrnn
