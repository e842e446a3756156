#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/finite.hpp"
#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "filters/kernel_filter.hpp"
#include "filters/term.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Independent two-class Potts models over one image, such as overlapping masks, on shared filters.
template <typename T>
struct Masks {
    std::size_t count, n, row;
    const T* logits;                              ///< of the foreground against the background
    std::vector<const KernelFilter<T>*> filters;  ///< of the kernels
    std::vector<T> background, foreground;        ///< kernel weights of the two classes
    /// The clamped pixels of each mask, count x n, which keep their logits; null for none.
    const bool* held = nullptr;
};

/// Mean-field inference of some masks of one image, one column each, as many as fit a table.
///
/// With the marginal q of the foreground, the marginal of the background is 1 - q. The two Potts
/// messages give the logit z of the foreground against the background. With s = q - 1/2,
///
///     z = u + sum over k of (w_k1 F_k q - w_k0 F_k (1 - q))
///       = u + sum over k of (w_k0 + w_k1) F_k s + shift,
///     shift = sum over k of (w_k1 - w_k0) / 2 F_k 1,
///
/// and q = 1 / (1 + exp(-z)). So one column is filtered for each mask, and the shift is shared. It
/// is s and not q because a message is then small where the mask is undecided, where the recurrence
/// multiplies rounding errors.
template <typename T>
class IndependentMeanField {
public:
    /// @param shift  of each pixel
    IndependentMeanField(const Masks<T>& masks, std::size_t first, std::size_t count,
                         const T* shift, bool half, std::size_t threads)
        : masks_(masks),
          first_(first),
          count_(count),
          width_(padded(count)),
          shift_(shift),
          threads_(threads_for(masks.n * (1 + width_ / 4), threads)),
          parts_(LatticeFilter<T>::parts_for(threads_, width_)),
          tiles_(masks.n, masks.row, parts_),
          unary_(uninitialized<T>(masks.n * width_)),
          weights_(masks.filters.size() * width_, T(0)) {
        for (std::size_t k = 0; k < masks.filters.size(); ++k) {
            terms_.push_back(half ? masks.filters[k]->half_term() : masks.filters[k]->term());
            std::fill_n(&weights_[k * width_], count, masks.background[k] + masks.foreground[k]);
        }
        for (const Term<T>& term : terms_)
            filters_.push_back(
                std::make_unique<TermFilter<T>>(term, masks.n, masks.row, width_, false, parts_));
        const bool reads = std::any_of(filters_.begin(), filters_.end(),
                                       [](const auto& filter) { return filter->reads_input(); });
        copies_ = reads ? 2 : 1;
        marginals_ = uninitialized<T>(copies_ * masks.n * width_);
    }

    /// Write the marginals of the foreground after `iterations` updates, masks x n; false if they
    /// are not finite.
    bool infer(std::size_t iterations, T* probs) {
        Team::run(threads_, [&](Team& team) {
            for (auto& filter : filters_) filter->load(team);
            const auto scratch = uninitialized<T>((1 + filters_.size()) * kTile * width_);
            start(team, iterations == 0 ? probs : nullptr);
            for (std::size_t t = 0; t < iterations; ++t) {
                for (const bool on_lattice : {false, true})
                    for (const auto& filter : filters_)
                        if (filter->on_lattice() == on_lattice) filter->prepare(team, row(t, 0));
                update(team, t, scratch.get(), t + 1 == iterations ? probs : nullptr);
            }
        });
        return is_finite_;
    }

private:
    void start(Team& team, T* probs) {
        tiles_.for_each(team,
                        [&](std::size_t, std::size_t begin, std::size_t end, std::size_t part) {
                            T* const u = unary_.get() + begin * width_;
                            for (std::size_t c = 0; c < width_; ++c) {
                                const T* from = masks_.logits + (first_ + c) * masks_.n;
                                for (std::size_t i = begin; i < end; ++i)
                                    u[(i - begin) * width_ + c] = c < count_ ? from[i] : T(0);
                            }
                            finish(u, 0, part, begin, end, probs);
                        });
    }

    void update(Team& team, std::size_t t, T* scratch, T* probs) {
        tiles_.for_each(
            team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t part) {
                std::vector<Message<T>> messages;
                for (std::size_t k = 0; k < filters_.size(); ++k) {
                    T* const rows = scratch + (1 + k) * kTile * width_;
                    filters_[k]->tile(rows, begin, end);
                    messages.push_back({rows, nullptr, &weights_[k * width_]});
                }
                loops<T>().independent_step(messages.data(), messages.size(), shift_ + begin,
                                            unary_.get() + begin * width_, scratch, width_,
                                            end - begin);
                put_back(scratch, begin, end);
                finish(scratch, t + 1, part, begin, end, probs);
            });
    }

    /// The logits of clamped pixels are those of the unary term.
    void put_back(T* z, std::size_t begin, std::size_t end) const {
        if (masks_.held == nullptr) return;
        const T* const u = unary_.get();
        for (std::size_t c = 0; c < count_; ++c) {
            const bool* const held = masks_.held + (first_ + c) * masks_.n;
            for (std::size_t i = begin; i < end; ++i)
                if (held[i]) z[(i - begin) * width_ + c] = u[i * width_ + c];
        }
    }

    /// Marginals from the logits z of a tile: the input of step t, or the result if `probs` is
    /// given.
    void finish(const T* z, std::size_t t, std::size_t part, std::size_t begin, std::size_t end,
                T* probs) {
        T* const q = row(t, begin);
        loops<T>().sigmoid(z, probs == nullptr ? T(0.5) : T(0), q, (end - begin) * width_);
        if (probs == nullptr) {
            for (auto& filter : filters_)
                if (parts_ > 0) filter->splat(part, q, begin, end);
            return;
        }
        for (std::size_t c = 0; c < count_; ++c) {
            T* const to = probs + (first_ + c) * masks_.n;
            for (std::size_t i = begin; i < end; ++i) {
                to[i] = q[(i - begin) * width_ + c];
                if (!(to[i] >= 0)) is_finite_ = false;
            }
        }
    }

    T* row(std::size_t t, std::size_t begin) const {
        return marginals_.get() + (t % copies_ * masks_.n + begin) * width_;
    }

    const Masks<T>& masks_;
    std::size_t first_, count_, width_;
    const T* shift_;
    std::size_t threads_, parts_;
    Tiles tiles_;
    Buffer<T> unary_;
    std::vector<T> weights_;  // of each kernel, in rows of `width`
    std::vector<Term<T>> terms_;
    std::vector<std::unique_ptr<TermFilter<T>>> filters_;
    std::size_t copies_;
    Buffer<T> marginals_;
    std::atomic<bool> is_finite_{true};
};

/// Marginals of the foreground of every mask, masks x n; false if they are not finite. Memory
/// beyond the result does not depend on the number of masks.
///
/// @throws std::invalid_argument if a logit is not finite
template <typename T>
bool infer_masks(const Masks<T>& masks, std::size_t iterations, bool half, std::size_t threads,
                 T* probs) {
    if (!all_finite(masks.logits, masks.count * masks.n, threads))
        throw std::invalid_argument("the logits must be finite");
    const auto shift = uninitialized<T>(masks.n);
    std::fill_n(shift.get(), masks.n, T(0));
    for (std::size_t k = 0; k < masks.filters.size(); ++k) {
        const T* const total = masks.filters[k]->total(threads);
        const T half = (masks.foreground[k] - masks.background[k]) / 2;
        for (std::size_t i = 0; i < masks.n; ++i) shift[i] += half * total[i];
    }
    bool is_finite = true;
    for (std::size_t first = 0; first < masks.count; first += kGroup) {
        const std::size_t count = std::min(kGroup, masks.count - first);
        IndependentMeanField<T> chunk(masks, first, count, shift.get(), half, threads);
        is_finite = chunk.infer(iterations, probs) && is_finite;
    }
    return is_finite;
}

}  // namespace crfrnn
