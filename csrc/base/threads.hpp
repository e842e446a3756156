#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <thread>

namespace crfrnn {

/// How many of `threads` are worth starting for `work` units of some ten nanoseconds: starting a
/// thread takes about as long as a few thousand of them.
inline std::size_t threads_for(std::size_t work, std::size_t threads) {
    return std::max<std::size_t>(1, std::min(threads, work / 8192));
}

/// Workers that run one function together and meet after each of its loops.
///
/// A team lives for one operator call, so that no thread idles between calls. Within the call it
/// outlives every loop: a step of the recurrence has some dozen loops of about a millisecond, too
/// short to start threads for each.
///
/// No worker waits for another that has drawn nothing. The system may start a thread late, or take
/// the processor from it. Such a worker skips the loops that the others have finished and joins the
/// current one; when the work is done, the caller returns without it. So code between the loops of
/// a body may run late. It may read only what no later loop changes, and all workers have to call
/// the same loops.
class Team {
public:
    /// Run `body(team)` on up to `threads` threads, the caller among them; rethrow the first error.
    template <typename Body>
    static void run(std::size_t threads, Body&& body) {
        if (threads <= 1) {
            Team alone(nullptr, false);
            body(alone);
            return;
        }
        const auto shared = std::make_shared<Shared>();
        const auto work = [&body](Shared& with, bool may_leave) {
            Team team(&with, may_leave);
            try {
                body(team);
            } catch (const Stopped&) {
            } catch (...) {
                with.keep_error();
            }
            if (may_leave && team.is_inside_) with.leave();
        };
        try {
            for (std::size_t helper = 1; helper < threads; ++helper)
                std::thread([shared, work] {
                    if (shared->enter()) work(*shared, true);
                }).detach();
        } catch (const std::system_error&) {
            // The system grants no more threads: those that started share the work.
        }
        work(*shared, false);
        shared->close();
        shared->rethrow();
    }

    /// Call `body(i)` once for every i < n, spread over the team, and wait until all are done.
    /// Workers draw the next i from a counter; results must not depend on who computes them.
    template <typename Body>
    void for_each(std::size_t n, Body&& body) {
        if (shared_ == nullptr) {
            for (std::size_t i = 0; i < n; ++i) body(i);
            return;
        }
        const std::uint32_t loop = loop_++;
        std::size_t done = 0;
        for (std::size_t i = 0; shared_->draw(loop, n, i); ++done) {
            if (shared_->has_failed()) continue;
            try {
                body(i);
            } catch (...) {
                shared_->keep_error();
            }
        }
        shared_->report(loop, n, done);
        wait(loop);
        if (shared_->has_failed()) throw Stopped();
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

    /// Within a loop, wait until `holds()`. Wait only for work on numbers that were drawn earlier:
    /// somebody is doing it, so the wait ends.
    template <typename Condition>
    void until(Condition&& holds) const {
        for (unsigned spins = 0; !holds(); ++spins) {
            if (shared_ != nullptr && shared_->has_failed()) throw Stopped();
            if (spins > kSpins) std::this_thread::yield();
        }
    }

private:
    /// Ends a worker's body: another one has failed, or the caller has returned.
    struct Stopped {};

    /// What the workers of a team share. A late worker may still look at it after the call.
    class Shared {
    public:
        /// Take the next number below n of a loop; false if none is left.
        bool draw(std::uint32_t loop, std::size_t n, std::size_t& i) {
            std::uint64_t next = next_.load(std::memory_order_acquire);
            do {
                i = static_cast<std::size_t>(next & 0xFFFFFFFFu);
                if (next >> 32 != loop || i >= n) return false;
            } while (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel,
                                                  std::memory_order_acquire));
            return true;
        }

        /// Count `done` numbers of a loop. The worker that counts the last opens the next loop.
        void report(std::uint32_t loop, std::size_t n, std::size_t done) {
            const std::uint64_t after = (static_cast<std::uint64_t>(loop) + 1) << 32;
            if (n == 0) {
                std::uint64_t here = static_cast<std::uint64_t>(loop) << 32;
                next_.compare_exchange_strong(here, after, std::memory_order_acq_rel);
            } else if (done > 0 && done_.fetch_add(done, std::memory_order_acq_rel) + done == n) {
                done_.store(0, std::memory_order_relaxed);
                next_.store(after, std::memory_order_release);
            }
        }

        bool is_open(std::uint32_t loop) const {
            return next_.load(std::memory_order_acquire) >> 32 == loop;
        }

        /// Begin to run the body; false if the caller has returned.
        bool enter() {
            std::uint32_t inside = inside_.load(std::memory_order_relaxed);
            do {
                if ((inside & kClosed) != 0) return false;
            } while (!inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel,
                                                    std::memory_order_relaxed));
            return true;
        }

        void leave() { inside_.fetch_sub(1, std::memory_order_acq_rel); }

        /// Let nobody enter any more, and wait for those inside.
        void close() {
            inside_.fetch_or(kClosed, std::memory_order_acq_rel);
            for (unsigned spins = 0; inside_.load(std::memory_order_acquire) != kClosed; ++spins)
                if (spins > kSpins) std::this_thread::yield();
        }

        void keep_error() {
            if (keeps_error_.exchange(true)) return;
            error_ = std::current_exception();
            has_failed_.store(true, std::memory_order_release);
        }

        bool has_failed() const { return has_failed_.load(std::memory_order_acquire); }

        void rethrow() const {
            if (has_failed()) std::rethrow_exception(error_);
        }

    private:
        static constexpr std::uint32_t kClosed = 1u << 31;

        // The number of the open loop, and in the low half the next number to draw in it.
        std::atomic<std::uint64_t> next_{0};
        std::atomic<std::size_t> done_{0};
        std::atomic<std::uint32_t> inside_{0};
        std::atomic<bool> keeps_error_{false}, has_failed_{false};
        std::exception_ptr error_;
    };

    Team(Shared* shared, bool may_leave) : shared_(shared), may_leave_(may_leave) {}

    /// Wait until a loop is finished. Spin at first: loops are short, and waking a thread takes
    /// longer than most waits. A helper that has waited longer may soon lose its processor, and
    /// leaves, so that the caller can return meanwhile.
    void wait(std::uint32_t loop) {
        for (unsigned spins = 0; spins < kSpins; ++spins)
            if (!shared_->is_open(loop)) return;
        if (may_leave_) {
            is_inside_ = false;
            shared_->leave();
        }
        while (shared_->is_open(loop)) std::this_thread::yield();
        if (!may_leave_) return;
        if (!shared_->enter()) throw Stopped();
        is_inside_ = true;
    }

    static constexpr unsigned kSpins = 4000;

    Shared* shared_;  // null for a team of one
    bool may_leave_, is_inside_ = true;
    std::uint32_t loop_ = 0;
};

}  // namespace crfrnn
