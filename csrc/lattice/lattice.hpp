#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace crfrnn {

class LazyEntries;

/// Largest tables, in bytes, that are read without prefetching: by points, and by blurs, which read
/// them in ascending order. They exceed the second cache, which has 1 MB where they were measured,
/// because prefetching costs more than a few waits.
constexpr std::size_t kNearPoints = 2 << 20, kNearRows = 6 << 20;

/// One image's permutohedral lattice (Adams, Baek & Davis, 2010), as borrowed arrays.
///
/// Rows of a value table are 1..m; row 0 is zero and stands for a vertex that does not exist.
template <typename T>
struct Lattice {
    const std::int32_t* vertex;    ///< n x (d+1)
    const T* weight;               ///< n x (d+1)
    const std::int32_t* neighbor;  ///< for axis a: row pairs from neighbor + a * neighbor_stride
    const std::int32_t* entry;     ///< n*(d+1), sorted by vertex; null until `lazy` completes it
    const std::int32_t* offset;    ///< m+1, like `entry`
    std::size_t n, d, m, neighbor_stride;
    LazyEntries* lazy = nullptr;

    /// Scales the slice so that the filter approximates exp(-|f_i - f_j|^2 / 2), 1 for i = j.
    ///
    /// A point that lies on a vertex leaves its value there and reads it after d+1 blurs with
    /// (1/2, 1, 1/2). What it reads of itself arrives on closed paths, with e_a = -1, 0 or 1 steps
    /// on each axis a. The steps n_a of the d+1 axes sum to zero, their only linear relation, so a
    /// path is closed if all e_a are equal. Staying has the weight 1, a step forth on every axis
    /// 2^-(d+1), a step back on every axis 2^-(d+1): together 1 + 2^-d.
    T gain() const { return static_cast<T>(1.0 / (1.0 + std::pow(2.0, -static_cast<double>(d)))); }
};

}  // namespace crfrnn
