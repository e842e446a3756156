#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/threads.hpp"

namespace crfrnn {

/// Pixels handled together. A step writes a tile's messages, reads them for the logits, and reads
/// those for the softmax: 256 rows of 24 floats are 24 KB each, and three kinds of rows stay in the
/// second cache meanwhile.
constexpr std::size_t kTile = 256;

/// A grid's pixels cut into tiles, each within one row, for a team to share.
class Tiles {
public:
    /// @param row   pixels in a row of the grid
    /// @param parts number of consecutive lists of tiles that are handed out as a whole, so that a
    ///              tile's part does not depend on the threads' timing; 0 hands out single tiles
    Tiles(std::size_t n, std::size_t row, std::size_t parts) : parts_(parts) {
        const std::size_t per_row = (row + kTile - 1) / kTile;
        for (std::size_t start = 0; start < n; start += row)
            for (std::size_t t = 0; t < per_row; ++t)
                tiles_.push_back({start + t * kTile, start + std::min(row, (t + 1) * kTile)});
    }

    std::size_t count() const { return tiles_.size(); }
    std::size_t begin(std::size_t i) const { return tiles_[i].begin; }
    std::size_t end(std::size_t i) const { return tiles_[i].end; }

    /// Call `body(tile, begin, end, part)` for each tile. All workers call.
    template <typename Body>
    void for_each(Team& team, Body&& body) const {
        const std::size_t jobs = parts_ > 0 ? parts_ : tiles_.size();
        team.for_each(jobs, [&](std::size_t job) {
            for (std::size_t i = job * count() / jobs; i < (job + 1) * count() / jobs; ++i)
                body(i, tiles_[i].begin, tiles_[i].end, job);
        });
    }

private:
    struct Tile {
        std::size_t begin, end;
    };
    std::vector<Tile> tiles_;
    std::size_t parts_;
};

}  // namespace crfrnn
