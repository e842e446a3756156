// Products with band matrices, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <type_traits>

#include "loops/loops.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// Columns that fill the vector registers when kBandRows rows of them are summed up.
constexpr std::size_t kBandColumns = 16;

/// The rows i .. i+Rows-1 of a band matrix, times n values of each source: one block of columns.
///
/// Each source is loaded once for four outputs, which makes arithmetic the limit instead of loads.
/// The four rows of weights reach different sources; the zeros around a row (see `Band`) stand for
/// those that only its companions reach.
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
        RowOf<T, Width> even(n), odd(n);  // two sums: an addition need not wait for the last
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

// Values that one register holds.
#if defined(__AVX__)
constexpr std::size_t kNative = 8;
#else
constexpr std::size_t kNative = 4;
#endif

/// The values of `to` from `done` on, as many as four vectors of L divide: value j is the sum of
/// weights[k] * from[j + k * n]. Returns where it ended.
template <std::size_t L, typename T>
inline std::size_t alike_values(const T* weights, std::size_t taps, std::size_t n, const T* from,
                                T* to, std::size_t done, std::size_t count) {
    for (; done + 4 * L <= count; done += 4 * L) {
        Row<T, L> s0(L), s1(L), s2(L), s3(L);
        const T* source = from + done;
        for (std::size_t k = 0; k < taps; ++k, source += n) {
            s0.add(weights[k], source);
            s1.add(weights[k], source + L);
            s2.add(weights[k], source + 2 * L);
            s3.add(weights[k], source + 3 * L);
        }
        s0.store(to + done);
        s1.store(to + done + L);
        s2.store(to + done + 2 * L);
        s3.store(to + done + 3 * L);
    }
    return done;
}

/// Rows that are alike, from `begin` to a multiple of kBandRows rows after it, times sources that
/// lie side by side. Returns where it ended.
///
/// Equal weights make all outputs one long row, and vectors are full even where n is one. Each sum
/// is added up in the order of `band_rows`, so that it is the same to the bit.
template <typename T>
std::size_t alike_rows(const Band<T>& band, const T* from, T* to, std::size_t n, std::size_t begin,
                       std::size_t end) {
    const std::size_t rows = (end - begin) / kBandRows * kBandRows, taps = 2 * band.radius + 1;
    const T* weights = band.weight + begin * Band<T>::pitch(band.radius) + kBandRows - 1;
    const T* const first = from + (begin - band.radius) * n;
    const std::size_t done = alike_values<kNative>(weights, taps, n, first, to, 0, rows * n);
    alike_values<1>(weights, taps, n, first, to, done, rows * n);  // rows * n is a multiple of 4
    return begin + rows;
}

template <typename T>
void band(const Band<T>& band, const T* from, std::size_t from_step, T* to, std::size_t to_step,
          std::size_t n, std::size_t begin, std::size_t end) {
    constexpr std::size_t block = kBandColumns;
    const std::size_t whole = n / block * block;
    const bool lies_dense = from_step == n && to_step == n;
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
        while (i + kBandRows <= end) {
            if (lies_dense && i >= band.alike_begin && i + kBandRows <= band.alike_end) {
                const std::size_t last = end < band.alike_end ? end : band.alike_end;
                i = alike_rows(band, from, to + (i - begin) * n, n, i, last);
            } else {
                rows(std::integral_constant<std::size_t, kBandRows>(), i);
                i += kBandRows;
            }
        }
        for (; i < end; ++i) rows(std::integral_constant<std::size_t, 1>(), i);
    });
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
