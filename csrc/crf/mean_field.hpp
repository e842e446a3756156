#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "crf/frank_wolfe.hpp"
#include "crf/model.hpp"
#include "crf/pair.hpp"
#include "crf/recurrence.hpp"
#include "lattice/filter.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Mean-field inference of one image as one operation (Algorithm 1 of Zheng et al., 2015):
///
///     Q = softmax(u)
///     repeat: m = sum over k of W_k F_k Q;  z = u - A m;  Q = softmax(z)
///
/// Each step is two phases. The filters prepare all pixels: splat and blur. Then every tile is
/// sliced, weighted, added to the unary and passed through the softmax while its rows are cached;
/// its messages and logits never go to memory. With narrow rows a tile's new marginals are splatted
/// at once, too. A model with a Frank-Wolfe step takes that in place of the last line.
template <typename T>
class MeanField {
public:
    /// @param iterations number of updates; 0 returns the logits
    /// @param saved      null, or iterations x n x saved_width: the marginals before each update;
    /// of
    ///                   Frank-Wolfe also those after the last
    /// @param tolerance  stop when marginals change by less than this on average; 0 never stops
    MeanField(const Model<T>& model, const T* logits, Result<T>& result, std::size_t iterations,
              T* saved, double tolerance, std::size_t threads)
        : r_(model),
          logits_(logits),
          result_(result),
          iterations_(iterations),
          saved_(saved),
          tolerance_(tolerance),
          threads_(threads_for(model.n * (1 + r_.width / 4) * std::max<std::size_t>(iterations, 1),
                               threads)),
          parts_(LatticeFilter<T>::parts_for(threads_, r_.width)),
          tiles_(model.n, model.row, parts_),
          filters_(r_.filters(false, parts_)),
          unary_(uninitialized<T>(model.n * r_.stride)),
          copies_(may_overwrite() ? 1 : 2),
          marginals_(uninitialized<T>(saved == nullptr ? copies_ * model.n * r_.width : 0)),
          changes_(tiles_.count()),
          last_(iterations) {}

    void infer() {
        Team::run(threads_, [&](Team& team) {
            for (auto& filter : filters_) filter->load(team);
            Scratch<T> scratch(r_);
            start(team, scratch);
            for (std::size_t t = 0; t < iterations_; ++t) {
                Recurrence<T>::prepare(filters_, team, q(t));
                update(team, t, scratch);
                team.once([&] {
                    result_.iterations = t + 1;
                    if (has_settled()) last_ = t + 1;
                });
                if (t + 1 == last_) break;
            }
        });
        result_.is_finite = is_finite_;
    }

private:
    /// The first marginals, from the unary alone.
    void start(Team& team, Scratch<T>& scratch) {
        T* const z = scratch.logits();
        tiles_.for_each(team,
                        [&](std::size_t, std::size_t begin, std::size_t end, std::size_t part) {
                            T* const u = unary(begin);
                            r_.pixels.read_logits(logits_, begin, end, u);
                            std::copy(u, u + (end - begin) * r_.stride, z);
                            if (iterations_ == 0) {
                                write(z, begin, end, scratch);
                            } else {
                                softmax(z, 0, begin, end, nullptr, scratch);
                                splat(0, part, begin, end);
                            }
                        });
    }

    /// Step t, from the prepared filters to the next marginals.
    void update(Team& team, std::size_t t, Scratch<T>& scratch) {
        const bool is_last = t + 1 == iterations_;
        // With a tolerance, any step may be the last: its change is known only after all tiles.
        const bool is_written = is_last || tolerance_ > 0;
        T* const z = scratch.logits();
        tiles_.for_each(
            team, [&](std::size_t tile, std::size_t begin, std::size_t end, std::size_t part) {
                const bool is_exact = is_written && result_.labels == nullptr && !r_.model.step;
                next_logits(begin, end, z, is_exact, scratch);
                const T* const before = tolerance_ > 0 ? row(t, begin) : nullptr;
                if (r_.model.step) {
                    const FrankWolfe& step = *r_.model.step;
                    frank_wolfe::divide(step, z, r_.stride, r_.classes, end - begin);
                    if (is_written) finish(step, z, t, begin, end, scratch);
                    if (is_last && saved_ == nullptr) return;
                    changes_[tile] = move(step, z, t, begin, end, before, scratch);
                    if (is_last) return;
                } else {
                    if (is_written) write(z, begin, end, scratch);
                    if (is_last) return;
                    changes_[tile] = softmax(z, t + 1, begin, end, before, scratch);
                }
                splat(t + 1, part, begin, end);
            });
    }

    /// z = u - A (sum of W_k F_k q) for the pixels begin..end: message passing, weighting,
    /// compatibility, adding the unary. Unless `is_exact`, Potts rows may be off by a constant.
    void next_logits(std::size_t begin, std::size_t end, T* z, bool is_exact, Scratch<T>& scratch) {
        const Loops<T>& l = loops<T>();
        const std::size_t rows = end - begin, stride = r_.stride;
        const T* const u = unary(begin);
        std::vector<Message<T>>& messages = scratch.messages();
        for (std::size_t term = 0; term < filters_.size(); ++term) {
            const T* total = r_.model.terms[term].total;
            filters_[term]->tile(scratch.message(term), begin, end);
            messages[term] = {scratch.message(term), total == nullptr ? nullptr : total + begin,
                              &r_.weights[term * stride]};
        }
        if (r_.is_pair && r_.model.is_potts) {
            pair::step(messages, u, z, is_exact, rows);
            return;
        }
        if (r_.model.is_potts) {
            l.potts_step(messages.data(), messages.size(), u, z, stride, r_.classes, r_.width,
                         is_exact, rows);
            return;
        }
        if (messages.empty()) std::copy(u, u + rows * stride, z);
        for (std::size_t term = 0; term < messages.size(); ++term) {
            const T* const f =
                r_.widen(messages[term].rows, messages[term].total, rows, scratch.rows(0));
            l.mix(f, r_.classes, &r_.weights[term * r_.classes * stride], term == 0 ? u : z, z,
                  stride, rows);
        }
    }

    /// Whether the last step changed the marginals by less than the tolerance on average.
    bool has_settled() const {
        if (!(tolerance_ > 0)) return false;
        double change = 0;
        for (const double c : changes_) change += c;
        return change < tolerance_ * static_cast<double>(r_.model.n * r_.all);
    }

    /// Marginals before step t from the logits z, which are destroyed. Returns their change.
    double softmax(T* z, std::size_t t, std::size_t begin, std::size_t end, const T* before,
                   Scratch<T>& scratch) {
        if (r_.is_pair) {
            T* const both = scratch.rows(0);
            loops<T>().softmax(z, 2, 2, 2, both, 2, nullptr, end - begin);
            return pair::narrow(both, before, end - begin, row(t, begin));
        }
        return loops<T>().softmax(z, r_.stride, r_.classes, r_.filtered, row(t, begin), r_.width,
                                  before, end - begin);
    }

    /// Marginals after step t of Frank-Wolfe from a = z / strength. Returns their change.
    double move(const FrankWolfe& step, T* a, std::size_t t, std::size_t begin, std::size_t end,
                const T* before, Scratch<T>& scratch) {
        T* const s = step.blends ? scratch.rows(0) : row(t + 1, begin);
        const double change =
            frank_wolfe::target(step, a, r_.stride, r_.classes, r_.filtered, s, r_.width,
                                step.blends ? nullptr : before, end - begin);
        if (!step.blends) return change;
        return frank_wolfe::blend(step, row(t, begin), s, row(t + 1, begin), before != nullptr,
                                  (end - begin) * r_.width);
    }

    /// Write the result of Frank-Wolfe if step t is the last.
    void finish(const FrankWolfe& step, const T* a, std::size_t t, std::size_t begin,
                std::size_t end, Scratch<T>& scratch) {
        T* const y = scratch.rows(2);
        frank_wolfe::finish<T>(step, a, step.blends ? row(t, begin) : nullptr, unary(begin), y,
                               scratch.rows(0), scratch.rows(1), r_.stride, r_.classes,
                               end - begin);
        r_.pixels.write(y, begin, end, result_.values);
    }

    void splat(std::size_t t, std::size_t part, std::size_t begin, std::size_t end) {
        if (parts_ == 0) return;
        for (auto& filter : filters_) filter->splat(part, row(t, begin), begin, end);
    }

    void write(const T* z, std::size_t begin, std::size_t end, Scratch<T>& scratch) {
        if (!r_.pixels.write_result(z, unary(begin), logits_, begin, end, result_, scratch.rows(0),
                                    scratch.rows(1), scratch.rows(2)))
            is_finite_ = false;
    }

    /// Whether the next marginals may replace the last: not if a filter still reads its input while
    /// tiles are updated.
    bool may_overwrite() const {
        return std::none_of(filters_.begin(), filters_.end(),
                            [](const auto& filter) { return filter->reads_input(); });
    }

    T* unary(std::size_t begin) const { return unary_.get() + begin * r_.stride; }

    /// The marginals before step t.
    T* q(std::size_t t) const {
        const std::size_t size = r_.model.n * r_.width;
        return saved_ == nullptr ? marginals_.get() + t % copies_ * size : saved_ + t * size;
    }
    T* row(std::size_t t, std::size_t begin) const { return q(t) + begin * r_.width; }

    const Recurrence<T> r_;
    const T* logits_;
    Result<T>& result_;
    std::size_t iterations_;
    T* saved_;
    double tolerance_;
    std::size_t threads_, parts_;
    Tiles tiles_;
    typename Recurrence<T>::Filters filters_;
    Buffer<T> unary_;
    std::size_t copies_;
    Buffer<T> marginals_;
    std::vector<double> changes_;    // of each tile
    std::atomic<std::size_t> last_;  // updates after which to stop
    std::atomic<bool> is_finite_{true};
};

}  // namespace crfrnn
