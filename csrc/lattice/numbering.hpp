#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/memory.hpp"

namespace crfrnn {

/// Open-addressing map from key to number; numbers count from 0 in order of first insertion.
///
/// A slot is a number alone, so that at most a quarter of the slots need be taken: a search that
/// goes on to a second slot is a branch that the processor mispredicts. The keys that it compares
/// lie in the order of insertion, where neighboring pixels' vertices lie together. The slots exceed
/// the caches, so that a search waits for memory unless its key was announced.
template <typename K>
class Numbering {
public:
    explicit Numbering(std::size_t expected) {
        std::size_t capacity = 1024;
        while (capacity < 8 * expected) capacity *= 2;
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
        if (4 * keys_.size() >= capacity_) grow();
        std::size_t at = key.hash() & (capacity_ - 1);
        for (; slots_[at] != kFree; at = (at + 1) & (capacity_ - 1))
            if (keys_[static_cast<std::size_t>(slots_[at])] == key) return slots_[at];
        slots_[at] = static_cast<std::int32_t>(keys_.size());
        keys_.push_back(key);
        return slots_[at];
    }

    const std::vector<K>& keys() const { return keys_; }

private:
    static constexpr std::int32_t kFree = -1;

    void grow() {
        clear(2 * capacity_);
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            std::size_t at = keys_[i].hash() & (capacity_ - 1);
            while (slots_[at] != kFree) at = (at + 1) & (capacity_ - 1);
            slots_[at] = static_cast<std::int32_t>(i);
        }
    }

    void clear(std::size_t capacity) {
        capacity_ = capacity;
        slots_ = uninitialized<std::int32_t>(capacity);
        std::fill_n(slots_.get(), capacity, kFree);
    }

    std::size_t capacity_ = 0;
    Buffer<std::int32_t> slots_;
    std::vector<K> keys_;
};

}  // namespace crfrnn
