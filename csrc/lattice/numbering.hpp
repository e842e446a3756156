#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/memory.hpp"

namespace crfrnn {

/// Open-addressing map from key to number; numbers count from 0 in order of first insertion.
///
/// At most half of the slots are taken, which keeps searches short. The slots exceed the caches, so
/// that a search waits for memory unless its key was announced.
template <typename K>
class Numbering {
public:
    explicit Numbering(std::size_t expected) {
        std::size_t capacity = 1024;
        while (capacity < 2 * expected) capacity *= 2;
        clear(capacity);
        keys_.reserve(expected);
    }

    /// Announce that the number of a key will be wanted soon.
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
    struct Slot {  // the key beside its number, on one cache line
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
