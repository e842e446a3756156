#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/threads.hpp"
#include "loops/loops.hpp"

namespace crfrnn {

/// A Gaussian along one axis of a grid, as a band matrix: row i weighs the sources i-radius ..
/// i+radius. On a grid, exp(-|x|^2/2) is a product over the axes, so that K^2 weights per pixel
/// become 2K. The constructor copies rows of 2*radius+1 weights and puts zeros around them.
template <typename T>
class BandMatrix {
public:
    BandMatrix(const T* weight, std::size_t size, std::size_t radius)
        : weight_(size * Band<T>::pitch(radius), T(0)), size_(size), radius_(radius) {
        for (std::size_t i = 0; i < size; ++i)
            std::copy_n(weight + i * (2 * radius + 1), 2 * radius + 1,
                        &weight_[i * Band<T>::pitch(radius) + kBandRows - 1]);
        if (size < 2 * radius + 1) return;
        const std::size_t middle = size / 2;
        const auto is_alike = [&](std::size_t i) {
            return std::equal(weight + i * (2 * radius + 1), weight + (i + 1) * (2 * radius + 1),
                              weight + middle * (2 * radius + 1));
        };
        alike_begin_ = alike_end_ = middle;
        while (alike_begin_ > radius && is_alike(alike_begin_ - 1)) --alike_begin_;
        while (alike_end_ + radius < size && is_alike(alike_end_)) ++alike_end_;
    }

    Band<T> view() const { return {weight_.data(), size_, radius_, alike_begin_, alike_end_}; }
    std::size_t size() const { return size_; }

private:
    std::vector<T> weight_;
    std::size_t size_, radius_, alike_begin_ = 0, alike_end_ = 0;
};

/// Apply a band matrix along one axis of an array seen as outer x size x inner. All workers call.
template <typename T>
void apply_band(Team& team, const Band<T>& band, const T* from, T* to, std::size_t outer,
                std::size_t inner) {
    // Values; 2*radius+1 rows of a strip stay in the first cache until all outputs have used them.
    constexpr std::size_t strip = 256;
    const std::size_t strips = (inner + strip - 1) / strip;
    team.for_each(outer * strips, [&](std::size_t job) {
        const std::size_t at = job / strips * band.size * inner + job % strips * strip;
        const std::size_t left = inner - job % strips * strip;
        loops<T>().band(band, from + at, inner, to + at, inner, left < strip ? left : strip, 0,
                        band.size);
    });
}

/// Apply one band matrix per axis to an array of batch x sizes x channels.
template <typename T>
void separable(const T* values, T* out, std::size_t batch, const std::vector<BandMatrix<T>>& bands,
               std::size_t channels, std::size_t threads) {
    std::size_t total = batch * channels;
    for (const auto& band : bands) total *= band.size();
    std::vector<T> spare(bands.size() > 1 ? total : 0);
    Team::run(threads, [&](Team& team) {
        const T* from = values;
        T* to = bands.size() % 2 == 1 ? out : spare.data();  // so that the last pass ends in `out`
        std::size_t outer = batch, inner = total / batch;
        for (const auto& band : bands) {
            inner /= band.size();
            apply_band(team, band.view(), from, to, outer, inner);
            outer *= band.size();
            from = to;
            to = to == out ? spare.data() : out;
        }
    });
}

}  // namespace crfrnn
