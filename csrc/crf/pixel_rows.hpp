#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/tiles.hpp"
#include "crf/model.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// Converts between arrays of classes x pixels and the rows of a tile: logits or marginals of one
/// pixel, `stride` wide.
///
/// The pruned recurrence. Of `all` classes some are `kept`, and the last column of the rows stands
/// for the rest together. With Potts weights, the logit of class c is u_c + m_c up to a sum that
/// all classes share, and its message m_c = sum over k of w_kc F_k q_c depends on its own marginals
/// only. Classes are left out where m_c is proven small (`message_peaks`), and m_c = 0 is put in
/// its place. Their logits then stay u_c, so that in the softmax they act as one class of logit
///
///     u_rest = log(sum over the classes c left out of exp u_c),
///
/// and each has a constant share of its marginal: Q_c = Q_rest exp(u_c - u_rest).
template <typename T>
class PixelRows {
public:
    PixelRows(std::size_t n, std::size_t classes, std::size_t stride, std::vector<std::size_t> kept,
              std::size_t all)
        : n_(n), classes_(classes), stride_(stride), all_(all), kept_(std::move(kept)) {
        for (std::size_t c = 0; c < all_ && !kept_.empty(); ++c)
            if (std::find(kept_.begin(), kept_.end(), c) == kept_.end()) left_out_.push_back(c);
    }

    /// The unary rows of a tile. The classes left out join in u_rest, computed with their largest
    /// logit taken out, so that exp cannot overflow.
    void read_logits(const T* logits, std::size_t begin, std::size_t end, T* u) const {
        if (kept_.empty()) {
            read(logits, begin, end, kNothing, u);
            return;
        }
        const std::size_t rows = end - begin, kept = kept_.size();
        std::fill(u, u + rows * stride_, static_cast<T>(kNothing));
        T top[kTile], high[kTile] = {}, low[kTile] = {};
        std::fill_n(top, rows, static_cast<T>(kNothing));
        for (std::size_t k = 0; k < kept; ++k) {
            const T* from = logits + kept_[k] * n_ + begin;
            for (std::size_t i = 0; i < rows; ++i) u[i * stride_ + k] = from[i];
        }
        for (const std::size_t c : left_out_) {
            const T* from = logits + c * n_ + begin;
            for (std::size_t i = 0; i < rows; ++i) top[i] = top[i] < from[i] ? from[i] : top[i];
        }
        for (const std::size_t c : left_out_)
            loops<T>().add_exp(logits + c * n_ + begin, top, left_out_.size(), high, low, rows);
        for (std::size_t i = 0; i < rows; ++i)
            u[i * stride_ + kept] = top[i] + std::log(high[i] + low[i]);
    }

    /// Write a tile's result from its logits z; false if it is not finite. Each class left out has
    /// a constant share of the column that stands for them. Classes are left out only where labels
    /// are wanted.
    ///
    /// @param p,shift,scale  scratch, each with one row per pixel
    bool write_result(const T* z, const T* u, const T* logits, std::size_t begin, std::size_t end,
                      const Result<T>& result, T* p, T* shift, T* scale) const {
        const Loops<T>& l = loops<T>();
        const std::size_t n = n_, rows = end - begin, kept = kept_.size();
        if (result.labels != nullptr) {
            std::copy(z, z + rows * stride_, shift);
            l.softmax(shift, stride_, classes_, classes_, p, stride_, nullptr, rows);
            z = p;
        }
        if (kept_.empty()) {
            write(z, begin, end, result.values);
        } else {
            for (std::size_t i = 0; i < rows; ++i) {
                shift[i] = u[i * stride_ + kept];
                scale[i] = z[i * stride_ + kept];
            }
            for (std::size_t c = 0; c < kept; ++c) {
                T* to = result.values + kept_[c] * n + begin;
                for (std::size_t i = 0; i < rows; ++i) to[i] = z[i * stride_ + c];
            }
            for (const std::size_t c : left_out_) {
                const T* from = logits + c * n + begin;
                T* to = result.values + c * n + begin;
                l.scaled_exp(from, shift, scale, to, rows);
            }
        }
        return result.labels == nullptr || write_labels(begin, end, result);
    }

    /// Rows of the pixels begin..end from an array of classes x n.
    void read(const T* from, std::size_t begin, std::size_t end, float padding, T* rows) const {
        for (std::size_t c = 0; c < stride_; ++c)
            for (std::size_t i = begin; i < end; ++i)
                rows[(i - begin) * stride_ + c] =
                    c < classes_ ? from[c * n_ + i] : static_cast<T>(padding);
    }

    /// The reverse of `read`.
    void write(const T* rows, std::size_t begin, std::size_t end, T* to) const {
        for (std::size_t c = 0; c < classes_; ++c)
            for (std::size_t i = begin; i < end; ++i)
                to[c * n_ + i] = rows[(i - begin) * stride_ + c];
    }

private:
    /// The likeliest class of a tile's pixels, which is a kept one if there are any; false if a
    /// pixel has none, because its marginals are not numbers.
    bool write_labels(std::size_t begin, std::size_t end, const Result<T>& result) const {
        const std::size_t rows = end - begin, count = kept_.empty() ? all_ : kept_.size();
        T top[kTile];
        std::int32_t label[kTile];
        std::fill_n(top, rows, T(-1));
        std::fill_n(label, rows, 0);
        for (std::size_t k = 0; k < count; ++k) {
            const std::size_t c = kept_.empty() ? k : kept_[k];
            const T* p = result.values + c * n_ + begin;
            for (std::size_t i = 0; i < rows; ++i) {
                label[i] = p[i] > top[i] ? static_cast<std::int32_t>(c) : label[i];
                top[i] = p[i] > top[i] ? p[i] : top[i];
            }
        }
        std::copy_n(label, rows, result.labels + begin);
        return *std::min_element(top, top + rows) >= 0;
    }

    std::size_t n_, classes_, stride_, all_;
    std::vector<std::size_t> kept_, left_out_;
};

}  // namespace crfrnn
