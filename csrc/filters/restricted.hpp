#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/threads.hpp"

namespace crfrnn {

/// A kernel's filter between the free pixels of an image, where all other pixels are clamped.
///
/// Filters are linear: F q is F of the clamped marginals, which never change, plus F of the free
/// ones. The first part is computed once. What an update costs then follows the free pixels.
///
/// Rows are those of the free pixels, in ascending order of the pixels.
template <typename T>
class Restricted {
public:
    Restricted() = default;
    Restricted(const Restricted&) = delete;
    Restricted& operator=(const Restricted&) = delete;
    virtual ~Restricted() = default;

    /// Filter rows of marginals as far as possible before single tiles are asked for. All workers
    /// call.
    virtual void prepare(Team& team, const T* values) = 0;

    /// Filtered rows begin..end, with what the clamped pixels send.
    virtual void tile(T* out, std::size_t begin, std::size_t end) const = 0;
};

/// The free pixels of an image in ascending order.
using FreePixels = std::vector<std::int32_t>;

/// Call `body(begin, end)` for all ranges of rows whose pixels are consecutive and lie in one row
/// of the grid.
template <typename Body>
void for_each_run(const FreePixels& free, std::size_t row, std::size_t begin, std::size_t end,
                  Body&& body) {
    while (begin < end) {
        std::size_t next = begin + 1;
        while (next < end && free[next] == free[next - 1] + 1 &&
               static_cast<std::size_t>(free[next]) % row != 0)
            ++next;
        body(begin, next);
        begin = next;
    }
}

/// The values of all pixels that belong to free ones; empty where there are none.
template <typename T>
std::vector<T> gathered(const T* values, const FreePixels& free) {
    std::vector<T> found;
    if (values == nullptr) return found;
    found.reserve(free.size());
    for (const std::int32_t pixel : free) found.push_back(values[pixel]);
    return found;
}

/// A null pointer for no values.
template <typename T>
const T* or_null(const std::vector<T>& values) {
    return values.empty() ? nullptr : values.data();
}

}  // namespace crfrnn
