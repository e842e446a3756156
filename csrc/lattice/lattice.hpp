#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace crfrnn {

/// One image's permutohedral lattice (Adams, Baek & Davis, 2010), as borrowed arrays.
///
/// Rows of a value table are 1..m; row 0 is zero and stands for a vertex that does not exist.
template <typename T>
struct Lattice {
    const std::int32_t* vertex;    ///< n x (d+1)
    const T* weight;               ///< n x (d+1)
    const std::int32_t* neighbor;  ///< for axis a: row pairs from neighbor + a * neighbor_stride
    const std::int32_t* entry;     ///< n*(d+1), sorted by vertex
    const std::int32_t* offset;    ///< m+1
    std::size_t n, d, m, neighbor_stride;

    /// Scales the slice so that the filter stands for exp(-|f_i - f_j|^2 / 2), which is one at i =
    /// j.
    ///
    /// A point on a vertex puts its value there and reads it there, after d+1 blurs with
    /// (1/2, 1, 1/2). Its value has come back along the paths of e_a = -1, 0 or 1 steps on each
    /// axis a that end where they began. The only linear relation of the axes' steps n_a is that
    /// they sum to zero, so these paths have all e_a equal: no step, with weight 1, or one step
    /// forth or back on every axis, with weight 2^-(d+1) each. Together they weigh 1 + 2^-d.
    T gain() const { return static_cast<T>(1.0 / (1.0 + std::pow(2.0, -static_cast<double>(d)))); }
};

}  // namespace crfrnn
