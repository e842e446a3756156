#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace crfrnn {

/// Large blocks that were given back, kept for the next call.
///
/// A call on a photograph fills a hundred megabytes. The system hands memory over page by page and
/// zeroed, which takes as long as two or three steps of the recurrence. Blocks beyond kHeld bytes
/// are kept too, but the system may take their contents when memory runs short.
class Pool {
public:
    static constexpr std::size_t kPage = std::size_t{1} << 21;  // bytes of a large page
    static constexpr std::size_t kHeld = std::size_t{512} << 20;
#if defined(__linux__) && defined(MADV_FREE)
    static constexpr std::size_t kKept = std::size_t{2048} << 20;  // bytes kept at most
#else
    static constexpr std::size_t kKept = kHeld;
#endif

    static Pool& shared() {
        static Pool* const pool = new Pool;  // never destroyed: threads may outlive main
        return *pool;
    }

    /// A block of at least `bytes`, and at most a quarter more; `bytes` becomes its size.
    void* take(std::size_t& bytes) {
        bytes = (bytes + kPage - 1) / kPage * kPage;
        // A fork may copy a locked mutex that no thread of the child unlocks: then the pool rests.
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
            std::size_t best = blocks_.size();
            for (std::size_t i = 0; i < blocks_.size(); ++i) {
                const std::size_t size = blocks_[i].bytes;
                if (size >= bytes && size <= bytes + bytes / 4 &&
                    (best == blocks_.size() || size < blocks_[best].bytes))
                    best = i;
            }
            if (best < blocks_.size()) {
                const Block block = blocks_[best];
                blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(best));
                kept_ -= block.bytes;
                bytes = block.bytes;
                return block.memory;
            }
        }
        void* const memory = ::operator new(bytes, std::align_val_t{kPage});
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        ::madvise(memory, bytes, MADV_HUGEPAGE);  // advice, which may be refused
#endif
        return memory;
    }

    void give(void* memory, std::size_t bytes) noexcept {
        try {
            const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
            if (lock && bytes <= kKept / 2) {
                blocks_.push_back({memory, bytes});
                kept_ += bytes;
#if defined(__linux__) && defined(MADV_FREE)
                if (kept_ > kHeld) ::madvise(memory, bytes, MADV_FREE);
#endif
                while (kept_ > kKept) {  // the oldest first
                    kept_ -= blocks_.front().bytes;
                    release(blocks_.front().memory);
                    blocks_.erase(blocks_.begin());
                }
                return;
            }
        } catch (...) {  // the list of blocks could not grow
        }
        release(memory);
    }

    /// Give all kept blocks back to the system, unless another thread uses the pool.
    void clear() {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock) return;
        for (const Block& block : blocks_) release(block.memory);
        blocks_.clear();
        kept_ = 0;
    }

private:
    struct Block {
        void* memory;
        std::size_t bytes;
    };

    static void release(void* memory) { ::operator delete(memory, std::align_val_t{kPage}); }

    std::mutex mutex_;
    std::vector<Block> blocks_;
    std::size_t kept_ = 0;
};

/// Gives back the memory that `uninitialized` took.
struct Release {
    std::size_t bytes = 0;  ///< of a block of the pool; 0 for a small block, which is not pooled
    void operator()(void* memory) const {
        if (bytes > 0) {
            Pool::shared().give(memory, bytes);
        } else {
            ::operator delete(memory, std::align_val_t{64});
        }
    }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Release>;

/// Memory that is not zeroed. It starts at a cache line, and large blocks lie in large pages: with
/// small ones, misses of the page table's cache take a tenth of the time.
template <typename T>
Buffer<T> uninitialized(std::size_t count) {
    std::size_t bytes = count * sizeof(T);
    if (bytes >= Pool::kPage / 2) {
        void* const memory = Pool::shared().take(bytes);
        return Buffer<T>(static_cast<T*>(memory), Release{bytes});
    }
    return Buffer<T>(static_cast<T*>(::operator new(bytes, std::align_val_t{64})), Release{});
}

}  // namespace crfrnn
