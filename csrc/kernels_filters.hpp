// The inner loops of the filters, for one instruction set; see kernels_impl.hpp.

#pragma once

#include <type_traits>

#include "exponential.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

#if defined(__GNUC__)
#define CRFRNN_PREFETCH(address) __builtin_prefetch(address)
#else
#define CRFRNN_PREFETCH(address)
#endif

namespace crfrnn::CRFRNN_ISA {
namespace {

// How far ahead to prefetch rows; gathers wait for memory otherwise.
constexpr std::size_t kAhead = 16, kAheadInSlice = 6;
constexpr std::int32_t kAheadInSplat = 32;

// Columns that fill the vector registers when kBandRows rows of them are summed up.
constexpr std::size_t kBandColumns = 16;

template <typename S>
inline void prefetch_row(const S* row, std::size_t width) {
    for (std::size_t byte = 0; byte < width * sizeof(S); byte += 64)
        CRFRNN_PREFETCH(reinterpret_cast<const char*>(row) + byte);
}

template <typename T, typename S>
void splat(const Entry<T>* entries, const std::int32_t* offset, const T* x, std::size_t stride,
           std::size_t width, S* table, std::size_t begin, std::size_t end) {
    const std::int32_t last = offset[end - 1];
    with_width(width, [&](auto w) {
        const auto sum_up = [&](std::size_t row, auto sum) {
            for (std::int32_t e = offset[row - 1]; e < offset[row]; ++e) {
                if (e + kAheadInSplat < last)
                    prefetch_row(
                        x + static_cast<std::size_t>(entries[e + kAheadInSplat].point) * stride, w);
                sum.add(entries[e].weight, x + static_cast<std::size_t>(entries[e].point) * stride);
            }
            sum.store(table + row * w);
        };
        for (std::size_t row = begin; row < end; ++row) sum_up(row, RowOf<T, decltype(w)>(w));
    });
}

template <typename T>
void scatter(const std::int32_t* vertex, const T* weight, std::size_t corners, std::size_t width,
             const T* scale, const T* x, T* table, std::size_t begin, std::size_t end) {
    const auto run = [&](auto w, auto count) {
        for (std::size_t i = begin; i < end; ++i) {
            const std::int32_t* rows = vertex + i * count;
            if (i + kAheadInSlice < end)
                for (std::size_t r = 0; r < count; ++r)
                    prefetch_row(
                        table + static_cast<std::size_t>(rows[kAheadInSlice * count + r]) * w, w);
            const T factor = scale == nullptr ? T(1) : scale[i];
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V value = V::all(factor) * V::load(x + (i - begin) * w + c);
                for (std::size_t r = 0; r < count; ++r) {
                    T* const to = table + static_cast<std::size_t>(rows[r]) * w + c;
                    (V::load(to) + V::all(weight[i * count + r]) * value).store(to);
                }
            });
        }
    };
    with_width(width, [&](auto w) {
        if (corners == 6) {
            run(w, FixedWidth<6>());
        } else {
            run(w, corners);
        }
    });
}

template <typename T, typename S>
void blur(const std::int32_t* neighbor, std::size_t width, const S* from, S* to, std::size_t begin,
          std::size_t end) {
    constexpr T own = std::is_same_v<S, T> ? T(1) : T(0.5);
    with_width(width, [&](auto w) {
        for (std::size_t row = begin; row < end; ++row) {
            if (row + kAhead < end) {
                const std::int32_t* next = neighbor + 2 * (row + kAhead - 1);
                prefetch_row(from + static_cast<std::size_t>(next[0]) * w, w);
                prefetch_row(from + static_cast<std::size_t>(next[1]) * w, w);
            }
            const S* here = from + row * w;
            const S* back = from + static_cast<std::size_t>(neighbor[2 * (row - 1)]) * w;
            const S* forth = from + static_cast<std::size_t>(neighbor[2 * (row - 1) + 1]) * w;
            S* out = to + row * w;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V sides = V::load(back + c) + V::load(forth + c);
                const V half = V::all(own / 2) * sides;
                if constexpr (own == T(1)) {
                    (V::load(here + c) + half).store(out + c);
                } else {
                    (V::all(own) * V::load(here + c) + half).store(out + c);
                }
            });
        }
    });
}

template <typename T, typename S>
void slice(const std::int32_t* vertex, const T* weight, std::size_t corners, std::size_t width,
           const S* table, T gain, const T* scale, T* out, std::size_t stride, std::size_t begin,
           std::size_t end) {
    const auto run = [&](auto w, auto count) {
        const auto sum_up = [&](std::size_t i, auto sum) {
            const T factor = scale == nullptr ? gain : gain * scale[i];
            const std::int32_t* rows = vertex + i * count;
            for (std::size_t r = 0; r < count; ++r)
                sum.add(factor * weight[i * count + r],
                        table + static_cast<std::size_t>(rows[r]) * w);
            sum.store(out + (i - begin) * stride);
        };
        std::size_t i = begin;
        for (; i + kAheadInSlice < end; ++i) {
            const std::int32_t* next = vertex + (i + kAheadInSlice) * count;
            for (std::size_t r = 0; r < count; ++r)
                prefetch_row(table + static_cast<std::size_t>(next[r]) * w, w);
            sum_up(i, RowOf<T, decltype(w)>(w));
        }
        for (; i < end; ++i) sum_up(i, RowOf<T, decltype(w)>(w));
    };
    with_width(width, [&](auto w) {
        if (corners == 6) {  // a color photograph's: the loop over corners unrolls
            run(w, FixedWidth<6>());
        } else {
            run(w, corners);
        }
    });
}

/// The rows i .. i+Rows-1 of a band matrix, times n values of each source: one block of columns.
template <std::size_t Rows, typename T, typename Width>
inline void band_rows(const Band<T>& band, Width n, const T* from, std::size_t from_step, T* to,
                      std::size_t to_step, std::size_t i) {
    const std::size_t first = i > band.radius ? i - band.radius : 0;
    const std::size_t beyond = i + Rows + band.radius;
    const std::size_t last = beyond < band.size ? beyond : band.size;
    const std::size_t pitch = Band<T>::pitch(band.radius);
    // The weight of source k in row i + r is at weights[r * (pitch - 1) + k].
    const T* weights = band.weight + i * pitch + band.radius + kBandRows - 1 - i;
    if constexpr (Rows == 1) {
        RowOf<T, Width> even(n), odd(n);  // one sum would wait for each addition to end
        std::size_t k = first;
        for (; k + 2 <= last; k += 2) {
            even.add(weights[k], from + k * from_step);
            odd.add(weights[k + 1], from + (k + 1) * from_step);
        }
        if (k < last) even.add(weights[k], from + k * from_step);
        even.add(odd);
        even.store(to);
    } else {
        RowOf<T, Width> s0(n), s1(n), s2(n), s3(n);
        for (std::size_t k = first; k < last; ++k) {
            const T* source = from + k * from_step;
            s0.add(weights[k], source);
            s1.add(weights[k + (pitch - 1)], source);
            s2.add(weights[k + 2 * (pitch - 1)], source);
            s3.add(weights[k + 3 * (pitch - 1)], source);
        }
        s0.store(to);
        s1.store(to + to_step);
        s2.store(to + 2 * to_step);
        s3.store(to + 3 * to_step);
    }
}

template <typename T>
void band(const Band<T>& band, const T* from, std::size_t from_step, T* to, std::size_t to_step,
          std::size_t n, std::size_t begin, std::size_t end) {
    constexpr std::size_t block = kBandColumns;
    const std::size_t whole = n / block * block;
    with_width(n - whole, [&](auto rest) {
        const auto rows = [&](auto count, std::size_t i) {
            T* out = to + (i - begin) * to_step;
            for (std::size_t at = 0; at < whole; at += block)
                band_rows<decltype(count)::value>(band, FixedWidth<block>(), from + at, from_step,
                                                  out + at, to_step, i);
            if (rest > 0)
                band_rows<decltype(count)::value>(band, rest, from + whole, from_step, out + whole,
                                                  to_step, i);
        };
        std::size_t i = begin;
        for (; i + kBandRows <= end; i += kBandRows)
            rows(std::integral_constant<std::size_t, kBandRows>(), i);
        for (; i < end; ++i) rows(std::integral_constant<std::size_t, 1>(), i);
    });
}

/// A leaf's groups of targets, and its blocks of sources.
constexpr std::size_t kGroups = kLeaf / kTargets, kBlocks = kLeaf / kSources;

/// Leaves of sources that all groups of targets visit while they are in the nearest cache.
constexpr std::size_t kNearest = 4;

/// Most dimensions for which the groups of targets have boxes of their own.
constexpr std::size_t kBoxed = 16;

/// The boxes around a leaf's groups of targets, one a lane.
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

    /// Squared distances to a box of `d` lower ends and `d` upper ends.
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

/// kernel[n][t][l] = 2^-|target t - source l|^2 for blocks of sources. In two passes: a processor
/// that looks some hundred instructions ahead would find too few that wait for no other in one.
template <typename T>
void kernel_values(const T* target, const T* const* sources, std::size_t blocks, std::size_t d,
                   T (*kernel)[kTargets][kSources]) {
    if (d == 5) {  // a color photograph's: the loop over dimensions unrolls
        exponents(target, sources, blocks, FixedWidth<5>(), kernel);
    } else {
        exponents(target, sources, blocks, d, kernel);
    }
    powers_of_two(kernel, blocks);
}

/// Add kernel times values to the rows of a group of targets: `columns` of rows `width` wide.
template <typename T, typename Columns>
inline void add_products(const T (*kernels)[kTargets][kSources], const T* const* values,
                         std::size_t blocks, std::size_t width, Columns columns, std::size_t at,
                         T* out) {
    RowOf<T, Columns> s0(columns), s1(columns), s2(columns), s3(columns);
    s0.load(out);
    s1.load(out + width);
    s2.load(out + 2 * width);
    s3.load(out + 3 * width);
    for (std::size_t n = 0; n < blocks; ++n) {
        const auto& kernel = kernels[n];
        const T* value = values[n] + at;
        for (std::size_t l = 0; l < kSources; ++l) {
            s0.add(kernel[0][l], value + l * width);
            s1.add(kernel[1][l], value + l * width);
            s2.add(kernel[2][l], value + l * width);
            s3.add(kernel[3][l], value + l * width);
        }
    }
    s0.store(out);
    s1.store(out + width);
    s2.store(out + 2 * width);
    s3.store(out + 3 * width);
}

/// The same for rows of one value: sources in lanes, which are summed up last.
template <typename T>
inline void add_products(const T (*kernels)[kTargets][kSources], const T* const* values,
                         std::size_t blocks, std::size_t, FixedWidth<1>, std::size_t, T* out) {
    using V = Lanes<T, kSources>;
    V s0 = V::all(T(0)), s1 = s0, s2 = s0, s3 = s0;
    for (std::size_t n = 0; n < blocks; ++n) {
        const V value = V::load(values[n]);
        s0 = s0 + V::load(kernels[n][0]) * value;
        s1 = s1 + V::load(kernels[n][1]) * value;
        s2 = s2 + V::load(kernels[n][2]) * value;
        s3 = s3 + V::load(kernels[n][3]) * value;
    }
    out[0] += s0.sum();
    out[1] += s1.sum();
    out[2] += s2.sum();
    out[3] += s3.sum();
}

/// The same for rows of any width: as many columns at a time as the registers hold.
template <typename T, typename Width>
inline void add_all_products(const T (*kernels)[kTargets][kSources], const T* const* values,
                             std::size_t blocks, Width width, T* out) {
    constexpr std::size_t most = 96 / sizeof(T), some = 64 / sizeof(T);
    if constexpr (std::is_same_v<Width, std::size_t>) {
        add_products(kernels, values, blocks, width, width, 0, out);
    } else if constexpr (Width() <= most || Width() % some != 0) {
        add_products(kernels, values, blocks, width, width, 0, out);
    } else {
        for (std::size_t at = 0; at < width; at += some)
            add_products(kernels, values, blocks, width, FixedWidth<some>(), at, out + at);
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
        T squared[most][kGroups], kernels[most][kTargets][kSources];
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
                std::size_t found = 0;
                for (std::size_t b = 0; b < blocks; ++b) {
                    near_points[found] = points[b];
                    near_rows[found] = rows[b];
                    found += squared[b][g] <= reach;  // no branch, as none would be foreseen
                }
                if (found == 0) continue;
                kernel_values(targets + g * kTargets, near_points, found, d, kernels);
                add_all_products(kernels, near_rows, found, w, out + g * kTargets * w);
            }
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
