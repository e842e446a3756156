#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/threads.hpp"
#include "crf/class_peaks.hpp"
#include "crf/message_peaks.hpp"
#include "filters/term.hpp"

namespace crfrnn {

/// The classes that take part in an inference, and an upper bound, in logits, of every message to
/// the others. No classes are listed if all take part.
struct Certificate {
    std::vector<std::size_t> kept;
    double bound = 0;
};

/// Largest message, in logits, that a class may receive at any pixel in any step to be left out.
constexpr double kLargestMessage = 0.5;

/// Logits by which a class stays below the likeliest one even with such a message. The proof needs
/// no margin, but rounding may use up part of it: about a thousandth for half-precision messages.
constexpr double kMargin = 0.01;

/// Groups of classes to test, from each class's largest ratio to the likeliest class. The proof in
/// `certify` needs a ratio of at most exp(-kLargestMessage), here with a margin. Classes below a
/// twentieth are tested together, with one test, and so are classes of equal ratios where there are
/// no tests for all of them: their order must not decide which are left out.
inline std::vector<std::vector<std::size_t>> testable_groups(const std::vector<double>& peaks) {
    constexpr double rare = 0.05;
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t c = 0; c < peaks.size(); ++c)
        if (peaks[c] <= std::exp(-kLargestMessage - kMargin)) order.emplace_back(peaks[c], c);
    std::sort(order.begin(), order.end());
    std::vector<std::vector<std::size_t>> groups;
    for (std::size_t i = 0; i < order.size();) {
        const double peak = order[i].first;
        std::size_t end = i + 1;
        while (end < order.size() && (order[end].first == peak || order[end].first < rare)) ++end;
        const bool fits = peak >= rare && groups.size() + (end - i) <= kMessageGroups;
        if (!fits && groups.size() == kMessageGroups) break;
        for (std::size_t k = i; k < end; ++k) {
            if (k == i || fits) groups.emplace_back();
            groups.back().push_back(order[k].second);
        }
        i = end;
    }
    return groups;
}

/// Find the classes of a Potts model with weights >= 0 that provably stay unlikely.
///
/// A class is left out if every message to it stays below kLargestMessage, and its marginals are
/// everywhere so far below those of the likeliest class that such a message cannot make it the
/// likeliest. This is about the inference with all classes. Nothing is proven about the kept
/// classes. A dropped message changes the softmax's denominator, and so their marginals. The next
/// steps may multiply that change, and a near tie between kept classes may be decided differently.
///
/// Proof, with filters F whose entries are not negative:
///
/// 1. Potts logits are z_t(c) = u(c) + m_t(c), up to a constant per pixel, and every m_t >= 0. So
///    Q_t(c) = e^(u(c) + m_t(c)) / sum over d of e^(u(d) + m_t(d)) <= e^m_t(c) Q_0(c).
/// 2. F is monotone. If m_t(c) <= M_t at all pixels, then m_(t+1)(c) = sum of w F Q_t(c)
///    <= e^M_t sum of w F Q_0(c) <= e^M_t M_1, where M_1 bounds the first message.
/// 3. Let d be the likeliest class of a pixel, and Q_0(c) <= e^-L Q_0(d), so that u(c) <= u(d) - L.
///    With m_t(c) <= L and m_t(d) >= 0, u(c) + m_t(c) <= u(d) <= u(d) + m_t(d): c never wins.
///
/// A group of classes is tested as a single class, with the largest logit of its members at each
/// pixel and their largest weight per kernel. Fewer classes then share the softmax, so its Q_0 is
/// at least that of each member, and so is the message.
///
/// @param logits  of an image, classes x n
/// @param weights terms x classes
template <typename T>
Certificate certify(const T* logits, std::size_t classes, std::size_t n, std::size_t row,
                    const std::vector<Term<T>>& terms, const std::vector<T>& weights,
                    std::size_t iterations, std::size_t threads) {
    const bool is_negative =
        std::any_of(weights.begin(), weights.end(), [](T weight) { return weight < 0; });
    if (classes < 4 || terms.empty() || iterations < 1 || is_negative) return {};
    std::vector<double> peaks(classes);
    class_peaks(logits, classes, n, peaks.data(), threads);
    const auto groups = testable_groups(peaks);
    std::size_t members = 0;
    for (const auto& group : groups) members += group.size();
    // Leaving out a single class saves nothing: the class that stands for it takes its place.
    if (members < 2) return {};
    std::vector<T> largest;
    for (std::size_t k = 0; k < terms.size(); ++k)
        for (const auto& group : groups) {
            T top = weights[k * classes + group[0]];
            for (const std::size_t c : group) top = std::max(top, weights[k * classes + c]);
            largest.push_back(top);
        }
    std::vector<double> first(groups.size());
    message_peaks(logits, classes, groups, n, row, terms, largest.data(), first.data(), threads);
    std::vector<bool> left_out(classes, false);
    Certificate certificate;
    for (std::size_t g = 0; g < groups.size(); ++g) {
        double bound = first[g];  // of the first message, then of the next
        for (std::size_t t = 1; t < iterations; ++t)
            bound = first[g] * std::exp(std::min(bound, 1.0));  // no overflow beyond the limit
        if (!(bound <= kLargestMessage)) continue;
        certificate.bound = std::max(certificate.bound, bound);
        for (const std::size_t c : groups[g]) left_out[c] = true;
    }
    if (std::count(left_out.begin(), left_out.end(), true) < 2) return {};
    for (std::size_t c = 0; c < classes; ++c)
        if (!left_out[c]) certificate.kept.push_back(c);
    return certificate;
}

}  // namespace crfrnn
