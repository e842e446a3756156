#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace crfrnn {

/// How many of `threads` are worth starting for `work` units of some ten nanoseconds: starting a
/// thread takes about as long as a few thousand of them.
inline std::size_t threads_for(std::size_t work, std::size_t threads) {
    return std::max<std::size_t>(1, std::min(threads, work / 8192));
}

/// Workers that run one function together and meet at barriers.
///
/// A team lives for one operator call, so that no thread survives a fork and none idles between
/// calls. Within the call it outlives every loop: a step of the recurrence has some dozen loops of
/// about a millisecond, too short to start threads for each.
class Team {
public:
    /// Run `body(team)` on up to `threads` threads, the caller among them; rethrow the first error
    /// of a loop.
    template <typename Body>
    static void run(std::size_t threads, Body&& body) {
        Team team;
        std::vector<std::thread> workers;
        std::atomic<bool> go{false};
        auto work = [&] {
            try {
                body(team);
            } catch (...) {
                team.keep_error();
            }
        };
        try {
            while (workers.size() + 1 < threads) {
                workers.emplace_back([&] {
                    while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
                    work();
                });
            }
        } catch (const std::system_error&) {
            // The system grants no more threads: those that started share the work.
        }
        team.size_ = workers.size() + 1;
        go.store(true, std::memory_order_release);
        work();
        for (auto& worker : workers) worker.join();
        if (team.error_) std::rethrow_exception(team.error_);
    }

    /// Call `body(i)` once for every i < n, spread over the team, and wait until all are done.
    /// Every worker of the team has to arrive here. Workers draw the next i from a counter, so that
    /// a slow or late thread holds nobody up; results must not depend on who computes them.
    template <typename Body>
    void for_each(std::size_t n, Body&& body) {
        try {
            for (std::size_t i = next_.fetch_add(1); i < n; i = next_.fetch_add(1)) body(i);
        } catch (...) {
            keep_error();
        }
        barrier();
        if (failed_.load()) std::rethrow_exception(error_);
    }

    /// Call `body(begin, end)` on consecutive ranges of at most `grain` that cover 0..n.
    template <typename Body>
    void for_range(std::size_t n, std::size_t grain, Body&& body) {
        for_each((n + grain - 1) / grain, [&](std::size_t i) {
            const std::size_t begin = i * grain;
            body(begin, begin + grain < n ? begin + grain : n);
        });
    }

    /// Call `body()` on one worker while the others wait.
    template <typename Body>
    void once(Body&& body) {
        for_each(1, [&](std::size_t) { body(); });
    }

    std::size_t size() const { return size_; }

private:
    /// Wait for the whole team. The last worker to arrive resets the counters for the next loop and
    /// only then opens the barrier, so that one barrier per loop is enough. Waiting spins first:
    /// loops are short, and waking a sleeping thread takes longer than most waits.
    void barrier() {
        const unsigned generation = generation_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            generation_.store(generation + 1, std::memory_order_release);
            return;
        }
        for (unsigned spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins)
            if (spins > 4000) std::this_thread::yield();
    }

    void keep_error() {
        if (!failed_.exchange(true)) {
            error_ = std::current_exception();
        }
    }

    std::size_t size_ = 1;
    std::atomic<std::size_t> next_{0};
    std::atomic<std::size_t> arrived_{0};
    std::atomic<unsigned> generation_{0};
    std::atomic<bool> failed_{false};
    std::exception_ptr error_;
};

}  // namespace crfrnn
