#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/memory.hpp"

namespace crfrnn {

/// A key and its number in some `Numbering`.
template <typename K>
struct Numbered {
    K key;
    std::int32_t number;
};

template <typename K>
struct SortedKeys {
    Buffer<Numbered<K>> items;
    std::size_t count = 0;
};

/// Keys in ascending order with their numbers. Radix sort is linear in their count, and keys have
/// few digits, because bit fields are as narrow as the coordinates allow.
///
/// @param bits used in a key's fullest word
template <typename K>
SortedKeys<K> sorted(const std::vector<K>& keys, unsigned bits) {
    constexpr unsigned digit = 11;
    const std::size_t count = keys.size();
    auto from = uninitialized<Numbered<K>>(count), to = uninitialized<Numbered<K>>(count);
    for (std::size_t i = 0; i < count; ++i) from[i] = {keys[i], static_cast<std::int32_t>(i)};
    for (std::size_t w = keys[0].word.size(); w-- > 0;) {
        for (unsigned shift = 0; shift < bits; shift += digit) {
            std::array<std::size_t, (1u << digit) + 1> begin{};
            const auto bucket = [&](const K& key) {
                return static_cast<std::size_t>(key.word[w] >> shift) & ((1u << digit) - 1);
            };
            for (std::size_t i = 0; i < count; ++i) ++begin[bucket(from[i].key) + 1];
            for (std::size_t b = 1; b < begin.size(); ++b) begin[b] += begin[b - 1];
            for (std::size_t i = 0; i < count; ++i) to[begin[bucket(from[i].key)]++] = from[i];
            from.swap(to);
        }
    }
    return {std::move(from), count};
}

/// All keys of two sorted lists, sorted and without repetitions.
template <typename K>
std::vector<K> merge(const std::vector<K>& left, const std::vector<K>& right) {
    std::vector<K> all(left.size() + right.size());
    std::size_t i = 0, j = 0, count = 0;
    while (i < left.size() && j < right.size()) {
        const bool takes_left = !(right[j] < left[i]), takes_right = !(left[i] < right[j]);
        all[count++] = takes_left ? left[i] : right[j];
        i += takes_left ? 1 : 0;
        j += takes_right ? 1 : 0;
    }
    const auto rest = std::copy(left.begin() + static_cast<std::ptrdiff_t>(i), left.end(),
                                all.begin() + static_cast<std::ptrdiff_t>(count));
    all.erase(std::copy(right.begin() + static_cast<std::ptrdiff_t>(j), right.end(), rest),
              all.end());
    return all;
}

}  // namespace crfrnn
