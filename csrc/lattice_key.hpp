#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lattice_build.hpp"
#include "memory.hpp"

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
    friend bool operator==(const Key& a, const Key& b) {
        std::uint64_t different = 0;  // a library's comparison would be a call for each key
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

/// Open-addressing map from key to number; numbers count from 0 in order of first insertion.
template <typename K>
class Numbering {
public:
    explicit Numbering(std::size_t expected) {
        std::size_t capacity = 1024;
        while (capacity < 2 * expected) capacity *= 2;
        clear(capacity);
        keys_.reserve(expected);
    }

    /// Announce that a key will be asked for soon.
    void expect(const K& key) const {
#if defined(__GNUC__)
        __builtin_prefetch(slots_.get() + (key.hash() & (capacity_ - 1)));
#else
        (void)key;
#endif
    }

    std::int32_t number(const K& key) {
        if (2 * keys_.size() >= capacity_) grow();
        Slot& slot = find(key);
        if (slot.number < 0) {
            slot = {key, static_cast<std::int32_t>(keys_.size())};
            keys_.push_back(key);
        }
        return slot.number;
    }

    const std::vector<K>& keys() const { return keys_; }

private:
    struct Slot {  // the key beside its number: one cache line to look at
        K key{};
        std::int32_t number = -1;
    };

    Slot& find(const K& key) {
        const std::size_t mask = capacity_ - 1;
        std::size_t at = key.hash() & mask;
        while (slots_[at].number >= 0 && !(slots_[at].key == key)) at = (at + 1) & mask;
        return slots_[at];
    }

    void grow() {
        clear(2 * capacity_);
        for (std::size_t i = 0; i < keys_.size(); ++i)
            find(keys_[i]) = {keys_[i], static_cast<std::int32_t>(i)};
    }

    void clear(std::size_t capacity) {
        capacity_ = capacity;
        slots_ = uninitialized<Slot>(capacity);
        std::uninitialized_fill_n(slots_.get(), capacity, Slot{});
    }

    std::size_t capacity_ = 0;
    Buffer<Slot> slots_;
    std::vector<K> keys_;
};

}  // namespace crfrnn
