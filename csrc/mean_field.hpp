#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "pixel_rows.hpp"
#include "term.hpp"
#include "tiles.hpp"

namespace crfrnn {

/// The model that one recurrence runs: sizes, kernels, and how messages become penalties.
template <typename T>
struct Model {
    std::size_t n = 0;  ///< pixels
    std::size_t classes = 0;
    std::size_t row = 0;  ///< pixels in a row of the grid; n if there is no grid
    std::vector<Term<T>> terms;
    const T* weights =
        nullptr;  ///< potts: terms x classes. Otherwise terms x classes x classes, A W_k
    bool potts = true;
    /// With classes left out: the ones that are kept, out of `all`. The last class of the model
    /// then stands for all the others together; it takes part in the softmax but sends no messages.
    std::vector<std::size_t> kept;
    std::size_t all = 0;
};

/// Mean-field inference of one image as one operation: section 2 of the design, and its adjoint.
///
/// Values live channels-last, in rows padded for vector units. As marginals sum to one, the last
/// class need not be filtered: what is missing to the filter's response to ones is its message.
template <typename T>
class Recurrence {
public:
    explicit Recurrence(const Model<T>& model)
        : model_(model),
          classes_(model.classes),
          all_(model.kept.empty() ? classes_ : model.all),
          stride_(padded(classes_)),
          kept_(needs_total(classes_) ? classes_ - 1 : classes_),
          width_(padded(kept_)),
          pixels_(model.n, classes_, stride_, model.kept, all_) {
        prepare_weights();
    }

    /// Whether the last class is not filtered, so that terms need their totals: where rows are
    /// shorter by more than it takes to filter ones.
    static constexpr bool needs_total(std::size_t classes) {
        return classes > 1 && padded(classes - 1) < padded(classes);
    }

    /// Values a pixel of `saved` takes for each iteration.
    static constexpr std::size_t saved_width(std::size_t classes) {
        return padded(needs_total(classes) ? classes - 1 : classes);
    }

    /// Update the marginals of `logits` (classes x n) `iterations` times.
    ///
    /// @param saved     null, or iterations x n x saved_width: the marginals before each update
    /// @param tolerance stop when marginals change by less than this on average; 0 never stops
    void forward(const T* logits, Result<T>& result, std::size_t iterations, T* saved,
                 double tolerance, std::size_t threads) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t n = model_.n;
        const std::size_t work = n * (1 + width_ / 4) * std::max<std::size_t>(iterations, 1);
        const std::size_t used = threads_for(work, threads);
        const std::size_t parts = LatticeFilter<T>::parts_for(used, width_);
        const Tiles tiles(n, model_.row, parts);
        auto filters = make_filters(false, parts);
        const auto unary = uninitialized<T>(n * stride_);
        // Where no filter looks back at what it was given, the next marginals replace the last.
        bool replace = true;
        for (const auto& filter : filters) replace = replace && !filter->keeps_input();
        const std::size_t copies = replace ? 1 : 2;
        const auto buffer = uninitialized<T>(saved == nullptr ? copies * n * width_ : 0);
        const auto q = [&](std::size_t t) {
            return saved == nullptr ? buffer.get() + t % copies * n * width_
                                    : saved + t * n * width_;
        };
        std::vector<double> changes(tiles.count());
        std::atomic<bool> finite{true};
        const auto scatter = [&](std::size_t t, std::size_t part, std::size_t begin,
                                 std::size_t end) {
            if (parts == 0) return;
            for (auto& filter : filters) filter->scatter(part, q(t) + begin * width_, begin, end);
        };

        Team::run(used, [&](Team& team) {
            for (auto& filter : filters) filter->load(team);
            Scratch scratch(*this);
            T* z = scratch.logits();
            tiles.for_each(team,
                           [&](std::size_t, std::size_t begin, std::size_t end, std::size_t part) {
                               const std::size_t rows = end - begin;
                               T* u = unary.get() + begin * stride_;
                               pixels_.read_logits(logits, begin, end, u);
                               std::copy(u, u + rows * stride_, z);
                               if (iterations == 0) {
                                   if (!write(z, u, logits, begin, end, result, scratch))
                                       finite = false;
                               } else {
                                   k.softmax(z, stride_, classes_, kept_, q(0) + begin * width_,
                                             width_, nullptr, rows);
                                   scatter(0, part, begin, end);
                               }
                           });
            for (std::size_t t = 0; t < iterations; ++t) {
                const bool last = t + 1 == iterations;
                prepare(filters, team, q(t));
                tiles.for_each(team, [&](std::size_t tile, std::size_t begin, std::size_t end,
                                         std::size_t part) {
                    const std::size_t rows = end - begin;
                    const T* u = unary.get() + begin * stride_;
                    const bool written = last || tolerance > 0;
                    update(filters, begin, end, u, z, written && result.labels == nullptr, scratch);
                    if (written && !write(z, u, logits, begin, end, result, scratch))
                        finite = false;
                    if (last) return;
                    changes[tile] =
                        k.softmax(z, stride_, classes_, kept_, q(t + 1) + begin * width_, width_,
                                  tolerance > 0 ? q(t) + begin * width_ : nullptr, rows);
                    scatter(t + 1, part, begin, end);
                });
                team.once([&] { result.steps = t + 1; });
                if (tolerance > 0 && !last) {
                    double change = 0;
                    for (const double c : changes) change += c;
                    if (change < tolerance * static_cast<double>(n * all_)) break;
                    team.once([] {});  // nobody may overwrite `changes` while another adds them up
                }
            }
        });
        result.finite = finite;
    }

    /// The adjoint of `forward`: from dL/dz to dL/dlogits and the sums that weights need. Band
    /// matrices of the model have to be given transposed.
    ///
    /// @param saved     what forward stored
    /// @param gradient  dL/dz, classes x n
    /// @param to_logits out, classes x n
    /// @param sums      out; potts: terms x classes, -dL/d(weights). Otherwise terms x classes x
    ///                  classes, -dL/d(A W_k)
    void backward(const T* saved, const T* gradient, T* to_logits, std::size_t iterations,
                  double* sums, std::size_t threads) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t n = model_.n, terms = model_.terms.size();
        const Tiles tiles(n, model_.row, 0);
        const std::size_t slots = model_.potts ? stride_ : classes_ * stride_;
        const std::size_t chunks = std::min<std::size_t>(tiles.count(), 32);
        const auto total = uninitialized<T>(n * stride_);
        const auto inputs = uninitialized<T>(2 * n * width_);
        std::vector<T> row_sum(n), filtered_sum(terms * n);
        std::vector<T> partial(chunks * terms * slots);
        std::fill(sums, sums + terms * (model_.potts ? classes_ : classes_ * classes_), 0.0);
        auto filters = make_filters(true, 0);
        const auto input = [&](std::size_t t) { return inputs.get() + t % 2 * n * width_; };
        Team::run(threads, [&](Team& team) {
            for (auto& filter : filters) filter->load(team);
            Scratch scratch(*this);
            tiles.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                T* g = total.get() + begin * stride_;
                pixels_.read(gradient, begin, end, 0, g);
                k.start_backward(g, stride_, classes_, model_.potts,
                                 input(iterations) + begin * width_, width_, &row_sum[begin],
                                 end - begin);
            });
            // From the last step on, gradients sum to zero over the classes (softmax), so only the
            // first adjoint filter has a row sum to take care of.
            if (iterations > 0 && kept_ < classes_)
                filter_row_sum(team, tiles, row_sum.data(), filtered_sum.data());
            for (std::size_t t = iterations; t > 0; --t) {
                const T* q = saved + (t - 1) * n * width_;
                prepare(filters, team, input(t));
                team.for_each(chunks, [&](std::size_t chunk) {
                    std::vector<Message<T>>& messages = scratch.messages();
                    for (std::size_t tile = chunk * tiles.count() / chunks;
                         tile < (chunk + 1) * tiles.count() / chunks; ++tile) {
                        const std::size_t begin = tiles.begin(tile), end = tiles.end(tile);
                        for (std::size_t term = 0; term < terms; ++term) {
                            T* const f = scratch.message(term);
                            filters[term]->tile(f, begin, end);
                            messages[term] = {
                                f, t == iterations ? &filtered_sum[term * n + begin] : nullptr,
                                &weights_[term * slots]};
                        }
                        const T* const before = q + begin * width_;
                        T* const g = total.get() + begin * stride_;
                        T* const sum = &partial[chunk * terms * slots];
                        T* const next = input(t - 1) + begin * width_;
                        if (model_.potts) {
                            k.potts_step_backward(messages.data(), terms, before, g, next, sum,
                                                  stride_, classes_, width_, end - begin);
                        } else {
                            mixed_step_backward(messages, before, g, next, sum, end - begin,
                                                scratch);
                        }
                    }
                });
            }
            tiles.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                pixels_.write(total.get() + begin * stride_, begin, end, to_logits);
            });
        });
        const std::size_t inner = model_.potts ? 1 : classes_;
        for (std::size_t chunk = 0; chunk < chunks; ++chunk)
            for (std::size_t row = 0; row < terms * inner; ++row)
                for (std::size_t c = 0; c < classes_; ++c)
                    sums[row * classes_ + c] +=
                        static_cast<double>(partial[(chunk * terms * inner + row) * stride_ + c]);
    }

private:
    static constexpr std::size_t kBlock = 64;  // pixels

    using Filters = std::vector<std::unique_ptr<TermFilter<T>>>;

    /// One worker's rows of a tile.
    class Scratch {
    public:
        explicit Scratch(const Recurrence& r)
            : row_(kTile * std::max(r.stride_, r.all_)),
              message_(kTile * r.width_),
              data_(uninitialized<T>(4 * row_ + r.model_.terms.size() * message_)),
              messages_(r.model_.terms.size()) {}

        T* logits() { return data_.get(); }
        T* rows(std::size_t which) { return data_.get() + (1 + which) * row_; }  // 0, 1 or 2
        T* message(std::size_t term) { return data_.get() + 4 * row_ + term * message_; }
        std::vector<Message<T>>& messages() { return messages_; }

    private:
        std::size_t row_, message_;
        Buffer<T> data_;
        std::vector<Message<T>> messages_;
    };

    /// Pad the weights: potts, terms x stride. Otherwise minus them, terms x classes x stride, once
    /// with rows of inputs (for messages) and once with rows of outputs (for their adjoint).
    void prepare_weights() {
        const std::size_t terms = model_.terms.size();
        if (model_.potts) {
            weights_.assign(terms * stride_, T(0));
            for (std::size_t k = 0; k < terms; ++k)
                for (std::size_t c = 0; c < classes_; ++c)
                    weights_[k * stride_ + c] = model_.weights[k * classes_ + c];
            return;
        }
        weights_.assign(terms * classes_ * stride_, T(0));
        transposed_.assign(terms * classes_ * stride_, T(0));
        for (std::size_t k = 0; k < terms; ++k) {
            for (std::size_t to = 0; to < classes_; ++to) {
                for (std::size_t from = 0; from < classes_; ++from) {
                    const T w = model_.weights[(k * classes_ + to) * classes_ + from];
                    weights_[(k * classes_ + from) * stride_ + to] = -w;
                    transposed_[(k * classes_ + to) * stride_ + from] = -w;
                }
            }
        }
    }

    Filters make_filters(bool adjoint, std::size_t parts) const {
        Filters filters;
        for (const auto& term : model_.terms)
            filters.push_back(std::make_unique<TermFilter<T>>(term, model_.n, model_.row, width_,
                                                              adjoint, parts));
        return filters;
    }

    /// Filter `values` as far as goes before single tiles are asked for. Lattices come last, so
    /// that their tables are still in the cache then.
    static void prepare(const Filters& filters, Team& team, const T* values) {
        for (const bool lattices : {false, true})
            for (const auto& filter : filters)
                if (filter->on_lattice() == lattices) filter->prepare(team, values);
    }

    /// z = u - A (sum of W_k F_k) for the pixels begin..end: message passing, weighting,
    /// compatibility, adding the unary. Unless `exact`, Potts rows may be off by a constant.
    void update(const Filters& filters, std::size_t begin, std::size_t end, const T* u, T* z,
                bool exact, Scratch& scratch) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t rows = end - begin;
        std::vector<Message<T>>& messages = scratch.messages();
        for (std::size_t term = 0; term < filters.size(); ++term) {
            const T* total = model_.terms[term].total;
            filters[term]->tile(scratch.message(term), begin, end);
            messages[term] = {scratch.message(term), total == nullptr ? nullptr : total + begin,
                              &weights_[term * stride_]};
        }
        if (model_.potts) {
            k.potts_step(messages.data(), messages.size(), u, z, stride_, classes_, width_, exact,
                         rows);
            return;
        }
        if (messages.empty()) std::copy(u, u + rows * stride_, z);
        for (std::size_t term = 0; term < messages.size(); ++term) {
            const T* const f =
                widen(messages[term].rows, messages[term].total, rows, scratch.rows(0));
            k.mix(f, classes_, &weights_[term * classes_ * stride_], term == 0 ? u : z, z, stride_,
                  rows);
        }
    }

    /// The adjoint of a step with matrices A W_k; see `Kernels::potts_step_backward`. It goes by
    /// few pixels at a time, whose rows stay in the first cache while they are used again.
    void mixed_step_backward(const std::vector<Message<T>>& messages, const T* q, T* total, T* next,
                             T* sums, std::size_t rows, Scratch& scratch) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t slots = classes_ * stride_;
        T* const h = scratch.rows(1);
        std::fill(h, h + kBlock * stride_, T(0));
        for (std::size_t at = 0; at < rows; at += kBlock) {
            const std::size_t some = std::min(rows - at, kBlock);
            const T* const full = complete(q + at * width_, some, scratch.rows(0));
            for (std::size_t term = 0; term < messages.size(); ++term) {
                const Message<T>& message = messages[term];
                const T* const r = widen(message.rows + at * width_,
                                         message.total == nullptr ? nullptr : message.total + at,
                                         some, scratch.rows(2));
                k.outer(r, full, sums + term * slots, stride_, classes_, some);
                k.mix(r, classes_, &transposed_[term * slots], term == 0 ? nullptr : h, h, stride_,
                      some);
            }
            k.softmax_backward(full, h, total + at * stride_, next + at * width_, stride_, width_,
                               some);
        }
    }

    /// Rows of all classes from rows of the filtered ones; the last is what is missing to `total`.
    const T* widen(const T* f, const T* total, std::size_t rows, T* r) const {
        if (kept_ == classes_) return f;
        kernels<T>().widen(f, width_, total, r, stride_, rows);
        return r;
    }

    /// Marginals of all classes from those that were kept.
    const T* complete(const T* q, std::size_t rows, T* full) const {
        static const std::vector<T> ones(kTile, T(1));
        return widen(q, ones.data(), rows, full);
    }

    /// The adjoint filters of one channel.
    void filter_row_sum(Team& team, const Tiles& tiles, const T* values, T* out) {
        team.once([&] {
            narrow_.clear();
            for (const auto& term : model_.terms)
                narrow_.push_back(
                    std::make_unique<TermFilter<T>>(term, model_.n, model_.row, 1, true));
        });
        for (std::size_t term = 0; term < model_.terms.size(); ++term) {
            narrow_[term]->load(team);
            narrow_[term]->prepare(team, values);
            tiles.for_each(team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                narrow_[term]->tile(out + term * model_.n + begin, begin, end);
            });
        }
        team.once([&] { narrow_.clear(); });
    }

    /// Write a tile's result; false if it is not finite.
    bool write(const T* z, const T* u, const T* logits, std::size_t begin, std::size_t end,
               const Result<T>& result, Scratch& scratch) const {
        return pixels_.write_result(z, u, logits, begin, end, result, scratch.rows(0),
                                    scratch.rows(1), scratch.rows(2));
    }

    Model<T> model_;
    std::size_t classes_, all_, stride_, kept_, width_;
    PixelRows<T> pixels_;
    std::vector<T> weights_, transposed_;
    Filters narrow_;
};

}  // namespace crfrnn
