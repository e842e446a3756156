// The inner loops of the filters, for one instruction set; see kernels_impl.hpp.

#pragma once

#include <type_traits>

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

template <typename T>
inline void prefetch_row(const T* row, std::size_t width) {
    for (std::size_t byte = 0; byte < width * sizeof(T); byte += 64)
        CRFRNN_PREFETCH(reinterpret_cast<const char*>(row) + byte);
}

template <typename T>
void splat(const Entry<T>* entries, const std::int32_t* offset, const T* x, std::size_t stride,
           std::size_t width, T* table, std::size_t begin, std::size_t end) {
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

template <typename T>
void blur(const std::int32_t* neighbor, std::size_t width, const T* from, T* to, std::size_t begin,
          std::size_t end) {
    with_width(width, [&](auto w) {
        for (std::size_t row = begin; row < end; ++row) {
            if (row + kAhead < end) {
                const std::int32_t* next = neighbor + 2 * (row + kAhead - 1);
                prefetch_row(from + static_cast<std::size_t>(next[0]) * w, w);
                prefetch_row(from + static_cast<std::size_t>(next[1]) * w, w);
            }
            const T* here = from + row * w;
            const T* back = from + static_cast<std::size_t>(neighbor[2 * (row - 1)]) * w;
            const T* forth = from + static_cast<std::size_t>(neighbor[2 * (row - 1) + 1]) * w;
            T* out = to + row * w;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V sides = V::load(back + c) + V::load(forth + c);
                (V::load(here + c) + V::all(T(0.5)) * sides).store(out + c);
            });
        }
    });
}

template <typename T>
void slice(const std::int32_t* vertex, const T* weight, std::size_t corners, std::size_t width,
           const T* table, T gain, const T* scale, T* out, std::size_t stride, std::size_t begin,
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

/// Points of one leaf that are summed up together against the same sources.
constexpr std::size_t kTargets = 4;

/// Most dimensions for which the targets get a box of their own.
constexpr std::size_t kBoxed = 16;

/// Whether a leaf's box is within reach of the box from `low` to `high`.
template <typename T>
inline bool near_box(const T* box, const T* low, const T* high, std::size_t d, T reach) {
    T squared = 0;
    for (std::size_t k = 0; k < d; ++k) {
        const T below = box[k] - high[k], above = low[k] - box[d + k];
        T gap = below > above ? below : above;
        gap = gap > 0 ? gap : T(0);
        squared += gap * gap;
    }
    return squared <= reach;
}

/// kernel[t][l] = 2^-|target t - source l|^2 for a leaf of sources.
template <typename T>
inline void kernel_values(const T* target, const T* source, std::size_t d,
                          T (&kernel)[kTargets][kLeaf]) {
    using V = Lanes<T, 8>;
    for (std::size_t l = 0; l < kLeaf; l += 8) {
        V distance[kTargets];
        for (V& one : distance) one = V::all(T(0));
        for (std::size_t k = 0; k < d; ++k) {
            const V from = V::load(source + k * kLeaf + l);
            for (std::size_t t = 0; t < kTargets; ++t) {
                const V step = from - V::all(target[k * kLeaf + t]);
                distance[t] = distance[t] + step * step;
            }
        }
        for (std::size_t t = 0; t < kTargets; ++t)
            inverse_power_of_two(distance[t]).store(kernel[t] + l);
    }
}

template <typename T>
void gauss(const GaussLeaves<T>& leaves, std::size_t leaf, std::size_t count,
           const std::int32_t* near, std::size_t near_count, T reach, const T* values,
           std::size_t width, T* out) {
    static_assert(kLeaf % kTargets == 0, "targets may reach beyond `count`, not beyond a leaf");
    const std::size_t d = leaves.d;
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < count; i += kTargets) {
            const T* target = leaves.points + leaf * d * kLeaf + i;
            T low[kBoxed], high[kBoxed];
            for (std::size_t k = 0; k < d && d <= kBoxed; ++k) {
                low[k] = high[k] = target[k * kLeaf];
                for (std::size_t t = 1; t < kTargets; ++t) {
                    const T x = target[k * kLeaf + t];
                    low[k] = x < low[k] ? x : low[k];
                    high[k] = x > high[k] ? x : high[k];
                }
            }
            RowOf<T, decltype(w)> s0(w), s1(w), s2(w), s3(w);
            for (std::size_t n = 0; n < near_count; ++n) {
                const auto other = static_cast<std::size_t>(near[n]);
                if (d <= kBoxed && !near_box(leaves.boxes + other * 2 * d, low, high, d, reach))
                    continue;
                T kernel[kTargets][kLeaf];
                kernel_values(target, leaves.points + other * d * kLeaf, d, kernel);
                const T* value = values + other * kLeaf * w;
                for (std::size_t l = 0; l < kLeaf; ++l) {
                    s0.add(kernel[0][l], value + l * w);
                    s1.add(kernel[1][l], value + l * w);
                    s2.add(kernel[2][l], value + l * w);
                    s3.add(kernel[3][l], value + l * w);
                }
            }
            s0.store(out + i * w);
            s1.store(out + (i + 1) * w);
            s2.store(out + (i + 2) * w);
            s3.store(out + (i + 3) * w);
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
