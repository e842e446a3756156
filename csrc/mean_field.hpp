#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "parallel.hpp"
#include "term.hpp"

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
/// class need not be filtered where leaving it out makes the rows shorter.
template <typename T>
class Recurrence {
public:
    explicit Recurrence(const Model<T>& model)
        : model_(model),
          classes_(model.classes),
          stride_(padded(classes_)),
          kept_(padded(classes_ - 1) < stride_ && classes_ > 1 ? classes_ - 1 : classes_),
          width_(padded(kept_)) {
        const std::size_t per_row = (model.row + kTile - 1) / kTile;
        for (std::size_t start = 0; start < model.n; start += model.row)
            for (std::size_t t = 0; t < per_row; ++t)
                tiles_.push_back({start + t * kTile, start + std::min(model.row, (t + 1) * kTile)});
        prepare_weights();
    }

    /// Values a pixel of `saved` takes for each iteration.
    static std::size_t saved_width(std::size_t classes) {
        const std::size_t less = padded(classes - 1);
        return classes > 1 && less < padded(classes) ? less : padded(classes);
    }

    /// z = the logits after `iterations` updates.
    ///
    /// @param logits,z  classes x n
    /// @param saved     null, or iterations x n x saved_width: the marginals before each update
    /// @param tolerance stop when marginals change by less than this on average; 0 never stops
    /// @return          the number of updates made
    std::size_t forward(const T* logits, T* z, std::size_t iterations, T* saved, double tolerance,
                        std::size_t threads) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t n = model_.n;
        const auto unary = uninitialized<T>(n * stride_);
        std::unique_ptr<T[]> buffers[2];
        if (saved == nullptr)
            for (auto& buffer : buffers) buffer = uninitialized<T>(n * width_);
        const auto q = [&](std::size_t t) {
            return saved == nullptr ? buffers[t % 2].get() : saved + t * n * width_;
        };
        std::vector<double> changes(tiles_.size());
        std::size_t made = 0;
        auto filters = make_filters(false);

        Team::run(threads, [&](Team& team) {
            for (auto& filter : filters) filter->load(team);
            for_tiles(team, [&](std::size_t, std::size_t begin, std::size_t end) {
                T* u = unary.get() + begin * stride_;
                read_logits(logits, begin, end, u);
                Scratch scratch(stride_);
                T* copy = scratch.get();
                std::copy(u, u + (end - begin) * stride_, copy);
                if (iterations > 0)
                    k.softmax(copy, stride_, classes_, kept_, q(0) + begin * width_, width_,
                              nullptr, end - begin);
            });
            if (iterations == 0)
                team.once([&] { std::copy(logits, logits + n * all_classes(), z); });
            for (std::size_t t = 0; t < iterations; ++t) {
                const bool last = t + 1 == iterations;
                for (auto& filter : filters) filter->prepare(team, q(t));
                for_tiles(team, [&](std::size_t tile, std::size_t begin, std::size_t end) {
                    const std::size_t rows = end - begin;
                    Scratch scratch(stride_);
                    T* m = scratch.get();
                    penalties(filters, begin, end, m);
                    const T* u = unary.get() + begin * stride_;
                    for (std::size_t i = 0; i < rows * stride_; ++i) m[i] = u[i] - m[i];
                    if (last || tolerance > 0) write_logits(m, u, logits, begin, end, z);
                    if (last) return;
                    changes[tile] =
                        k.softmax(m, stride_, classes_, kept_, q(t + 1) + begin * width_, width_,
                                  tolerance > 0 ? q(t) + begin * width_ : nullptr, rows);
                });
                team.once([&] { made = t + 1; });
                if (tolerance > 0 && !last) {
                    double change = 0;
                    for (const double c : changes) change += c;
                    if (change < tolerance * static_cast<double>(n * all_classes())) break;
                    team.once([] {});  // nobody may overwrite `changes` while another adds them up
                }
            }
        });
        return made;
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
        const std::size_t slots = model_.potts ? stride_ : classes_ * stride_;
        const std::size_t chunks = std::min<std::size_t>(tiles_.size(), 32);
        const auto total = uninitialized<T>(n * stride_);
        const auto inputs = uninitialized<T>(2 * n * width_);
        std::vector<T> row_sum(n), filtered_sum(terms * n);
        std::vector<T> partial(chunks * terms * slots);
        std::fill(sums, sums + terms * (model_.potts ? classes_ : classes_ * classes_), 0.0);
        auto filters = make_filters(true);
        const auto input = [&](std::size_t t) { return inputs.get() + t % 2 * n * width_; };
        // What goes through the adjoint filter: A' g where A is Potts, else g itself.
        const auto feed = [&](T* g, std::size_t t, std::size_t begin, std::size_t rows) {
            if (model_.potts) k.potts(g, stride_, rows);
            T* to = input(t) + begin * width_;
            for (std::size_t i = 0; i < rows; ++i) {
                for (std::size_t c = 0; c < width_; ++c)
                    to[i * width_ + c] = c < kept_ ? g[i * stride_ + c] : T(0);
                T sum = 0;
                for (std::size_t c = 0; c < classes_; ++c) sum += g[i * stride_ + c];
                row_sum[begin + i] = sum;
            }
        };

        Team::run(threads, [&](Team& team) {
            for (auto& filter : filters) filter->load(team);
            for_tiles(team, [&](std::size_t, std::size_t begin, std::size_t end) {
                T* g = total.get() + begin * stride_;
                read_channels_first(gradient, begin, end, g);
                Scratch scratch(stride_);
                std::copy(g, g + (end - begin) * stride_, scratch.get());
                feed(scratch.get(), iterations, begin, end - begin);
            });
            // From the last step on, gradients sum to zero over the classes (softmax), so only the
            // first adjoint filter has a row sum to take care of.
            if (iterations > 0 && kept_ < classes_)
                filter_row_sum(team, row_sum.data(), filtered_sum.data());
            for (std::size_t t = iterations; t > 0; --t) {
                const T* q = saved + (t - 1) * n * width_;
                for (auto& filter : filters) filter->prepare(team, input(t));
                team.for_each(chunks, [&](std::size_t chunk) {
                    Scratch f(width_), r(stride_), full(stride_), h(stride_);
                    for (std::size_t tile = chunk * tiles_.size() / chunks;
                         tile < (chunk + 1) * tiles_.size() / chunks; ++tile) {
                        const auto [begin, end] = tiles_[tile];
                        const std::size_t rows = end - begin;
                        complete(q + begin * width_, rows, full.get());
                        std::fill(h.get(), h.get() + rows * stride_, T(0));
                        for (std::size_t term = 0; term < terms; ++term) {
                            filters[term]->tile(f.get(), begin, end);
                            const T* sum =
                                t == iterations ? &filtered_sum[term * n + begin] : nullptr;
                            widen(f.get(), sum, rows, r.get());
                            T* to = &partial[(chunk * terms + term) * slots];
                            const T* weights = &weights_[term * slots];
                            if (model_.potts) {
                                k.dot_columns(r.get(), full.get(), to, stride_, rows);
                                k.weigh(r.get(), stride_, weights, h.get(), stride_, rows);
                            } else {
                                k.outer(r.get(), full.get(), to, stride_, classes_, rows);
                                k.mix(r.get(), stride_, classes_, &transposed_[term * slots],
                                      h.get(), stride_, rows);
                            }
                        }
                        for (std::size_t i = 0; i < rows * stride_; ++i) h.get()[i] = -h.get()[i];
                        k.softmax_backward(full.get(), h.get(), r.get(), stride_, rows);
                        T* g = total.get() + begin * stride_;
                        for (std::size_t i = 0; i < rows * stride_; ++i) g[i] += r.get()[i];
                        if (t > 1) feed(r.get(), t - 1, begin, rows);
                    }
                });
            }
            for_tiles(team, [&](std::size_t, std::size_t begin, std::size_t end) {
                write_channels_first(total.get() + begin * stride_, begin, end, to_logits);
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
    static constexpr std::size_t kTile = 128;  // pixels; a tile's rows stay in the first cache

    using Filters = std::vector<std::unique_ptr<TermFilter<T>>>;

    struct Tile {
        std::size_t begin, end;
    };

    /// Rows of one tile, on this worker.
    class Scratch {
    public:
        explicit Scratch(std::size_t width) : data_(uninitialized<T>(kTile * width)) {}
        T* get() { return data_.get(); }

    private:
        std::unique_ptr<T[]> data_;
    };

    /// Pad the weights: potts, terms x stride. Otherwise terms x classes x stride, once with rows
    /// of inputs (for messages) and once with rows of outputs (for their adjoint).
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
                    weights_[(k * classes_ + from) * stride_ + to] = w;
                    transposed_[(k * classes_ + to) * stride_ + from] = w;
                }
            }
        }
    }

    Filters make_filters(bool adjoint) const {
        Filters filters;
        for (const auto& term : model_.terms)
            filters.push_back(
                std::make_unique<TermFilter<T>>(term, model_.n, model_.row, width_, adjoint));
        return filters;
    }

    template <typename Body>
    void for_tiles(Team& team, Body&& body) {
        team.for_each(tiles_.size(),
                      [&](std::size_t i) { body(i, tiles_[i].begin, tiles_[i].end); });
    }

    /// m = A (sum of W_k F_k) for the pixels begin..end: message passing, weighting, compatibility.
    void penalties(const Filters& filters, std::size_t begin, std::size_t end, T* m) {
        const Kernels<T>& k = kernels<T>();
        const std::size_t rows = end - begin;
        Scratch f(width_), r(stride_);
        std::fill(m, m + rows * stride_, T(0));
        for (std::size_t term = 0; term < filters.size(); ++term) {
            filters[term]->tile(f.get(), begin, end);
            const T* total = model_.terms[term].total;
            widen(f.get(), total == nullptr ? nullptr : total + begin, rows, r.get());
            if (model_.potts) {
                k.weigh(r.get(), stride_, &weights_[term * stride_], m, stride_, rows);
            } else {
                k.mix(r.get(), stride_, classes_, &weights_[term * classes_ * stride_], m, stride_,
                      rows);
            }
        }
        if (model_.potts) k.potts(m, stride_, rows);
    }

    /// Rows of all classes from rows of the filtered ones; the last is what is missing to `total`.
    void widen(const T* f, const T* total, std::size_t rows, T* r) {
        if (kept_ == classes_) {
            std::copy(f, f + rows * width_, r);
            return;
        }
        T missing[kTile];
        kernels<T>().missing_channel(f, width_, total, missing, rows);
        for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t c = 0; c < kept_; ++c) r[i * stride_ + c] = f[i * width_ + c];
            for (std::size_t c = kept_; c < stride_; ++c) r[i * stride_ + c] = T(0);
            r[i * stride_ + kept_] = missing[i];
        }
    }

    /// Marginals of all classes from those that were kept.
    void complete(const T* q, std::size_t rows, T* full) {
        static const std::vector<T> ones(kTile, T(1));
        widen(q, ones.data(), rows, full);
    }

    /// The adjoint filters of one channel.
    void filter_row_sum(Team& team, const T* values, T* out) {
        team.once([&] {
            narrow_.clear();
            for (const auto& term : model_.terms)
                narrow_.push_back(
                    std::make_unique<TermFilter<T>>(term, model_.n, model_.row, 1, true));
        });
        for (std::size_t term = 0; term < narrow_.size(); ++term) {
            narrow_[term]->load(team);
            narrow_[term]->prepare(team, values);
            for_tiles(team, [&](std::size_t, std::size_t begin, std::size_t end) {
                narrow_[term]->tile(out + term * model_.n + begin, begin, end);
            });
        }
        team.once([&] { narrow_.clear(); });
    }

    std::size_t all_classes() const { return model_.kept.empty() ? classes_ : model_.all; }

    /// The unary rows of a tile. Left-out classes join in the last one: exp adds up.
    void read_logits(const T* logits, std::size_t begin, std::size_t end, T* u) const {
        if (model_.kept.empty()) {
            read_channels_first(logits, begin, end, u);
            return;
        }
        const std::size_t rows = end - begin, kept = model_.kept.size();
        std::fill(u, u + rows * stride_, T(0));
        const auto rest = uninitialized<T>(rows * (model_.all - kept));
        std::size_t in_kept = 0, in_rest = 0;
        for (std::size_t c = 0; c < model_.all; ++c) {
            const bool keep = in_kept < kept && model_.kept[in_kept] == c;
            T* to = keep ? u + in_kept++ : rest.get() + in_rest++;
            const std::size_t step = keep ? stride_ : model_.all - kept;
            for (std::size_t i = 0; i < rows; ++i) to[i * step] = logits[c * model_.n + begin + i];
        }
        T sums[kTile];
        kernels<T>().log_sum_exp(rest.get(), model_.all - kept, sums, rows);
        for (std::size_t i = 0; i < rows; ++i) u[i * stride_ + kept] = sums[i];
    }

    /// The logits of a tile; left-out classes move as the one that stands for them did.
    void write_logits(const T* rows, const T* u, const T* logits, std::size_t begin,
                      std::size_t end, T* z) const {
        if (model_.kept.empty()) {
            write_channels_first(rows, begin, end, z);
            return;
        }
        const std::size_t kept = model_.kept.size();
        std::size_t in_kept = 0;
        for (std::size_t c = 0; c < model_.all; ++c) {
            const bool keep = in_kept < kept && model_.kept[in_kept] == c;
            const std::size_t from = c * model_.n;
            for (std::size_t i = begin; i < end; ++i) {
                const T* row = rows + (i - begin) * stride_;
                z[from + i] = keep ? row[in_kept]
                                   : logits[from + i] + row[kept] - u[(i - begin) * stride_ + kept];
            }
            in_kept += keep ? 1 : 0;
        }
    }

    void read_channels_first(const T* from, std::size_t begin, std::size_t end, T* rows) const {
        for (std::size_t c = 0; c < stride_; ++c)
            for (std::size_t i = begin; i < end; ++i)
                rows[(i - begin) * stride_ + c] = c < classes_ ? from[c * model_.n + i] : T(0);
    }

    void write_channels_first(const T* rows, std::size_t begin, std::size_t end, T* to) const {
        for (std::size_t c = 0; c < classes_; ++c)
            for (std::size_t i = begin; i < end; ++i)
                to[c * model_.n + i] = rows[(i - begin) * stride_ + c];
    }

    Model<T> model_;
    std::size_t classes_, stride_, kept_, width_;
    std::vector<Tile> tiles_;
    std::vector<T> weights_, transposed_;
    Filters narrow_;
};

}  // namespace crfrnn
