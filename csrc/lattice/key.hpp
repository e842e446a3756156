#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "lattice/build.hpp"

namespace crfrnn {

/// A vertex: its first D coordinates, packed as bit fields into W words. The last coordinate
/// follows, because all of them sum to zero.
///
/// A word is the sum of its fields, each times a power of two. So the sum of two words holds the
/// sums of the fields, negative ones included, as long as each result fits its field. Fields are
/// wide enough for every vertex and its neighbors: a step to a neighbor, or to the next corner of a
/// simplex, is one addition per word. The order of words is the lexicographic order of their
/// fields, and adding a constant keeps it.
template <std::size_t W>
struct Key {
    std::array<std::uint64_t, W> word{};

    friend Key operator+(Key a, const Key& b) {
        for (std::size_t w = 0; w < W; ++w) a.word[w] += b.word[w];
        return a;
    }
    friend Key operator-(Key a, const Key& b) {
        for (std::size_t w = 0; w < W; ++w) a.word[w] -= b.word[w];
        return a;
    }
    friend bool operator==(const Key& a, const Key& b) {
        std::uint64_t different = 0;  // std::array's comparison would call memcmp
        for (std::size_t w = 0; w < W; ++w) different |= a.word[w] ^ b.word[w];
        return different == 0;
    }
    friend bool operator<(const Key& a, const Key& b) {
        for (std::size_t w = 0; w + 1 < W; ++w)
            if (a.word[w] != b.word[w]) return a.word[w] < b.word[w];
        return a.word[W - 1] < b.word[W - 1];
    }

    std::size_t hash() const {
        std::uint64_t h = 0;
        for (const std::uint64_t w : word) {
            h = (h ^ w) * 0x9E3779B97F4A7C15u;
            h ^= h >> 32;
        }
        return static_cast<std::size_t>(h);
    }
};

/// Where each coordinate's bit field lies.
struct Layout {
    std::size_t words = 1;
    std::array<std::size_t, kMaxDimensions> word{};
    std::array<unsigned, kMaxDimensions> shift{};
    std::array<std::int64_t, kMaxDimensions> low{};
    unsigned bits = 0;  // used in the fullest word
};

}  // namespace crfrnn
