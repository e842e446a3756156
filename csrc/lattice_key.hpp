#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lattice_build.hpp"

namespace crfrnn {

/// A vertex: its first D coordinates, packed as bit fields into W words (the last follows from the
/// sum of zero). Fields have room to spare on both sides, so a step to a neighbour, or to the next
/// corner of a simplex, is one addition per word that never carries from field to field.
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
    friend bool operator==(const Key& a, const Key& b) { return a.word == b.word; }
    friend bool operator<(const Key& a, const Key& b) { return a.word < b.word; }

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

/// Open-addressing map from key to row number; rows count from 1 in order of first insertion.
template <typename K>
class Numbering {
public:
    explicit Numbering(std::size_t expected) {
        std::size_t capacity = 1024;
        while (capacity < 2 * expected) capacity *= 2;
        slots_.assign(capacity, 0);
    }

    std::int32_t row(const K& key) {
        if (2 * keys_.size() >= slots_.size()) grow();
        std::size_t slot = key.hash() & (slots_.size() - 1);
        for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1))
            if (keys_[static_cast<std::size_t>(slots_[slot]) - 1] == key) return slots_[slot];
        keys_.push_back(key);
        return slots_[slot] = static_cast<std::int32_t>(keys_.size());
    }

    const std::vector<K>& keys() const { return keys_; }

private:
    void grow() {
        std::vector<std::int32_t> slots(slots_.size() * 2, 0);
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            std::size_t slot = keys_[i].hash() & (slots.size() - 1);
            while (slots[slot] != 0) slot = (slot + 1) & (slots.size() - 1);
            slots[slot] = static_cast<std::int32_t>(i + 1);
        }
        slots_.swap(slots);
    }

    std::vector<std::int32_t> slots_;
    std::vector<K> keys_;
};

}  // namespace crfrnn
