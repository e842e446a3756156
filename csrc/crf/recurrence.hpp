#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "crf/model.hpp"
#include "crf/pair.hpp"
#include "crf/pixel_rows.hpp"
#include "filters/term.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// What both directions of the recurrence share: the layout of rows, padded weights, and filters.
///
/// Values lie channels-last, one row per pixel, so that a filter moves whole rows and its indices
/// are read once for all classes. Rows of logits hold all classes (`stride` wide), rows of
/// marginals only the filtered ones (`width` wide).
template <typename T>
class Recurrence {
public:
    using Filters = std::vector<std::unique_ptr<TermFilter<T>>>;

    explicit Recurrence(const Model<T>& model)
        : model(model),
          classes(model.classes),
          all(model.kept.empty() ? classes : model.all),
          stride(padded(classes)),
          is_pair(model.is_even && classes == 2),
          filtered(is_pair || derives_last(model) ? classes - 1 : classes),
          width(padded(filtered)),
          pixels(model.n, classes, stride, model.kept, all) {
        pad_weights();
    }

    /// The filters of all terms, or their adjoints.
    Filters filters(bool is_adjoint, std::size_t parts) const {
        Filters filters;
        for (const auto& term : model.terms)
            filters.push_back(std::make_unique<TermFilter<T>>(term, model.n, model.row, width,
                                                              is_adjoint, parts));
        return filters;
    }

    /// Filter `values` as far as possible before single tiles are asked for. Lattices come last, so
    /// that their tables are still cached then.
    static void prepare(const Filters& filters, Team& team, const T* values) {
        for (const bool on_lattice : {false, true})
            for (const auto& filter : filters)
                if (filter->on_lattice() == on_lattice) filter->prepare(team, values);
    }

    /// Rows of all classes from rows of the filtered ones; the last class is `total` minus the
    /// others.
    const T* widen(const T* f, const T* total, std::size_t rows, T* r) const {
        if (filtered == classes) return f;
        if (is_pair) {
            pair::widen(f, total, rows, r);
            return r;
        }
        loops<T>().widen(f, width, total, r, stride, rows);
        return r;
    }

    const Model<T>& model;
    const std::size_t classes, all, stride;
    const bool is_pair;  ///< two classes as one column; see pair.hpp
    const std::size_t filtered, width;
    const PixelRows<T> pixels;
    /// Potts: terms x stride. Otherwise minus A W_k, terms x classes x stride, for rows of messages
    /// (by input class) and for rows of their adjoint (transposed, by output class).
    std::vector<T> weights, transposed;

private:
    static bool derives_last(const Model<T>& model) {
        return !model.is_even && needs_total(model.classes) &&
               !(model.step && model.step->needs_all());
    }

    void pad_weights() {
        const std::size_t terms = model.terms.size();
        if (model.is_potts) {
            weights.assign(terms * stride, T(0));
            for (std::size_t k = 0; k < terms; ++k)
                for (std::size_t c = 0; c < classes; ++c)
                    weights[k * stride + c] = model.weights[k * classes + c];
            return;
        }
        weights.assign(terms * classes * stride, T(0));
        transposed.assign(terms * classes * stride, T(0));
        for (std::size_t k = 0; k < terms; ++k) {
            for (std::size_t to = 0; to < classes; ++to) {
                for (std::size_t from = 0; from < classes; ++from) {
                    const T w = model.weights[(k * classes + to) * classes + from];
                    weights[(k * classes + from) * stride + to] = -w;
                    transposed[(k * classes + to) * stride + from] = -w;
                }
            }
        }
    }
};

/// One worker's rows of a tile.
template <typename T>
class Scratch {
public:
    explicit Scratch(const Recurrence<T>& r)
        : row_(kTile * std::max(r.stride, r.all)),
          message_(kTile * r.width),
          data_(uninitialized<T>(4 * row_ + r.model.terms.size() * message_)),
          messages_(r.model.terms.size()) {}

    T* logits() { return data_.get(); }
    T* rows(std::size_t which) { return data_.get() + (1 + which) * row_; }  // 0, 1 or 2
    T* message(std::size_t term) { return data_.get() + 4 * row_ + term * message_; }
    std::vector<Message<T>>& messages() { return messages_; }

private:
    std::size_t row_, message_;
    Buffer<T> data_;
    std::vector<Message<T>> messages_;
};

}  // namespace crfrnn
