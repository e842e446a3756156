// Sums of the Gaussian itself, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "loops/exponential.hpp"
#include "loops/lanes.hpp"
#include "loops/loops.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// Work is skipped twice. The caller lists the leaves that are near enough to a leaf as a whole;
// here the boxes around 4 targets and 8 sources decide again. Of the pairs that remain on a
// photograph at 160 / 3, five in six are within reach. Smaller blocks would skip more and leave the
// vector units half empty.

/// A leaf's groups of targets, and its blocks of sources.
constexpr std::size_t kGroups = kLeaf / kTargets, kBlocks = kLeaf / kSources;

/// Leaves of sources that all groups of targets visit while they are in the nearest cache.
constexpr std::size_t kNearest = 4;

/// Most dimensions for which the groups of targets have boxes of their own.
constexpr std::size_t kBoxed = 16;

/// The boxes around a leaf's groups of targets, one in each lane.
template <typename T>
class TargetBoxes {
    using V = Lanes<T, kGroups>;

public:
    TargetBoxes(const T* points, std::size_t d) : d_(d <= kBoxed ? d : 0) {
        for (std::size_t k = 0; k < d_; ++k) {
            T low[kGroups], high[kGroups];
            for (std::size_t g = 0; g < kGroups; ++g) {
                const T* x = points + k * kLeaf + g * kTargets;
                low[g] = high[g] = x[0];
                for (std::size_t t = 1; t < kTargets; ++t) {
                    low[g] = x[t] < low[g] ? x[t] : low[g];
                    high[g] = x[t] > high[g] ? x[t] : high[g];
                }
            }
            low_[k] = V::load(low);
            high_[k] = V::load(high);
        }
    }

    /// Squared distances to a box of `d` lower ends and `d` upper ends: no point of one box is
    /// nearer to a point of the other. With d > kBoxed they are zero, a bound that skips nothing.
    V squared_distances(const T* box, std::size_t d) const {
        V squared = V::all(T(0));
        for (std::size_t k = 0; k < d_; ++k) {
            const V outside = larger(V::all(box[k]) - high_[k], low_[k] - V::all(box[d + k]));
            const V gap = larger(outside, V::all(T(0)));
            squared = squared + gap * gap;
        }
        return squared;
    }

private:
    std::size_t d_;
    V low_[kBoxed], high_[kBoxed];
};

/// exponent[n][t][l] = -|target t - source l|^2 for blocks of sources.
template <typename T, typename Dimensions>
inline void exponents(const T* target, const T* const* sources, std::size_t blocks, Dimensions d,
                      T (*exponent)[kTargets][kSources]) {
    using V = Lanes<T, kSources>;
    for (std::size_t n = 0; n < blocks; ++n) {
        V e0 = V::all(T(0)), e1 = e0, e2 = e0, e3 = e0;
        const auto add = [](V& sum, const V& from, T to) {
            const V step = from - V::all(to);
            sum = sum - step * step;
        };
        for (std::size_t k = 0; k < d; ++k) {
            const V from = V::load(sources[n] + k * kLeaf);
            add(e0, from, target[k * kLeaf]);
            add(e1, from, target[k * kLeaf + 1]);
            add(e2, from, target[k * kLeaf + 2]);
            add(e3, from, target[k * kLeaf + 3]);
        }
        e0.store(exponent[n][0]);
        e1.store(exponent[n][1]);
        e2.store(exponent[n][2]);
        e3.store(exponent[n][3]);
    }
}

/// gaussian[n][t][l] = 2^-|target t - source l|^2 for blocks of sources. In two passes, because the
/// instructions of one pass form long chains, and a processor looks only some hundred of them
/// ahead.
template <typename T>
void gaussian_values(const T* target, const T* const* sources, std::size_t blocks, std::size_t d,
                     T (*gaussian)[kTargets][kSources]) {
    if (d == 5) {  // a color photograph's: the loop over dimensions unrolls
        exponents(target, sources, blocks, FixedWidth<5>(), gaussian);
    } else {
        exponents(target, sources, blocks, d, gaussian);
    }
    powers_of_two(gaussian, blocks);
}

/// Add Gaussian times values to the rows of a group of targets: `columns` of rows `width` wide.
template <typename T, typename Columns>
inline void add_products(const T (*gaussian)[kTargets][kSources], const T* const* values,
                         std::size_t blocks, std::size_t width, Columns columns, std::size_t at,
                         T* out) {
    RowOf<T, Columns> s0(columns), s1(columns), s2(columns), s3(columns);
    s0.load(out);
    s1.load(out + width);
    s2.load(out + 2 * width);
    s3.load(out + 3 * width);
    for (std::size_t n = 0; n < blocks; ++n) {
        const auto& g = gaussian[n];
        const T* value = values[n] + at;
        for (std::size_t l = 0; l < kSources; ++l) {
            s0.add(g[0][l], value + l * width);
            s1.add(g[1][l], value + l * width);
            s2.add(g[2][l], value + l * width);
            s3.add(g[3][l], value + l * width);
        }
    }
    s0.store(out);
    s1.store(out + width);
    s2.store(out + 2 * width);
    s3.store(out + 3 * width);
}

/// The same for rows of one value: lanes hold sources, and are summed up last.
template <typename T>
inline void add_products(const T (*gaussian)[kTargets][kSources], const T* const* values,
                         std::size_t blocks, std::size_t, FixedWidth<1>, std::size_t, T* out) {
    using V = Lanes<T, kSources>;
    V s0 = V::all(T(0)), s1 = s0, s2 = s0, s3 = s0;
    for (std::size_t n = 0; n < blocks; ++n) {
        const V value = V::load(values[n]);
        s0 = s0 + V::load(gaussian[n][0]) * value;
        s1 = s1 + V::load(gaussian[n][1]) * value;
        s2 = s2 + V::load(gaussian[n][2]) * value;
        s3 = s3 + V::load(gaussian[n][3]) * value;
    }
    out[0] += s0.sum();
    out[1] += s1.sum();
    out[2] += s2.sum();
    out[3] += s3.sum();
}

/// The same for rows of any width: as many columns at a time as the registers hold.
template <typename T, typename Width>
inline void add_all_products(const T (*gaussian)[kTargets][kSources], const T* const* values,
                             std::size_t blocks, Width width, T* out) {
    constexpr std::size_t most = 96 / sizeof(T), at_once = 64 / sizeof(T);
    if constexpr (std::is_same_v<Width, std::size_t>) {
        add_products(gaussian, values, blocks, width, width, 0, out);
    } else if constexpr (Width() <= most || Width() % at_once != 0) {
        add_products(gaussian, values, blocks, width, width, 0, out);
    } else {
        for (std::size_t at = 0; at < width; at += at_once)
            add_products(gaussian, values, blocks, width, FixedWidth<at_once>(), at, out + at);
    }
}

template <typename T>
void gauss(const GaussLeaves<T>& leaves, std::size_t leaf, std::size_t count,
           const std::int32_t* near, std::size_t near_count, T reach, const T* values,
           std::size_t width, T* out) {
    static_assert(kGroups == kSources, "one length of lanes");
    const std::size_t d = leaves.d;
    const T* targets = leaves.points + leaf * d * kLeaf;
    const TargetBoxes<T> boxes(targets, d);
    for (std::size_t i = 0; i < kLeaf * width; ++i) out[i] = T(0);
    with_width(width, [&](auto w) {
        constexpr std::size_t most = kNearest * kBlocks;
        T squared[most][kGroups], gaussian[most][kTargets][kSources];
        const T *points[most], *rows[most], *near_points[most], *near_rows[most];
        for (std::size_t n = 0; n < near_count; n += kNearest) {
            const std::size_t end = n + kNearest < near_count ? n + kNearest : near_count;
            const std::size_t blocks = (end - n) * kBlocks;
            for (std::size_t b = 0; b < blocks; ++b) {
                const auto other = static_cast<std::size_t>(near[n + b / kBlocks]);
                const std::size_t part = b % kBlocks;
                points[b] = leaves.points + other * d * kLeaf + part * kSources;
                rows[b] = values + (other * kLeaf + part * kSources) * w;
                boxes.squared_distances(leaves.boxes + (other * kBlocks + part) * 2 * d, d)
                    .store(squared[b]);
            }
            for (std::size_t g = 0; g * kTargets < count; ++g) {
                std::size_t near_blocks = 0;
                for (std::size_t b = 0; b < blocks; ++b) {
                    near_points[near_blocks] = points[b];
                    near_rows[near_blocks] = rows[b];
                    near_blocks += squared[b][g] <= reach;  // a branch would be mispredicted
                }
                if (near_blocks == 0) continue;
                gaussian_values(targets + g * kTargets, near_points, near_blocks, d, gaussian);
                add_all_products(gaussian, near_rows, near_blocks, w, out + g * kTargets * w);
            }
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
