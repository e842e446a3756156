#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "crf/frank_wolfe.hpp"
#include "crf/model.hpp"
#include "crf/recurrence.hpp"
#include "filters/term.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// The adjoint of `MeanField`, from dL/dz after the last step.
///
/// One step is z_t = u - sum over k of M_k F_k Q_(t-1), Q_t = softmax(z_t), with M_k = A W_k acting
/// on classes and F_k on pixels. With g_t = dL/dz_t, the chain rule gives from t = T down to 1
///
///     dL/du    += g_t                           u enters every step
///     R_k       = F_k' g_t                      the adjoint filter
///     dL/dM_k  -= R_k Q_(t-1)'                  equal to g_t (F_k Q_(t-1))'
///     h         = -sum over k of M_k' R_k       = dL/dQ_(t-1)
///     g_(t-1)   = Q_(t-1) (h - sum of Q_(t-1) h)
///
/// and finally dL/du += g_0. So each step costs one adjoint filter per kernel, and only the Q_t are
/// stored: F_k moves from Q to g in the third line, so that the messages of the forward pass are
/// not needed. With Potts weights, M_k' R_k = w_k F_k' (A' g), and A' g is filtered in place of g.
///
/// Frank-Wolfe has Q_t = (1 - size) Q_(t-1) + size s_t. So h is increased by (1 - size) dL/dQ_t,
/// and the last line becomes g_(t-1) = size / strength J h with the Jacobian J of its target
/// s_(t-1).
template <typename T>
class MeanFieldBackward {
public:
    /// Band matrices of the model have to be given transposed.
    ///
    /// @param saved     the marginals before each update, as `MeanField` saves them; of Frank-Wolfe
    ///                  also those after the last
    /// @param gradient  dL/dz, classes x n
    /// @param to_logits out, classes x n
    /// @param sums      out; Potts: terms x classes, -dL/d(weights). Otherwise terms x classes x
    ///                  classes, -dL/d(A W_k)
    MeanFieldBackward(const Model<T>& model, const T* saved, const T* gradient, T* to_logits,
                      std::size_t iterations, double* sums)
        : r_(model),
          saved_(saved),
          gradient_(gradient),
          to_logits_(to_logits),
          iterations_(iterations),
          sums_(sums),
          terms_(model.terms.size()),
          slots_(model.is_potts ? r_.stride : r_.classes * r_.stride),
          tiles_(model.n, model.row, 0),
          chunks_(std::min(tiles_.count(), kChunks)),
          filters_(r_.filters(true, 0)),
          total_(uninitialized<T>(model.n * r_.stride)),
          inputs_(uninitialized<T>(2 * model.n * r_.width)),
          carry_(uninitialized<T>(blends() ? model.n * r_.stride : 0)),
          row_sum_(model.n),
          filtered_sum_(terms_ * model.n),
          partial_(chunks_ * terms_ * slots_),
          partial_rates_(chunks_) {}

    void differentiate(std::size_t threads) {
        Team::run(threads, [&](Team& team) {
            for (auto& filter : filters_) filter->load(team);
            Scratch<T> scratch(r_);
            if (r_.model.step && iterations_ > 0) {
                start_frank_wolfe(team, scratch);
            } else {
                start(team);
            }
        });
        // From the last step on, gradients sum to zero over the classes (softmax): only the first
        // adjoint filter needs a row sum for the class that it leaves out.
        if (!r_.model.step && iterations_ > 0 && r_.filtered < r_.classes)
            for (std::size_t term = 0; term < terms_; ++term) filter_row_sum(term, threads);
        Team::run(threads, [&](Team& team) {
            Scratch<T> scratch(r_);
            for (std::size_t t = iterations_; t > 0; --t) {
                Recurrence<T>::prepare(filters_, team, input(t));
                step(team, t, scratch);
            }
            tiles_.for_each(
                team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                    r_.pixels.write(total_.get() + begin * r_.stride, begin, end, to_logits_);
                });
        });
        add_up();
    }

    /// The gradients to strength and size, of a step that learns them.
    frank_wolfe::RateSums rates() const {
        frank_wolfe::RateSums sums;
        for (const auto& chunk : partial_rates_) {
            sums.strength += chunk.strength;
            sums.size += chunk.size;
        }
        return sums;
    }

private:
    /// Pixels of a step with class matrices, few enough that their rows stay in the first cache
    /// while three products use them.
    static constexpr std::size_t kBlock = 64;

    /// Parts of the image with sums of their own. Their number does not depend on the threads, so
    /// that the rounding of gradients does not either.
    static constexpr std::size_t kChunks = 32;

    /// The input of the first adjoint filters, from the loss's gradient.
    void start(Team& team) {
        tiles_.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
            T* const g = total_.get() + begin * r_.stride;
            r_.pixels.read(gradient_, begin, end, 0, g);
            loops<T>().start_backward(g, r_.stride, r_.classes, r_.model.is_potts,
                                      input(iterations_) + begin * r_.width, r_.width,
                                      &row_sum_[begin], end - begin);
        });
    }

    /// `start` for Frank-Wolfe, whose dL/dz_T sums to zero over the classes.
    void start_frank_wolfe(Team& team, Scratch<T>& scratch) {
        static const std::vector<T> ones(kTile, T(1));
        const FrankWolfe& step = *r_.model.step;
        const std::size_t stride = r_.stride;
        for_chunks(team, [&](std::size_t chunk, std::size_t begin, std::size_t end) {
            const std::size_t rows = end - begin;
            T* const g = scratch.logits();
            T* const total = total_.get() + begin * stride;
            r_.pixels.read(gradient_, begin, end, 0, g);
            const T* const first = r_.widen(q(0, begin), ones.data(), rows, scratch.rows(0));
            T* const s = scratch.rows(1);
            const T* const after = r_.widen(q(iterations_, begin), ones.data(), rows, s);
            const T* const before = step.blends ? q(iterations_ - 1, begin) : nullptr;
            frank_wolfe::recover(step, before, after, s, stride, r_.width, rows);
            T* const next = scratch.rows(2);
            frank_wolfe::start_backward(step, g, first, before, after, s, total, next, carry(begin),
                                        stride, r_.classes, rows, partial_rates_[chunk]);
            const T sign = r_.model.is_potts ? T(-1) : T(1);  // A' g = -g: g sums to zero
            T* const to = input(iterations_) + begin * r_.width;
            for (std::size_t i = 0; i < rows; ++i)
                for (std::size_t c = 0; c < r_.width; ++c)
                    to[i * r_.width + c] = sign * next[i * stride + c];
        });
    }

    /// Call `body(chunk, begin, end)` for each tile, those of a chunk in order and by one worker.
    template <typename Body>
    void for_chunks(Team& team, Body&& body) {
        team.for_each(chunks_, [&](std::size_t chunk) {
            for (std::size_t tile = chunk * tiles_.count() / chunks_;
                 tile < (chunk + 1) * tiles_.count() / chunks_; ++tile)
                body(chunk, tiles_.begin(tile), tiles_.end(tile));
        });
    }

    /// Step t, from the prepared adjoint filters to the input of the next ones.
    void step(Team& team, std::size_t t, Scratch<T>& scratch) {
        for_chunks(team, [&](std::size_t chunk, std::size_t begin, std::size_t end) {
            std::vector<Message<T>>& messages = scratch.messages();
            T* const sums = &partial_[chunk * terms_ * slots_];
            const bool has_row_sum = t == iterations_ && !r_.model.step;
            for (std::size_t term = 0; term < terms_; ++term) {
                T* const f = scratch.message(term);
                filters_[term]->tile(f, begin, end);
                messages[term] = {f,
                                  has_row_sum ? &filtered_sum_[term * r_.model.n + begin] : nullptr,
                                  &r_.weights[term * slots_]};
            }
            if (!r_.model.is_potts) {
                mixed_step(messages, t, chunk, begin, end, scratch);
            } else if (r_.model.step) {
                T* const h = scratch.rows(1);
                loops<T>().potts_pull(messages.data(), terms_, q(t - 1, begin), h, sums, r_.stride,
                                      r_.classes, r_.width, end - begin);
                pull_target(h, t, chunk, begin, end, scratch);
            } else {
                loops<T>().potts_step_backward(messages.data(), terms_, q(t - 1, begin),
                                               total_.get() + begin * r_.stride,
                                               input(t - 1) + begin * r_.width, sums, r_.stride,
                                               r_.classes, r_.width, end - begin);
            }
        });
    }

    /// From h = dL/dQ_(t-1) of some rows, as far as it comes through the messages, to dL/dz_(t-1).
    void pull_target(T* h, std::size_t t, std::size_t chunk, std::size_t begin, std::size_t end,
                     Scratch<T>& scratch) {
        static const std::vector<T> ones(kTile, T(1));
        const FrankWolfe& step = *r_.model.step;
        const std::size_t rows = end - begin, stride = r_.stride;
        const bool is_start = t == 1;  // Q_0 is the softmax of u, whatever the step
        if (step.blends) {
            T* const kept = carry(begin);
            const T rest = static_cast<T>(1 - step.size);
            for (std::size_t k = 0; k < rows * stride; ++k) {
                h[k] += kept[k];
                kept[k] = rest * h[k];
            }
        }
        T* const s = scratch.rows(0);
        const T* p = r_.widen(q(t - 1, begin), ones.data(), rows, s);
        if (!is_start) {
            const T* const before = step.blends ? q(t - 2, begin) : nullptr;
            frank_wolfe::recover(step, before, p, s, stride, r_.width, rows);
            p = s;
            if (step.learns)
                frank_wolfe::add_rates(step, h, s, before, stride, r_.classes, rows,
                                       partial_rates_[chunk]);
        }
        const T scale = is_start ? T(1) : static_cast<T>(step.size / step.strength);
        loops<T>().target_backward(p, h, !is_start && step.is_l2, scale,
                                   r_.model.is_potts ? T(-1) : T(1), total_.get() + begin * stride,
                                   input(t - 1) + begin * r_.width, stride, r_.width, rows);
    }

    /// Some rows of a step with matrices M_k = A W_k; see `Loops::potts_step_backward`.
    void mixed_step(const std::vector<Message<T>>& messages, std::size_t t, std::size_t chunk,
                    std::size_t begin, std::size_t end, Scratch<T>& scratch) {
        static const std::vector<T> ones(kTile, T(1));
        const Loops<T>& l = loops<T>();
        const std::size_t stride = r_.stride, width = r_.width, classes = r_.classes;
        T* const sums = &partial_[chunk * terms_ * slots_];
        T* const h = scratch.rows(1);
        std::fill(h, h + kBlock * stride, T(0));
        for (std::size_t at = begin; at < end; at += kBlock) {
            const std::size_t count = std::min(end - at, kBlock), skip = at - begin;
            const T* const all = r_.widen(q(t - 1, at), ones.data(), count, scratch.rows(0));
            for (std::size_t term = 0; term < messages.size(); ++term) {
                const Message<T>& message = messages[term];
                const T* const r =
                    r_.widen(message.rows + skip * width,
                             message.total == nullptr ? nullptr : message.total + skip, count,
                             scratch.rows(2));
                l.outer(r, all, sums + term * slots_, stride, classes, count);
                l.mix(r, classes, &r_.transposed[term * slots_], term == 0 ? nullptr : h, h, stride,
                      count);
            }
            if (r_.model.step) {
                pull_target(h, t, chunk, at, at + count, scratch);
            } else {
                l.softmax_backward(all, h, total_.get() + at * stride, input(t - 1) + at * width,
                                   stride, width, count);
            }
        }
    }

    /// The adjoint filter of the row sums, which are a single channel.
    void filter_row_sum(std::size_t term, std::size_t threads) {
        const Model<T>& model = r_.model;
        TermFilter<T> narrow(model.terms[term], model.n, model.row, 1, true);
        T* const to = &filtered_sum_[term * model.n];
        Team::run(threads_for(2 * model.n, threads), [&](Team& team) {
            narrow.load(team);
            narrow.prepare(team, row_sum_.data());
            tiles_.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end,
                                      std::size_t) { narrow.tile(to + begin, begin, end); });
        });
    }

    /// Add up the chunks' sums, always in the same order.
    void add_up() {
        const std::size_t classes = r_.classes, inner = r_.model.is_potts ? 1 : classes;
        std::fill(sums_, sums_ + terms_ * inner * classes, 0.0);
        for (std::size_t chunk = 0; chunk < chunks_; ++chunk)
            for (std::size_t row = 0; row < terms_ * inner; ++row)
                for (std::size_t c = 0; c < classes; ++c)
                    sums_[row * classes + c] += static_cast<double>(
                        partial_[(chunk * terms_ * inner + row) * r_.stride + c]);
    }

    bool blends() const { return r_.model.step && r_.model.step->blends; }

    /// The marginals before step t.
    const T* q(std::size_t t, std::size_t begin) const {
        return saved_ + (t * r_.model.n + begin) * r_.width;
    }

    /// What Q_t adds to dL/dQ_(t-1) because the step blends; null if it does not.
    T* carry(std::size_t begin) const {
        return blends() ? carry_.get() + begin * r_.stride : nullptr;
    }

    /// What the adjoint filters of step t read.
    T* input(std::size_t t) const { return inputs_.get() + t % 2 * r_.model.n * r_.width; }

    const Recurrence<T> r_;
    const T *saved_, *gradient_;
    T* to_logits_;
    std::size_t iterations_;
    double* sums_;
    std::size_t terms_, slots_;
    Tiles tiles_;
    std::size_t chunks_;
    typename Recurrence<T>::Filters filters_;
    Buffer<T> total_, inputs_;  // dL/du so far; two inputs of adjoint filters in turn
    Buffer<T> carry_;
    std::vector<T> row_sum_, filtered_sum_;
    std::vector<T> partial_;  // sums of each chunk
    std::vector<frank_wolfe::RateSums> partial_rates_;
};

}  // namespace crfrnn
