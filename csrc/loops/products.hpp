// Products of pixels' rows with class matrices, for one instruction set; see loops_impl.hpp.
//
// A full W_k or A costs C^2 multiplications per pixel where Potts costs C. Registers hold a block
// of four output rows while the inputs go by: one load then serves four products.

#pragma once

#include <cstddef>
#include <type_traits>

#include "loops/loops.hpp"
#include "loops/rows.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

/// Where the factors of a product of matrices lie: that of output j and input k, from `first` on.
template <typename T>
struct Factors {
    const T* first;
    std::size_t output_step, input_step;
};

/// Columns of a product that fill the vector registers when four rows of them are summed up.
template <typename T>
constexpr std::size_t kProductColumns = 96 / sizeof(T);

/// m[j] = from[j] + sum over k of factor(j, k) * x[k] for one, two or four rows j of a block of
/// columns, so that each row of x is loaded once for all. A null `from` is zero.
template <std::size_t Rows, typename T, typename Width>
inline void product_rows(const Factors<T>& factors, const T* x, std::size_t inputs, const T* from,
                         T* m, Width columns, std::size_t stride) {
    RowOf<T, Width> s0(columns), s1(columns), s2(columns), s3(columns);
    if (from != nullptr) {
        s0.add(T(1), from);
        if (Rows > 1) s1.add(T(1), from + stride);
        if (Rows > 2) s2.add(T(1), from + 2 * stride);
        if (Rows > 2) s3.add(T(1), from + 3 * stride);
    }
    for (std::size_t k = 0; k < inputs; ++k) {
        const T* f = factors.first + k * factors.input_step;
        s0.add(f[0], x + k * stride);
        if (Rows > 1) s1.add(f[factors.output_step], x + k * stride);
        if (Rows > 2) s2.add(f[2 * factors.output_step], x + k * stride);
        if (Rows > 2) s3.add(f[3 * factors.output_step], x + k * stride);
    }
    s0.store(m);
    if (Rows > 1) s1.store(m + stride);
    if (Rows > 2) s2.store(m + 2 * stride);
    if (Rows > 2) s3.store(m + 3 * stride);
}

/// The same for all columns of `outputs` rows.
template <typename T>
void product(const Factors<T>& factors, const T* x, std::size_t inputs, const T* from, T* m,
             std::size_t stride, std::size_t outputs) {
    constexpr std::size_t block = kProductColumns<T>;
    const std::size_t whole = stride / block * block;
    with_width(stride - whole, [&](auto rest) {
        const auto columns = [&](auto count, std::size_t j) {
            constexpr std::size_t together = decltype(count)::value;
            const Factors<T> these{factors.first + j * factors.output_step, factors.output_step,
                                   factors.input_step};
            const auto multiply = [&](auto width, std::size_t at) {
                product_rows<together>(these, x + at, inputs,
                                       from == nullptr ? from : from + j * stride + at,
                                       m + j * stride + at, width, stride);
            };
            for (std::size_t at = 0; at < whole; at += block) multiply(FixedWidth<block>(), at);
            if (rest > 0) multiply(rest, whole);
        };
        std::size_t j = 0;
        for (; j + 4 <= outputs; j += 4) columns(std::integral_constant<std::size_t, 4>(), j);
        for (; j + 2 <= outputs; j += 2) columns(std::integral_constant<std::size_t, 2>(), j);
        if (j < outputs) columns(std::integral_constant<std::size_t, 1>(), j);
    });
}

template <typename T>
void mix(const T* f, std::size_t inputs, const T* matrix, const T* from, T* m, std::size_t stride,
         std::size_t rows) {
    product<T>({f, stride, 1}, matrix, inputs, from, m, stride, rows);
}

template <typename T>
void outer(const T* r, const T* q, T* sums, std::size_t stride, std::size_t count,
           std::size_t rows) {
    product<T>({r, 1, stride}, q, rows, sums, sums, stride, count);
}

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
