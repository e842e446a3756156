// Compiled without contraction of a*b+c into one rounding: the reference engine performs the same
// operations in the same order, and both must find the same simplex around every point.

#include "lattice_build.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "lattice_key.hpp"
#include "parallel.hpp"

namespace crfrnn {
namespace {

constexpr std::size_t kLanes = 16;  // points embedded together, one per vector lane
constexpr std::size_t kTile = 16;   // pixels; vertices are numbered tile by tile

template <typename T>
T scale_factor(std::size_t j, std::size_t d) {  // j counts dimensions from 1
    return static_cast<T>(static_cast<double>(d + 1) * std::sqrt(2.0 / 3.0) /
                          std::sqrt(static_cast<double>(j * (j + 1))));
}

/// Check the features and bound every elevated coordinate by interval arithmetic.
template <typename T>
Layout plan_layout(const T* features, std::size_t n, std::size_t d) {
    std::array<T, kMaxDimensions> low{}, high{};
    for (std::size_t k = 0; k < d; ++k) low[k] = high[k] = features[k];
    bool finite = true;
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t k = 0; k < d; ++k) {
            const T f = features[i * d + k];
            finite &= std::isfinite(f);
            low[k] = std::min(low[k], f);
            high[k] = std::max(high[k], f);
        }
    }
    if (!finite) throw std::invalid_argument("features must be finite");
    const double limit = std::is_same_v<T, float> ? 131072.0 : 33554432.0;
    Layout layout;
    const double room = 4.0 * static_cast<double>(d + 1) + 4.0;
    double total_low = 0, total_high = 0;
    unsigned used = 0;
    for (std::size_t j = d;
         j-- > 0;) {  // coordinate j: sum of later features minus j times feature j
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
    Builder(const T* features, std::size_t n, std::size_t d, std::size_t width,
            const Layout& layout)
        : features_(features), n_(n), d_(d), width_(width), rows_((n + width - 1) / width) {
        for (std::size_t j = 0; j < d; ++j) {
            scale_[j] = scale_factor<T>(j + 1, d);
            unit_[j].word[layout.word[j]] = std::uint64_t{1} << layout.shift[j];
            ones_ = ones_ + unit_[j];
            origin_ = origin_ + times(unit_[j], -layout.low[j]);
        }
        bits_ = layout.bits;
    }

    LatticeTables build(std::int32_t* vertex, T* weight, std::int32_t* entry, std::size_t threads) {
        const std::size_t bands = (rows_ + kTile - 1) / kTile;
        // The split depends on the image alone, so the numbering does not depend on the threads.
        const std::size_t chunks =
            std::max<std::size_t>(1, std::min({bands, std::size_t{16}, n_ / std::size_t{16384}}));
        std::vector<Numbering<K>> local(chunks, Numbering<K>(n_ / chunks / 2));
        std::vector<std::vector<std::int32_t>> global(chunks);
        Numbering<K> all(chunks > 1 ? n_ : 0);
        LatticeTables tables;
        const std::vector<K>* keys = nullptr;
        std::vector<std::pair<K, std::int32_t>> sorted;
        const auto band_begin = [&](std::size_t c) { return c * bands / chunks; };

        Team::run(threads, [&](Team& team) {
            team.for_each(chunks, [&](std::size_t c) {
                embed_bands(band_begin(c), band_begin(c + 1), vertex, weight, local[c]);
            });
            team.once([&] {
                for (std::size_t c = 0; chunks > 1 && c < chunks; ++c)
                    for (const K& key : local[c].keys()) global[c].push_back(all.row(key));
                keys = chunks > 1 ? &all.keys() : &local[0].keys();
                tables.vertices = keys->size();
                tables.neighbor.assign((d_ + 1) * tables.vertices * 2, 0);
                tables.offset.assign(tables.vertices + 1, 0);
            });
            team.for_each(chunks > 1 ? chunks : 0, [&](std::size_t c) {
                const std::size_t begin = std::min(n_, band_begin(c) * kTile * width_);
                const std::size_t end = std::min(n_, band_begin(c + 1) * kTile * width_);
                for (std::size_t i = begin * (d_ + 1); i < end * (d_ + 1); ++i)
                    vertex[i] = global[c][static_cast<std::size_t>(vertex[i]) - 1];
            });
            // Two independent jobs: the order of the keys, and the order of the entries.
            team.for_each(2, [&](std::size_t job) {
                if (job == 0) {
                    sorted = sort_keys(*keys);
                } else {
                    list_entries(vertex, tables, entry);
                }
            });
            team.for_each(d_ + 1, [&](std::size_t axis) {
                find_neighbors(sorted, axis, tables.neighbor.data() + axis * tables.vertices * 2);
            });
        });
        return tables;
    }

private:
    static K times(K key, std::int64_t factor) {
        for (auto& w : key.word) w *= static_cast<std::uint64_t>(factor);
        return key;
    }

    /// Embed the points of some bands of kTile rows, tile by tile, and number their vertices.
    void embed_bands(std::size_t begin, std::size_t end, std::int32_t* vertex, T* weight,
                     Numbering<K>& numbering) const {
        std::array<std::size_t, kLanes> points{};
        for (std::size_t band = begin; band < end; ++band) {
            const std::size_t last_row = std::min(rows_, (band + 1) * kTile);
            for (std::size_t column = 0; column < width_; column += kTile) {
                const std::size_t last_column = std::min(width_, column + kTile);
                std::size_t count = 0;
                for (std::size_t y = band * kTile; y < last_row; ++y) {
                    for (std::size_t x = column; x < last_column; ++x) {
                        const std::size_t point = y * width_ + x;
                        if (point >= n_) break;
                        points[count++] = point;
                        if (count == kLanes) {
                            embed(points, count, vertex, weight, numbering);
                            count = 0;
                        }
                    }
                }
                if (count > 0) embed(points, count, vertex, weight, numbering);
            }
        }
    }

    /// Find the simplices around up to kLanes points: section 3 of Adams et al., in the order of
    /// roundings that the reference engine follows.
    void embed(const std::array<std::size_t, kLanes>& points, std::size_t count,
               std::int32_t* vertex, T* weight, Numbering<K>& numbering) const {
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
                scaled[l] = features_[points[l] * d_ + j - 1] * scale_[j - 1];
            for (std::size_t l = 0; l < kLanes; ++l) {
                elevated[j][l] = total[l] - static_cast<T>(j) * scaled[l];
                total[l] += scaled[l];
            }
        }
        elevated[0] = total;

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
        for (std::size_t l = 0; l < count; ++l) {
            std::array<T, kMaxDimensions + 1> delta;
            std::array<K, kMaxDimensions + 1> unit_of_rank;
            K key = origin_;
            for (std::size_t i = 0; i <= d_; ++i) {
                const auto r = static_cast<std::size_t>(rank[i][l]);
                delta[r] = elevated[i][l];
                unit_of_rank[r] = unit_[i];
                key = key + times(unit_[i], base[i][l]);
            }
            const std::size_t out = points[l] * (d_ + 1);
            weight[out] = delta[d_] + (T(1) - delta[0]);
            vertex[out] = numbering.row(key);
            for (std::size_t r = 1; r <= d_; ++r) {
                weight[out + r] = delta[d_ - r] - delta[d_ + 1 - r];
                // From corner r-1 to r all coordinates grow by one, but for the one of rank d+1-r.
                key = key + ones_ - times(unit_of_rank[d_ + 1 - r], step_int);
                vertex[out + r] = numbering.row(key);
            }
        }
    }

    /// Keys with their rows in ascending order, by radix sort: stable, and linear in M.
    std::vector<std::pair<K, std::int32_t>> sort_keys(const std::vector<K>& keys) const {
        constexpr unsigned digit = 11;
        std::vector<std::pair<K, std::int32_t>> from(keys.size()), to(keys.size());
        for (std::size_t i = 0; i < keys.size(); ++i)
            from[i] = {keys[i], static_cast<std::int32_t>(i + 1)};
        for (std::size_t w = W; w-- > 0;) {
            for (unsigned shift = 0; shift < bits_; shift += digit) {
                std::array<std::size_t, (1u << digit) + 1> begin{};
                const auto bucket = [&](const K& key) {
                    return static_cast<std::size_t>(key.word[w] >> shift) & ((1u << digit) - 1);
                };
                for (const auto& item : from) ++begin[bucket(item.first) + 1];
                for (std::size_t b = 1; b < begin.size(); ++b) begin[b] += begin[b - 1];
                for (const auto& item : from) to[begin[bucket(item.first)]++] = item;
                from.swap(to);
            }
        }
        return from;
    }

    /// Fill both neighbours along one axis. The step to a neighbour is the same for every key, so
    /// walking the sorted keys beside the sorted keys plus that step meets all pairs in one pass.
    void find_neighbors(const std::vector<std::pair<K, std::int32_t>>& sorted, std::size_t axis,
                        std::int32_t* neighbor) const {
        const K step = times(unit_[axis], static_cast<std::int64_t>(d_ + 1));
        std::size_t other = 0;
        for (const auto& [key, row] : sorted) {
            const K wanted = key + step;  // the neighbour, with `ones_` still to be subtracted
            while (other < sorted.size() && sorted[other].first + ones_ < wanted) ++other;
            if (other < sorted.size() && sorted[other].first + ones_ == wanted) {
                const std::int32_t found = sorted[other].second;
                neighbor[2 * (static_cast<std::size_t>(row) - 1)] = found;
                neighbor[2 * (static_cast<std::size_t>(found) - 1) + 1] = row;
            }
        }
    }

    /// Sort the (point, corner) pairs by vertex, by counting.
    void list_entries(const std::int32_t* vertex, LatticeTables& tables,
                      std::int32_t* entry) const {
        const std::size_t count = n_ * (d_ + 1);
        auto& offset = tables.offset;
        for (std::size_t i = 0; i < count; ++i) ++offset[static_cast<std::size_t>(vertex[i])];
        for (std::size_t m = 1; m < offset.size(); ++m) offset[m] += offset[m - 1];
        std::vector<std::int32_t> next(offset.begin(), offset.end() - 1);
        for (std::size_t i = 0; i < count; ++i)
            entry[next[static_cast<std::size_t>(vertex[i]) - 1]++] = static_cast<std::int32_t>(i);
    }

    const T* features_;
    std::size_t n_, d_, width_, rows_;
    std::array<T, kMaxDimensions> scale_{};
    std::array<K, kMaxDimensions + 1> unit_{};  // the last coordinate is not stored: zero
    K ones_{}, origin_{};
    unsigned bits_ = 0;
};

}  // namespace

template <typename T>
LatticeTables build_lattice(const T* features, std::size_t n, std::size_t d, std::size_t width,
                            std::int32_t* vertex, T* weight, std::int32_t* entry,
                            std::size_t threads) {
    if (n == 0 || d == 0 || d > kMaxDimensions)
        throw std::invalid_argument("a lattice needs points, and 1 to 32 feature dimensions");
    if (n > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) / (d + 1))
        throw std::invalid_argument("too many points for one lattice");
    const Layout layout = plan_layout(features, n, d);
    const auto build = [&](auto words) {
        return Builder<T, decltype(words)::value>(features, n, d, width, layout)
            .build(vertex, weight, entry, threads);
    };
    if (layout.words <= 1) return build(std::integral_constant<std::size_t, 1>());
    if (layout.words <= 2) return build(std::integral_constant<std::size_t, 2>());
    if (layout.words <= 4) return build(std::integral_constant<std::size_t, 4>());
    return build(std::integral_constant<std::size_t, 16>());
}

template LatticeTables build_lattice(const float*, std::size_t, std::size_t, std::size_t,
                                     std::int32_t*, float*, std::int32_t*, std::size_t);
template LatticeTables build_lattice(const double*, std::size_t, std::size_t, std::size_t,
                                     std::int32_t*, double*, std::int32_t*, std::size_t);

}  // namespace crfrnn
