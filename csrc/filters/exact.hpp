#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "lattice/filter.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// The Gaussian sum itself: out_i = sum over all j, j = i included, of exp(-|f_i - f_j|^2 / 2) v_j.
///
/// Points are sorted into the leaves of a k-d tree, and within a leaf into smaller groups.
///
/// Pairs may be skipped by boxes: two points are at least as far apart as the boxes around them. If
/// the squared distance of two boxes exceeds 2 ln(1/tolerance), every value of the Gaussian between
/// them is below the tolerance, and all their pairs together change an output by less than
/// tolerance * sum of |v|. The test costs d operations per pair of boxes instead of d per pair of
/// points. Photographs reward it, because colors cluster: few boxes are near each other.
template <typename T>
class ExactFilter {
public:
    /// @param targets this many of the n points, the last, only receive, and the others only send;
    ///                0 if all points do both
    ExactFilter(const T* features, std::size_t n, std::size_t d, double tolerance,
                std::size_t targets = 0)
        : d_(d),
          reach_(static_cast<T>(-std::log2(tolerance))),
          first_target_(targets > 0 ? n - targets : 0),
          order_(n) {
        std::iota(order_.begin(), order_.end(), std::size_t{0});
        // exp(-r^2 / 2) = 2^-(r^2 / (2 ln 2)). In units of sqrt(2 ln 2) the kernel is 2^-(r^2),
        // its range reduction needs no product, and the squared reach is log2(1/tolerance).
        std::vector<T> scaled(features, features + n * d);
        const T unit = static_cast<T>(std::sqrt(0.5 / std::log(2.0)));
        for (T& f : scaled) f *= unit;
        features = scaled.data();
        split(features, 0, n - targets);
        source_leaves_ = begins_.size();
        source_nodes_ = nodes_.size();
        if (targets > 0) split(features, n - targets, n);  // a tree of their own
        const std::size_t leaves = begins_.size();
        begins_.push_back(n);
        points_ = std::vector<T>(leaves * d * kLeaf);
        block_boxes_.resize(leaves * (kLeaf / kSources) * 2 * d);
        for (std::size_t leaf = 0; leaf < leaves; ++leaf) {
            const std::size_t begin = begins_[leaf], end = begins_[leaf + 1];
            for (std::size_t l = 0; l < kLeaf; ++l) {
                // Lanes without a point repeat the last point; their values are zero.
                const T* point = features + order_[std::min(begin + l, end - 1)] * d;
                for (std::size_t k = 0; k < d; ++k) points_[(leaf * d + k) * kLeaf + l] = point[k];
            }
            for (std::size_t l = 0; l < kLeaf; l += kSources) {
                T* box = &block_boxes_[(leaf * kLeaf + l) / kSources * 2 * d];
                surround(features, std::min(begin + l, end), std::min(begin + l + kSources, end),
                         box);
            }
        }
    }

    /// Filter rows of `width` values, one per source, into one row per target; rows are `stride`
    /// apart. All workers call this together.
    void apply(Team& team, const T* values, T* out, std::size_t width, std::size_t stride) {
        const std::size_t wide = width <= 4 ? padded(width) : (width + 7) / 8 * 8;  // whole vectors
        team.once([&] {
            if (sorted_width_ < wide) sorted_ = uninitialized<T>(source_leaves_ * kLeaf * wide);
            sorted_width_ = std::max(sorted_width_, wide);
        });
        team.for_each(source_leaves_, [&](std::size_t leaf) {
            T* to = sorted_.get() + leaf * kLeaf * wide;
            std::fill(to, to + kLeaf * wide, T(0));
            for (std::size_t i = begins_[leaf]; i < begins_[leaf + 1]; ++i, to += wide)
                std::copy_n(values + order_[i] * stride, width, to);
        });
        const GaussLeaves<T> leaves_view{points_.data(), block_boxes_.data(), d_};
        std::vector<std::int32_t> near;
        std::vector<T> sums(kLeaf * wide);
        const std::size_t first_leaf = first_target_ > 0 ? source_leaves_ : 0;
        team.for_each(begins_.size() - 1 - first_leaf, [&](std::size_t number) {
            const std::size_t leaf = first_leaf + number;
            near.clear();
            collect(leaf, near);
            const std::size_t count = begins_[leaf + 1] - begins_[leaf];
            loops<T>().gauss(leaves_view, leaf, count, near.data(), near.size(), reach_,
                             sorted_.get(), wide, sums.data());
            for (std::size_t i = 0; i < count; ++i)
                std::copy_n(&sums[i * wide], width,
                            out + (order_[begins_[leaf] + i] - first_target_) * stride);
        });
    }

private:
    struct Node {
        std::vector<T> box;  // d lower ends, then d upper ends
        std::int32_t leaf;   // or -1
        std::size_t skip;    // the node after all descendants
    };

    /// The box around points begin..end: d lower ends, then d upper ends. Returns its widest
    /// dimension. The box around no points is near nothing.
    std::size_t surround(const T* features, std::size_t begin, std::size_t end, T* box) const {
        std::fill_n(box, d_, std::numeric_limits<T>::max());
        std::fill_n(box + d_, d_, std::numeric_limits<T>::lowest());
        for (std::size_t i = begin; i < end; ++i) {
            const T* point = features + order_[i] * d_;
            for (std::size_t k = 0; k < d_; ++k) {
                box[k] = std::min(box[k], point[k]);
                box[d_ + k] = std::max(box[d_ + k], point[k]);
            }
        }
        std::size_t widest = 0;
        for (std::size_t k = 1; k < d_; ++k)
            if (box[d_ + k] - box[k] > box[d_ + widest] - box[widest]) widest = k;
        return widest;
    }

    /// Split points begin..end at the median of their widest dimension, until a leaf holds them,
    /// and further until they are the targets of one group. The median keeps leaves full, whatever
    /// the density; the widest dimension keeps boxes compact.
    void split(const T* features, std::size_t begin, std::size_t end) {
        std::vector<T> box(2 * d_);
        const std::size_t widest = surround(features, begin, end, box.data());
        const bool is_leaf = end - begin <= kLeaf;
        const std::size_t self = nodes_.size();
        nodes_.push_back({box, is_leaf ? static_cast<std::int32_t>(begins_.size()) : -1, 0});
        if (is_leaf) {
            begins_.push_back(begin);
            boxes_.insert(boxes_.end(), box.begin(), box.end());
            for (std::size_t part = kLeaf; part > kTargets; part /= 2)
                for (std::size_t at = begin; at < end; at += part) {
                    const std::size_t stop = std::min(at + part, end);
                    bisect(features, at, stop, surround(features, at, stop, box.data()), part / 2);
                }
        } else {
            const std::size_t middle = bisect(features, begin, end, widest, kLeaf);
            split(features, begin, middle);
            split(features, middle, end);
        }
        nodes_[self].skip = nodes_.size();
    }

    /// Order points begin..end so that the lower ones along a dimension come first; return where
    /// the others begin: half way, or up to a multiple of `unit` after `begin`.
    std::size_t bisect(const T* features, std::size_t begin, std::size_t end, std::size_t k,
                       std::size_t unit) {
        const std::size_t middle = begin + ((end - begin) / 2 + unit - 1) / unit * unit;
        if (middle >= end) return end;
        std::nth_element(order_.begin() + static_cast<std::ptrdiff_t>(begin),
                         order_.begin() + static_cast<std::ptrdiff_t>(middle),
                         order_.begin() + static_cast<std::ptrdiff_t>(end),
                         [&](std::size_t a, std::size_t b) {
                             return features[a * d_ + k] < features[b * d_ + k];
                         });
        return middle;
    }

    /// Leaves of sources within reach of a leaf, in order. Nodes lie in depth-first order, so that
    /// a node out of reach is passed over with its descendants by one jump, without a stack.
    void collect(std::size_t leaf, std::vector<std::int32_t>& near) const {
        const T* box = &boxes_[leaf * 2 * d_];
        for (std::size_t at = 0; at < source_nodes_;) {
            const Node& node = nodes_[at];
            T squared = 0;
            for (std::size_t k = 0; k < d_; ++k) {
                const T gap = std::max(box[k] - node.box[d_ + k], node.box[k] - box[d_ + k]);
                if (gap > 0) squared += gap * gap;
            }
            if (squared > reach_) {
                at = node.skip;
                continue;
            }
            if (node.leaf >= 0) near.push_back(node.leaf);
            ++at;
        }
    }

    std::size_t d_;
    T reach_;  // squared distance beyond which the kernel is below the tolerance
    std::size_t first_target_;
    std::size_t source_leaves_ = 0, source_nodes_ = 0;
    std::vector<std::size_t> order_, begins_;
    std::vector<Node> nodes_;
    std::vector<T> points_, boxes_, block_boxes_;
    Buffer<T> sorted_;
    std::size_t sorted_width_ = 0;
};

/// Filter c values per source into c per target, of n points in total; see `ExactFilter`.
template <typename T>
void exact(const T* features, std::size_t n, std::size_t d, std::size_t targets, const T* values,
           T* out, std::size_t c, double tolerance, std::size_t threads) {
    ExactFilter<T> filter(features, n, d, tolerance, targets);
    Team::run(threads, [&](Team& team) {
        for (std::size_t done = 0; done < c; done += kGroup)
            filter.apply(team, values + done, out + done, std::min(kGroup, c - done), c);
    });
}

}  // namespace crfrnn
