#pragma once

#include <cstddef>
#include <cstdint>

#include "base/memory.hpp"

namespace crfrnn {

/// Most feature dimensions a lattice takes; beyond it the exact filter is the better tool anyway.
constexpr std::size_t kMaxDimensions = 32;

/// The part of a built lattice whose size is known only afterwards (M vertices).
struct LatticeTables {
    std::size_t vertices = 0;
    /// (D+1) x M x 2 row numbers; rows start at 1, 0 is "none"
    Buffer<std::int32_t> neighbor;
};

/// Build the permutohedral lattice of Adams, Baek & Davis (2010) around n points in d dimensions.
///
/// Vertices are numbered in ascending order of their coordinates. A neighbor is a constant step
/// away, so that a blur over ascending vertices reads the rows of both neighbors in ascending
/// order, too: three streams from front to back instead of accesses at random. The order depends
/// neither on the order of the points nor on the number of threads.
///
/// @param features n x d, row-major, already divided by the bandwidths
/// @param vertex   out, n x (d+1): rows (1..M) of the corners of the simplex around each point
/// @param weight   out, n x (d+1): their barycentric weights
/// @throws std::invalid_argument if a feature is not finite or too large for exact vertex keys
template <typename T>
LatticeTables build_lattice(const T* features, std::size_t n, std::size_t d, std::int32_t* vertex,
                            T* weight, std::size_t threads);

}  // namespace crfrnn
