#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

#include "base/finite.hpp"
#include "base/memory.hpp"
#include "base/threads.hpp"
#include "base/tiles.hpp"
#include "filters/response.hpp"
#include "filters/senders.hpp"
#include "filters/separable.hpp"
#include "filters/term.hpp"
#include "lattice/build.hpp"
#include "lattice/entries.hpp"
#include "lattice/lattice.hpp"

namespace crfrnn {

/// How a filter G is scaled by powers of its response to ones, n = G 1.
enum class Normalization { none, before, after, symmetric };

/// The pixels of an image, or free points.
struct Pixels {
    std::size_t n;
    std::size_t row;             ///< pixels in a row of the grid; n if there is no grid
    const bool* mask = nullptr;  ///< pixels outside send and receive nothing
};

/// A kernel's normalized filter F = D_after G D_before, with all arrays that it needs. It does not
/// change once it is built, so any number of inferences and threads may share it.
///
///     symmetric  D_before = D_after = n^-1/2   F stays symmetric, its largest eigenvalue is 1
///     after      D_after = n^-1                rows sum to one: a message is a weighted mean
///     before     D_before = n^-1               columns sum to one: pixels send the same total
template <typename T>
class KernelFilter {
public:
    /// On a permutohedral lattice around points, n x d, divided by their bandwidths.
    /// @throws std::invalid_argument as `build_lattice`
    static KernelFilter on_lattice(const T* points, std::size_t d, const Pixels& pixels,
                                   Normalization normalization, std::size_t threads) {
        KernelFilter filter(pixels);
        const std::size_t corners = pixels.n * (d + 1);
        filter.vertex_ = uninitialized<std::int32_t>(corners);
        filter.weight_ = uninitialized<T>(corners);
        filter.entries_ = std::make_unique<LazyEntries>(threads);
        filter.tables_ =
            build_lattice(points, pixels.n, d, filter.vertex_.get(), filter.weight_.get(), threads);
        filter.term_.gaussian = Lattice<T>{filter.vertex_.get(),
                                           filter.weight_.get(),
                                           filter.tables_.neighbor.get(),
                                           nullptr,
                                           nullptr,
                                           pixels.n,
                                           d,
                                           filter.tables_.vertices,
                                           2 * filter.tables_.vertices,
                                           filter.entries_.get()};
        filter.normalize(normalization, pixels.mask, threads);
        return filter;
    }

    /// On a lattice around the points of free pixels and of what clamped ones send from. Its points
    /// are fewer than the pixels; `member` tells which is whose.
    static KernelFilter on_lattice(Senders<T> senders, std::size_t d, Normalization normalization,
                                   std::size_t threads) {
        const Pixels points{senders.count, senders.count};
        KernelFilter filter =
            on_lattice(senders.points.get(), d, points, Normalization::none, threads);
        filter.mask_ = std::move(senders.share);
        filter.member_ = std::move(senders.member);
        filter.term_.before = filter.mask_.get();
        if (normalization == Normalization::none) return filter;
        filter.scale_ = uninitialized<T>(senders.count);
        filter.shared_ = uninitialized<T>(senders.count);
        const double power = normalization == Normalization::symmetric ? -0.5 : -1.0;
        response(filter.term_, filter.n_, filter.row_, power, filter.scale_.get(), threads);
        for (std::size_t i = 0; i < senders.count; ++i)
            filter.shared_[i] = filter.scale_[i] * filter.mask_[i];
        if (normalization != Normalization::before) filter.term_.after = filter.scale_.get();
        if (normalization != Normalization::after) filter.term_.before = filter.shared_.get();
        return filter;
    }

    /// The Gaussian sum itself over points, n x d.
    /// @param tolerance kernel value below which a pair may be left out
    /// @throws std::invalid_argument if a point is not finite
    static KernelFilter exact(Buffer<T> points, std::size_t d, double tolerance,
                              const Pixels& pixels, Normalization normalization,
                              std::size_t threads) {
        KernelFilter filter(pixels);
        if (!all_finite(points.get(), pixels.n * d, threads))
            throw std::invalid_argument("features must be finite");
        filter.weight_ = std::move(points);
        filter.term_.gaussian = PointSet<T>{filter.weight_.get(), pixels.n, d, tolerance};
        filter.normalize(normalization, pixels.mask, threads);
        return filter;
    }

    /// A Gaussian of the position, as a convolution along each axis of the grid.
    /// @param bandwidths one per axis of the grid, in its order
    /// @param reach      the taps end at this many bandwidths
    static KernelFilter on_grid(const std::vector<std::size_t>& sizes,
                                const std::vector<double>& bandwidths, double reach,
                                const Pixels& pixels, Normalization normalization,
                                std::size_t threads) {
        KernelFilter filter(pixels);
        // Where every pixel takes part, the normalization of a separable kernel is separable, too.
        const bool folds = pixels.mask == nullptr;
        std::vector<BandMatrix<T>> bands;
        for (std::size_t axis = 0; axis < sizes.size(); ++axis)
            bands.push_back(band(sizes[axis], bandwidths[axis], reach,
                                 folds ? normalization : Normalization::none));
        filter.term_.gaussian = std::move(bands);
        filter.normalize(folds ? Normalization::none : normalization, pixels.mask, threads);
        return filter;
    }

    /// The number of points.
    std::size_t count() const { return n_; }

    /// The point of each pixel; null if every pixel has its own.
    const std::int32_t* member() const { return member_.get(); }

    /// How many pixels each point stands for; null where each is one.
    const T* share() const { return member_ == nullptr ? nullptr : mask_.get(); }

    /// The filter as the recurrence takes it.
    Term<T> term() const { return term_; }

    /// The response to ones, F 1. The first call computes it.
    const T* total(std::size_t threads) const {
        const std::lock_guard<std::mutex> lock(lazy_->mutex);
        if (!lazy_->total) {
            auto total = uninitialized<T>(n_);
            response(term_, n_, row_, 1.0, total.get(), threads);
            lazy_->total = std::move(total);
        }
        return lazy_->total.get();
    }

    /// The filter, with its lattice values scaled to fit float16, which reaches 65504.
    ///
    /// A vertex sums up to n marginals of at most 1. Where many points meet, the response to ones
    /// is just as large, and the factors of a normalized input keep the sum small. Any other input
    /// is divided by a power of two, and the output multiplied by it: only exponents change, so no
    /// digit is lost.
    Term<T> half_term() const {
        Term<T> term = term_;
        term.allows_half = true;
        const double excess = std::ceil(std::log2(std::max(static_cast<double>(n_) / 32768, 1.0)));
        if (!std::holds_alternative<Lattice<T>>(term.gaussian) || term.before || excess == 0)
            return term;
        const std::lock_guard<std::mutex> lock(lazy_->mutex);
        if (!lazy_->half_before) {
            const T factor = static_cast<T>(std::exp2(excess));
            lazy_->half_before = uninitialized<T>(n_);
            lazy_->half_after = uninitialized<T>(n_);
            for (std::size_t i = 0; i < n_; ++i) {
                lazy_->half_before.get()[i] = 1 / factor;
                lazy_->half_after.get()[i] = factor * (term.after ? term.after[i] : T(1));
            }
        }
        term.before = lazy_->half_before.get();
        term.after = lazy_->half_after.get();
        return term;
    }

    /// out = F q, for q and out of channels x n.
    void apply(const T* q, std::size_t channels, T* out, std::size_t threads) const {
        const Tiles tiles(n_, row_, 0);
        for (std::size_t done = 0; done < channels; done += kGroup) {
            const std::size_t count = std::min(kGroup, channels - done), width = padded(count);
            TermFilter<T> filter(term_, n_, row_, width, false);
            const auto rows = uninitialized<T>(n_ * width);
            const T* const from = q + done * n_;
            T* const to = out + done * n_;
            Team::run(threads_for(n_ * width, threads), [&](Team& team) {
                filter.load(team);
                tiles.for_each(
                    team, [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                        for (std::size_t c = 0; c < width; ++c)
                            for (std::size_t i = begin; i < end; ++i)
                                rows[i * width + c] = c < count ? from[c * n_ + i] : T(0);
                    });
                filter.prepare(team, rows.get());
                const auto tile = uninitialized<T>(kTile * width);
                tiles.for_each(team,
                               [&](std::size_t, std::size_t begin, std::size_t end, std::size_t) {
                                   filter.tile(tile.get(), begin, end);
                                   for (std::size_t c = 0; c < count; ++c)
                                       for (std::size_t i = begin; i < end; ++i)
                                           to[c * n_ + i] = tile[(i - begin) * width + c];
                               });
            });
        }
    }

private:
    /// Values that are computed when they are first needed.
    struct Lazy {
        std::mutex mutex;
        Buffer<T> total, half_before, half_after;
    };

    explicit KernelFilter(const Pixels& pixels)
        : n_(pixels.n), row_(pixels.row), lazy_(std::make_unique<Lazy>()) {}

    void normalize(Normalization normalization, const bool* mask, std::size_t threads) {
        if (mask != nullptr) {
            mask_ = uninitialized<T>(n_);
            std::transform(mask, mask + n_, mask_.get(), [](bool in) { return T(in); });
            term_.before = term_.after = mask_.get();  // a side that is not normalized keeps it
        }
        if (normalization == Normalization::none) return;
        Term<T> inside = term_;
        inside.after = nullptr;
        scale_ = uninitialized<T>(n_);
        const double power = normalization == Normalization::symmetric ? -0.5 : -1.0;
        response(inside, n_, row_, power, scale_.get(), threads);
        // Outside a mask a response is zero, and its inverse large but finite: zero times it is 0.
        for (std::size_t i = 0; i < n_ && mask != nullptr; ++i) scale_[i] *= mask_[i];
        if (normalization != Normalization::before) term_.after = scale_.get();
        if (normalization != Normalization::after) term_.before = scale_.get();
    }

    /// The normalized Gaussian along one axis, rounded once from double precision.
    static BandMatrix<T> band(std::size_t size, double bandwidth, double reach,
                              Normalization normalization) {
        const double wanted = std::ceil(reach * bandwidth), most = static_cast<double>(size - 1);
        const std::size_t radius = static_cast<std::size_t>(std::min(wanted, most));
        const std::size_t taps = 2 * radius + 1;
        const auto inside = [&](std::size_t i, std::size_t k) {
            return i + k >= radius && i + k - radius < size;
        };
        std::vector<double> gauss(taps), before(size, 1.0), after(size, 1.0);
        for (std::size_t k = 0; k < taps; ++k) {
            const double distance = static_cast<double>(k) - static_cast<double>(radius);
            gauss[k] = std::exp(-0.5 * (distance / bandwidth) * (distance / bandwidth));
        }
        for (std::size_t i = 0; i < size && normalization != Normalization::none; ++i) {
            double sum = 0;
            for (std::size_t k = 0; k < taps; ++k) sum += inside(i, k) ? gauss[k] : 0.0;
            const double scale = normalization == Normalization::symmetric ? std::sqrt(sum) : sum;
            if (normalization != Normalization::before) after[i] = 1 / scale;
            if (normalization != Normalization::after) before[i] = 1 / scale;
        }
        std::vector<T> weight(size * taps, T(0));
        for (std::size_t i = 0; i < size; ++i)
            for (std::size_t k = 0; k < taps; ++k)
                if (inside(i, k))
                    weight[i * taps + k] =
                        static_cast<T>(gauss[k] * after[i] * before[i + k - radius]);
        return BandMatrix<T>(weight.data(), size, radius);
    }

    std::size_t n_, row_;
    Term<T> term_;
    Buffer<std::int32_t> vertex_;
    Buffer<T> weight_;  // of the lattice; or the points
    LatticeTables tables_;
    std::unique_ptr<LazyEntries> entries_;
    Buffer<T> mask_;    // as numbers; or how many pixels each point stands for
    Buffer<T> scale_;   // what normalizes, zero outside the mask
    Buffer<T> shared_;  // the product of both
    Buffer<std::int32_t> member_;
    std::unique_ptr<Lazy> lazy_;
};

}  // namespace crfrnn
