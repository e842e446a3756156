#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "tiles.hpp"

namespace crfrnn {

/// Where `forward` puts its result, classes x n: the logits after the last update, or with
/// `labels` the marginals, and the likeliest class of each pixel.
template <typename T>
struct Result {
    T* values;
    std::int64_t* labels = nullptr;
    std::size_t steps = 0;  ///< out: the number of updates made
    bool finite = true;     ///< out, with labels: whether all marginals are
};

/// Between arrays of classes x pixels and the rows of a tile, one row of logits or marginals a
/// pixel, `stride` wide.
///
/// Where classes are `kept` out of `all`, the last class of the rows stands for all the others.
template <typename T>
class PixelRows {
public:
    PixelRows(std::size_t n, std::size_t classes, std::size_t stride, std::vector<std::size_t> kept,
              std::size_t all)
        : n_(n), classes_(classes), stride_(stride), all_(all), kept_(std::move(kept)) {
        for (std::size_t c = 0; c < all_ && !kept_.empty(); ++c)
            if (std::find(kept_.begin(), kept_.end(), c) == kept_.end()) left_out_.push_back(c);
    }

    /// The unary rows of a tile. Left-out classes join in the last one: exp adds up.
    void read_logits(const T* logits, std::size_t begin, std::size_t end, T* u) const {
        if (kept_.empty()) {
            read(logits, begin, end, kNothing, u);
            return;
        }
        const std::size_t rows = end - begin, kept = kept_.size();
        std::fill(u, u + rows * stride_, static_cast<T>(kNothing));
        T top[kTile], sum[kTile] = {};
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
            kernels<T>().add_exp(logits + c * n_ + begin, top, sum, rows);
        for (std::size_t i = 0; i < rows; ++i) u[i * stride_ + kept] = top[i] + std::log(sum[i]);
    }

    /// Write a tile's result from its logits z; false if it is not finite. Left-out classes move as
    /// the one that stands for them did.
    ///
    /// @param p,shift,scale  scratch, one row a pixel each
    bool write_result(const T* z, const T* u, const T* logits, std::size_t begin, std::size_t end,
                      const Result<T>& result, T* p, T* shift, T* scale) const {
        const Kernels<T>& k = kernels<T>();
        const std::size_t n = n_, rows = end - begin, kept = kept_.size();
        if (result.labels != nullptr) {
            std::copy(z, z + rows * stride_, shift);
            k.softmax(shift, stride_, classes_, classes_, p, stride_, nullptr, rows);
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
                if (result.labels != nullptr) {
                    k.scaled_exp(from, shift, scale, to, rows);
                } else {
                    for (std::size_t i = 0; i < rows; ++i) to[i] = from[i] + (scale[i] - shift[i]);
                }
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
    /// The likeliest class of a tile's pixels, out of the kept ones if there are any; false if a
    /// pixel has none.
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
