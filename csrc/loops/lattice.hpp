// Splat, blur and slice, for one instruction set; see loops_impl.hpp.
//
// All three read rows at addresses that no processor can foresee. Out of tables several times as
// large as its second cache they wait for memory, not for arithmetic: fewer instructions changed
// nothing, and rows prefetched a few iterations ahead made a step nearly twice as fast. Out of
// smaller tables the prefetches themselves take up to half of the time. So the caller says whether
// a table is `far`.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "loops/lanes.hpp"
#include "loops/loops.hpp"
#include "loops/rows.hpp"

#if defined(__GNUC__)
#define CRFRNN_PREFETCH(address) __builtin_prefetch(address)
#else
#define CRFRNN_PREFETCH(address)
#endif

namespace crfrnn::CRFRNN_ISA {
namespace {

// How far ahead to prefetch: far enough to hide one access to memory, near enough that the rows are
// still cached when their turn comes. A vertex has two neighbors, a point d+1 corners, so that all
// three distances stand for some thirty rows in flight.
constexpr std::size_t kAheadInBlur = 16, kAheadAtPoints = 6;
constexpr std::int32_t kAheadInSplat = 32;

template <typename S>
inline void prefetch_row(const S* row, std::size_t width) {
    for (std::size_t byte = 0; byte < width * sizeof(S); byte += 64)
        CRFRNN_PREFETCH(reinterpret_cast<const char*>(row) + byte);
}

/// A vertex sums up its entries in a register and writes its row once, so that any number of
/// threads share the table without atomics, and the sum does not depend on how many they are.
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

// A function and not a lambda: one that is not inlined reads what it captures anew for each point.
template <bool Far, typename T, typename Width, typename Corners>
void splat_rows(const std::int32_t* vertex, const T* weight, Corners corners, Width w,
                const T* scale, const T* x, T* table, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
        const std::int32_t* rows = vertex + i * corners;
        if (Far && i + kAheadAtPoints < end)
            for (std::size_t r = 0; r < corners; ++r)
                prefetch_row(
                    table + static_cast<std::size_t>(rows[kAheadAtPoints * corners + r]) * w, w);
        const T factor = scale == nullptr ? T(1) : scale[i];
        for_lanes<T, true>(w, [&](auto tag, std::size_t c) {
            using V = decltype(tag);
            const V value = V::all(factor) * V::load(x + (i - begin) * w + c);
            for (std::size_t r = 0; r < corners; ++r) {
                T* const to = table + static_cast<std::size_t>(rows[r]) * w + c;
                (V::load(to) + V::all(weight[i * corners + r]) * value).store(to);
            }
        });
    }
}

/// The same sums in the order of points. Each corner's row is read and written once per point, so
/// that tables which fit the cache win and wide ones lose.
template <typename T>
void splat_points(const std::int32_t* vertex, const T* weight, std::size_t corners,
                  std::size_t width, const T* scale, const T* x, T* table, bool far,
                  std::size_t begin, std::size_t end) {
    with_width(width, [&](auto w) {
        const auto splat = [&](auto count) {
            if (far) {
                splat_rows<true>(vertex, weight, count, w, scale, x, table, begin, end);
            } else {
                splat_rows<false>(vertex, weight, count, w, scale, x, table, begin, end);
            }
        };
        if (corners == 6) {  // a color photograph's: the loop over corners unrolls
            splat(FixedWidth<6>());
        } else {
            splat(corners);
        }
    });
}

/// One axis of the blur, (1/2, 1, 1/2). It sums to two, so that d+1 axes multiply a constant by
/// 2^(d+1). That would soon leave the range of half precision: there the center counts one half,
/// and the slice multiplies by what is missing, 2^(d+1), which is exact.
template <typename T, typename S>
void blur(const std::int32_t* neighbor, std::size_t width, const S* from, S* to, bool far,
          std::size_t begin, std::size_t end) {
    constexpr T center = std::is_same_v<S, T> ? T(1) : T(0.5);
    with_width(width, [&](auto w) {
        const auto blur_one = [&](std::size_t row) {
            const S* here = from + row * w;
            const S* back = from + static_cast<std::size_t>(neighbor[2 * (row - 1)]) * w;
            const S* forth = from + static_cast<std::size_t>(neighbor[2 * (row - 1) + 1]) * w;
            S* out = to + row * w;
            for_lanes<T, true>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V sides = V::load(back + c) + V::load(forth + c);
                const V half = V::all(center / 2) * sides;
                if constexpr (center == T(1)) {
                    (V::load(here + c) + half).store(out + c);
                } else {
                    (V::all(center) * V::load(here + c) + half).store(out + c);
                }
            });
        };
        std::size_t row = begin;
        for (; far && row + kAheadInBlur < end; ++row) {
            const std::int32_t* next = neighbor + 2 * (row + kAheadInBlur - 1);
            prefetch_row(from + static_cast<std::size_t>(next[0]) * w, w);
            prefetch_row(from + static_cast<std::size_t>(next[1]) * w, w);
            blur_one(row);
        }
        for (; row < end; ++row) blur_one(row);
    });
}

/// `blur` between tables that number their rows differently.
template <typename T>
void blur_rows(const std::int32_t* rows, std::size_t width, const T* from, T* to, bool far,
               std::size_t begin, std::size_t end) {
    with_width(width, [&](auto w) {
        const auto blur_one = [&](std::size_t row) {
            const std::int32_t* source = rows + 3 * (row - 1);
            const T* here = from + static_cast<std::size_t>(source[0]) * w;
            const T* back = from + static_cast<std::size_t>(source[1]) * w;
            const T* forth = from + static_cast<std::size_t>(source[2]) * w;
            for_lanes<T, true>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V half = V::all(T(0.5)) * (V::load(back + c) + V::load(forth + c));
                (V::load(here + c) + half).store(to + row * w + c);
            });
        };
        std::size_t row = begin;
        for (; far && row + kAheadInBlur < end; ++row) {
            const std::int32_t* next = rows + 3 * (row + kAheadInBlur - 1);
            for (std::size_t k = 0; k < 3; ++k)
                prefetch_row(from + static_cast<std::size_t>(next[k]) * w, w);
            blur_one(row);
        }
        for (; row < end; ++row) blur_one(row);
    });
}

template <typename T, typename S>
void slice(const std::int32_t* vertex, const T* weight, std::size_t corners, std::size_t width,
           const S* table, T gain, const T* scale, T* out, std::size_t stride, bool far,
           std::size_t begin, std::size_t end) {
    const auto slice_all = [&](auto w, auto count) {
        const auto sum_up = [&](std::size_t i, auto sum) {
            const T factor = scale == nullptr ? gain : gain * scale[i];
            const std::int32_t* rows = vertex + i * count;
            for (std::size_t r = 0; r < count; ++r)
                sum.add(factor * weight[i * count + r],
                        table + static_cast<std::size_t>(rows[r]) * w);
            sum.store(out + (i - begin) * stride);
        };
        const bool prefetches = far && end - begin > kAheadAtPoints;
        const std::size_t last = prefetches ? end - kAheadAtPoints : begin;
        std::size_t i = begin;
        for (; i < last; ++i) {
            const std::int32_t* next = vertex + (i + kAheadAtPoints) * count;
            for (std::size_t r = 0; r < count; ++r)
                prefetch_row(table + static_cast<std::size_t>(next[r]) * w, w);
            sum_up(i, RowOf<T, decltype(w)>(w));
        }
        for (; i < end; ++i) sum_up(i, RowOf<T, decltype(w)>(w));
    };
    with_width(width, [&](auto w) {
        if (corners == 6) {
            slice_all(w, FixedWidth<6>());
        } else {
            slice_all(w, corners);
        }
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
