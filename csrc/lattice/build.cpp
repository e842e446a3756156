// Compiled without contraction of a*b+c into one rounding: the reference engine performs the same
// operations in the same order, and both must find the same simplex around every point.
//
// Cost: half to two thirds of the time goes into the simplices, half of it into arithmetic and half
// into looking up their d+1 corners per point; the rest into sorting M vertices, renumbering the
// corners, and the neighbors. Each thread embeds its chunk of points into a table of its own,
// because a shared one would need locks. The tables are merged sorted, so that the result is the
// same for any number of threads.

#include "lattice/build.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/memory.hpp"
#include "base/threads.hpp"
#include "lattice/key.hpp"
#include "lattice/numbering.hpp"
#include "lattice/sorted_keys.hpp"

namespace crfrnn {
namespace {

constexpr std::size_t kLanes = 16;  // points embedded together, one per vector lane

/// The scale of dimension j = 1..d. Elevation maps feature j to scale * (1, .., 1, -j, 0, .., 0)
/// with j ones. These vectors are orthogonal, lie in the hyperplane of sum zero, and have the
/// squared length scale^2 * j * (j+1). The scale gives all of them the same squared length,
///
///     (d+1)^2 * 2/3 = (d+1)^2 / 2 (blur along d+1 axes) + (d+1)^2 / 12 (splat) + the same (slice).
///
/// This is the variance of the whole filter, so that one bandwidth is one standard deviation.
template <typename T>
T scale_factor(std::size_t j, std::size_t d) {
    return static_cast<T>(static_cast<double>(d + 1) * std::sqrt(2.0 / 3.0) /
                          std::sqrt(static_cast<double>(j * (j + 1))));
}

/// Check the features and bound every elevated coordinate by interval arithmetic.
///
/// Coordinate j is the scaled sum of all later features minus j times feature j. Beyond the bounds,
/// each field has room for rounding to a corner and for a step to its neighbor, at most d+1 each.
/// The limits on features keep quotients in the range in which adding `magic` rounds; see `embed`.
template <typename T>
Layout plan_layout(const T* features, std::size_t n, std::size_t d) {
    // Lane k of a row of kLanes points holds dimension k % d, in a loop that compilers vectorize.
    std::array<T, kLanes * kMaxDimensions> low, high, zero{};
    for (std::size_t k = 0; k < kLanes * d; ++k) low[k] = high[k] = features[k % d];
    for (std::size_t begin = 0; begin < n * d; begin += kLanes * d) {
        const T* const row = features + begin;
        const std::size_t width = std::min(kLanes * d, n * d - begin);
        for (std::size_t k = 0; k < width; ++k) {
            low[k] = std::min(low[k], row[k]);
            high[k] = std::max(high[k], row[k]);
            zero[k] += row[k] * T(0);  // not a number from the first value on that is not finite
        }
    }
    bool is_finite = true;
    for (std::size_t k = 0; k < kLanes * d; ++k) {
        low[k % d] = std::min(low[k % d], low[k]);
        high[k % d] = std::max(high[k % d], high[k]);
        is_finite &= zero[k] == T(0);
    }
    if (!is_finite) throw std::invalid_argument("features must be finite");
    const double limit = std::is_same_v<T, float> ? 131072.0 : 8388608.0;
    Layout layout;
    const double room = 4.0 * static_cast<double>(d + 1) + 4.0;
    double total_low = 0, total_high = 0;
    unsigned used = 0;
    for (std::size_t j = d; j-- > 0;) {
        const double scale_next = scale_factor<T>(j + 1, d);
        total_low += scale_next * low[j];
        total_high += scale_next * high[j];
        double from = total_low, to = total_high;
        if (j > 0) {
            const double step = static_cast<double>(j) * scale_factor<T>(j, d);
            from -= step * high[j - 1];
            to -= step * low[j - 1];
        }
        if (std::max<double>(-low[j], high[j]) > limit) {
            throw std::invalid_argument("features reach beyond " +
                                        std::to_string(static_cast<long>(limit)) + " bandwidths");
        }
        layout.low[j] = static_cast<std::int64_t>(std::floor(from - room));
        if (std::max(-from, to) > 1e9) throw std::invalid_argument("features are too large");
        const double range = to - from + 2 * room + 2;
        const auto bits = static_cast<unsigned>(std::ceil(std::log2(range)));
        if (used + bits > 64) {
            ++layout.words;
            used = 0;
        }
        layout.word[j] = layout.words - 1;
        layout.shift[j] = used;
        used += bits;
        layout.bits = std::max(layout.bits, used);
    }
    return layout;
}

template <typename T, std::size_t W>
class Builder {
    using K = Key<W>;

public:
    Builder(const T* features, std::size_t n, std::size_t d, const Layout& layout)
        : features_(features), n_(n), d_(d), bits_(layout.bits) {
        for (std::size_t j = 0; j < d; ++j) {
            scale_[j] = scale_factor<T>(j + 1, d);
            unit_[j].word[layout.word[j]] = std::uint64_t{1} << layout.shift[j];
            step_[j] = times(unit_[j], static_cast<std::int64_t>(d + 1));
            ones_ = ones_ + unit_[j];
            origin_ = origin_ + times(unit_[j], -layout.low[j]);
        }
    }

    LatticeTables build(std::int32_t* vertex, T* weight, std::size_t threads) {
        // Whole groups of kLanes points, and enough points in a chunk to be worth a thread.
        const std::size_t chunks = std::max<std::size_t>(1, std::min(threads, n_ / 8192));
        const auto begin_of = [&](std::size_t c) { return c * (n_ / kLanes) / chunks * kLanes; };
        const auto end_of = [&](std::size_t c) { return c + 1 < chunks ? begin_of(c + 1) : n_; };
        std::vector<SortedKeys<K>> local(chunks);  // vertices of each chunk
        std::vector<std::vector<K>> merged(chunks);
        std::vector<std::vector<std::int32_t>> row(chunks);
        LatticeTables tables;

        Team::run(chunks, [&](Team& team) {
            team.for_each(chunks, [&](std::size_t c) {
                Numbering<K> numbering((end_of(c) - begin_of(c)) / 2);
                for (std::size_t i = begin_of(c); i < end_of(c); i += kLanes)
                    embed(i, std::min(kLanes, end_of(c) - i), vertex, weight, numbering);
                local[c] = sorted(numbering.keys(), bits_);
                merged[c].resize(local[c].count);
                for (std::size_t k = 0; k < local[c].count; ++k)
                    merged[c][k] = local[c].items[k].key;
            });
            for (std::size_t step = 1; step < chunks; step *= 2) {
                team.for_each((chunks + 2 * step - 1) / (2 * step), [&](std::size_t pair) {
                    const std::size_t left = pair * 2 * step, right = left + step;
                    if (right < chunks) merged[left] = merge(merged[left], merged[right]);
                });
            }
            const std::vector<K>& keys = merged[0];
            const std::size_t m = keys.size();
            team.once([&] {
                tables.vertices = m;
                tables.neighbor = uninitialized<std::int32_t>((d_ + 1) * m * 2);
            });
            team.for_each(chunks, [&](std::size_t c) {
                row[c].resize(local[c].count);
                std::size_t at = 0;
                for (std::size_t k = 0; k < local[c].count; ++k) {
                    const Numbered<K>& item = local[c].items[k];
                    while (!(keys[at] == item.key)) ++at;
                    row[c][static_cast<std::size_t>(item.number)] =
                        static_cast<std::int32_t>(at + 1);
                }
                for (std::size_t i = begin_of(c) * (d_ + 1); i < end_of(c) * (d_ + 1); ++i)
                    vertex[i] = row[c][static_cast<std::size_t>(vertex[i])];
            });
            team.for_each(d_ + 1, [&](std::size_t axis) {
                find_neighbors(keys, axis, tables.neighbor.get() + axis * m * 2);
            });
        });
        return tables;
    }

private:
    static K times(K key, std::int64_t factor) {
        for (auto& w : key.word) w *= static_cast<std::uint64_t>(factor);
        return key;
    }

    /// Find the simplices around up to kLanes points from `point` on (section 3 of Adams et al.),
    /// in the order of roundings that the reference engine follows.
    ///
    /// Vertices are the points of sum zero whose d+1 integer coordinates are all congruent modulo
    /// d+1; that remainder is the vertex's color, and each simplex has one corner of each color.
    void embed(std::size_t point, std::size_t count, std::int32_t* vertex, T* weight,
               Numbering<K>& numbering) const {
        using Lane = std::array<T, kLanes>;
        using IntLane = std::array<std::int32_t, kLanes>;
        std::array<Lane, kMaxDimensions + 1> elevated;
        std::array<IntLane, kMaxDimensions + 1> base, rank;
        const T step = static_cast<T>(d_ + 1);
        const T inverse = static_cast<T>(1.0 / static_cast<double>(d_ + 1));
        const auto step_int = static_cast<std::int32_t>(d_ + 1);
        // Adding and subtracting this rounds to the nearest integer, ties to even, in any vector
        // unit.
        const T magic = static_cast<T>(1.5) / std::numeric_limits<T>::epsilon();

        Lane total{};
        for (std::size_t j = d_; j > 0; --j) {
            Lane scaled{};
            for (std::size_t l = 0; l < count; ++l)
                scaled[l] = features_[(point + l) * d_ + j - 1] * scale_[j - 1];
            for (std::size_t l = 0; l < kLanes; ++l) {
                elevated[j][l] = total[l] - static_cast<T>(j) * scaled[l];
                total[l] += scaled[l];
            }
        }
        elevated[0] = total;

        // The nearest vertex of color 0. Round each coordinate to a multiple of d+1; the results
        // should sum to zero. If they sum to s (d+1), the s coordinates that rounding raised most
        // lose d+1 each. If s is negative, the -s coordinates that it lowered most gain d+1. The
        // residues tell how far rounding moved them; rank 0 is the largest residue.
        IntLane sum{};
        for (std::size_t i = 0; i <= d_; ++i) {
            for (std::size_t l = 0; l < kLanes; ++l) {
                const T quotient = (elevated[i][l] * inverse + magic) - magic;
                sum[l] += static_cast<std::int32_t>(quotient);
                base[i][l] = static_cast<std::int32_t>(quotient) * step_int;
                elevated[i][l] -= quotient * step;  // now the residue
                rank[i][l] = 0;
            }
        }
        for (std::size_t i = 0; i <= d_; ++i) {
            for (std::size_t j = i + 1; j <= d_; ++j) {
                for (std::size_t l = 0; l < kLanes; ++l) {
                    const std::int32_t less = elevated[i][l] < elevated[j][l] ? 1 : 0;
                    rank[i][l] += less;
                    rank[j][l] += 1 - less;
                }
            }
        }
        for (std::size_t i = 0; i <= d_; ++i) {
            for (std::size_t l = 0; l < kLanes; ++l) {
                const std::int32_t moved = rank[i][l] + sum[l];
                const std::int32_t shift =
                    (moved < 0 ? step_int : 0) - (moved > step_int - 1 ? step_int : 0);
                rank[i][l] = moved + shift;
                base[i][l] += shift;
                elevated[i][l] = (elevated[i][l] - static_cast<T>(shift)) * inverse;
            }
        }
        // Corner r adds r to each coordinate of corner 0, and takes d+1 from those of rank above
        // d-r. Let the point be the average of the corners with weights b_r. Its residues of ranks
        // p and p+1 then differ by (d+1) b_(d-p): only corner d-p treats the two differently. With
        // residues divided by d+1, b_r = delta_(d-r) - delta_(d+1-r), and b_0 follows from the sum
        // of one.
        std::array<std::array<K, kMaxDimensions + 1>, kLanes> keys;
        for (std::size_t l = 0; l < count; ++l) {
            std::array<T, kMaxDimensions + 1> delta;
            std::array<std::size_t, kMaxDimensions + 1> of_rank;
            K key = origin_;
            for (std::size_t i = 0; i <= d_; ++i) {
                const auto r = static_cast<std::size_t>(rank[i][l]);
                delta[r] = elevated[i][l];
                of_rank[r] = i;
                key = key + times(unit_[i], base[i][l]);
            }
            T* to = weight + (point + l) * (d_ + 1);
            to[0] = delta[d_] + (T(1) - delta[0]);
            numbering.expect(keys[l][0] = key);
            for (std::size_t r = 1; r <= d_; ++r) {
                to[r] = delta[d_ - r] - delta[d_ + 1 - r];
                // From corner r-1 to r all coordinates grow by one; that of rank d+1-r loses d+1.
                key = key + ones_ - step_[of_rank[d_ + 1 - r]];
                numbering.expect(keys[l][r] = key);
            }
        }
        for (std::size_t l = 0; l < count; ++l)
            for (std::size_t r = 0; r <= d_; ++r)
                vertex[(point + l) * (d_ + 1) + r] = numbering.number(keys[l][r]);
    }

    /// Fill both neighbors along one axis. The neighbor of x is y = x + step - ones. Keys are
    /// sorted and adding a constant keeps their order, so that one pass over x and y side by side
    /// meets all pairs with x + step = y + ones. Each pair is written at both ends, which makes the
    /// blur symmetric. There is no branch to mispredict: a value that is written too early is
    /// overwritten later, and bits are masked, because compilers turn a choice into a branch.
    void find_neighbors(const std::vector<K>& keys, std::size_t axis,
                        std::int32_t* neighbor) const {
        const std::size_t m = keys.size();
        std::size_t here = 0, other = 0;
        while (here < m && other < m) {
            const K x = keys[here] + step_[axis], y = keys[other] + ones_;
            const bool x_is_done = !(y < x), y_is_done = !(x < y);
            const std::int32_t is_pair = -static_cast<std::int32_t>(x_is_done & y_is_done);
            neighbor[2 * here] = static_cast<std::int32_t>(other + 1) & is_pair;
            neighbor[2 * other + 1] = static_cast<std::int32_t>(here + 1) & is_pair;
            here += x_is_done ? 1 : 0;
            other += y_is_done ? 1 : 0;
        }
        for (; here < m; ++here) neighbor[2 * here] = 0;
        for (; other < m; ++other) neighbor[2 * other + 1] = 0;
    }

    const T* features_;
    std::size_t n_, d_;
    std::array<T, kMaxDimensions> scale_{};
    // Keys that hold 1, or d+1, in one coordinate. The last coordinate is not stored: zero.
    std::array<K, kMaxDimensions + 1> unit_{}, step_{};
    K ones_{}, origin_{};
    unsigned bits_;
};

}  // namespace

template <typename T>
LatticeTables build_lattice(const T* features, std::size_t n, std::size_t d, std::int32_t* vertex,
                            T* weight, std::size_t threads) {
    if (n == 0 || d == 0 || d > kMaxDimensions)
        throw std::invalid_argument("a lattice needs points, and 1 to 32 feature dimensions");
    if (n > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) / (d + 1))
        throw std::invalid_argument("too many points for one lattice");
    const Layout layout = plan_layout(features, n, d);
    const auto build = [&](auto words) {
        return Builder<T, decltype(words)::value>(features, n, d, layout)
            .build(vertex, weight, threads);
    };
    if (layout.words <= 1) return build(std::integral_constant<std::size_t, 1>());
    if (layout.words <= 2) return build(std::integral_constant<std::size_t, 2>());
    if (layout.words <= 4) return build(std::integral_constant<std::size_t, 4>());
    return build(std::integral_constant<std::size_t, 16>());
}

template LatticeTables build_lattice(const float*, std::size_t, std::size_t, std::int32_t*, float*,
                                     std::size_t);
template LatticeTables build_lattice(const double*, std::size_t, std::size_t, std::int32_t*,
                                     double*, std::size_t);

}  // namespace crfrnn
