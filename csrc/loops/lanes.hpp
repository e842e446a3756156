// Small vectors, for one instruction set; see loops_impl.hpp.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && defined(__F16C__)
#define CRFRNN_HALF
#endif

#include "loops/loops.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

#if defined(__GNUC__)
template <typename T, std::size_t L>
struct VectorOf {
    typedef T Type __attribute__((vector_size(L * sizeof(T))));
};
template <typename T>
struct VectorOf<T, 1> {
    using Type = T;  // compilers handle a vector of one badly
};
#endif

/// L numbers that one or a few vector registers hold.
template <typename T, std::size_t L>
struct Lanes {
#if defined(__GNUC__)
    using Vector = typename VectorOf<T, L>::Type;
    Vector v;
#else
    T v[L];
#endif

    static Lanes load(const T* from) {
        Lanes lanes;
        std::memcpy(&lanes.v, from, sizeof lanes.v);
        return lanes;
    }
    static Lanes all(T value) {
        Lanes lanes;
#if defined(__GNUC__)
        lanes.v = value - Vector{};
#else
        for (std::size_t l = 0; l < L; ++l) lanes.v[l] = value;
#endif
        return lanes;
    }
    void store(T* to) const { std::memcpy(to, &v, sizeof v); }

#if defined(CRFRNN_HALF)
    static Lanes load(const Half* from) {
        Lanes lanes;
        if constexpr (L == 8) {
            __m128i bits;
            std::memcpy(&bits, from, sizeof bits);
            lanes.v = _mm256_cvtph_ps(bits);
        } else if constexpr (L == 4) {
            std::int64_t bits;
            std::memcpy(&bits, from, sizeof bits);
            lanes.v = _mm_cvtph_ps(_mm_cvtsi64_si128(bits));
        } else if constexpr (L == 2) {
            for (std::size_t l = 0; l < 2; ++l) lanes.v[l] = _cvtsh_ss(from[l].bits);
        } else {
            static_assert(L == 1);
            lanes.v = _cvtsh_ss(from->bits);
        }
        return lanes;
    }
    void store(Half* to) const {
        constexpr int nearest = _MM_FROUND_TO_NEAREST_INT;
        if constexpr (L == 8) {
            const __m128i bits = _mm256_cvtps_ph(v, nearest);
            std::memcpy(to, &bits, sizeof bits);
        } else if constexpr (L == 4) {
            const std::int64_t bits = _mm_cvtsi128_si64(_mm_cvtps_ph(v, nearest));
            std::memcpy(to, &bits, sizeof bits);
        } else if constexpr (L == 2) {
            for (std::size_t l = 0; l < 2; ++l) to[l].bits = _cvtss_sh(v[l], nearest);
        } else {
            static_assert(L == 1);
            to->bits = _cvtss_sh(v, nearest);
        }
    }
#endif

    template <typename Operation>
    static Lanes combine(const Lanes& a, const Lanes& b, Operation operation) {
        Lanes lanes;
#if defined(__GNUC__)
        lanes.v = operation(a.v, b.v);
#else
        for (std::size_t l = 0; l < L; ++l) lanes.v[l] = operation(a.v[l], b.v[l]);
#endif
        return lanes;
    }
    friend Lanes operator+(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x + y; });
    }
    friend Lanes operator-(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x - y; });
    }
    friend Lanes operator*(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x * y; });
    }
    friend Lanes operator/(const Lanes& a, const Lanes& b) {
        return combine(a, b, [](auto x, auto y) { return x / y; });
    }
    friend Lanes larger(const Lanes& a, const Lanes& b) {
#if defined(__GNUC__) && defined(__AVX__)
        // One instruction; compilers do not find it in the comparison below.
        if constexpr (std::is_same_v<T, float> && L == 8) {
            Lanes lanes;
            lanes.v = _mm256_max_ps(a.v, b.v);
            return lanes;
        }
#endif
        return combine(a, b, [](auto x, auto y) { return x > y ? x : y; });
    }

    /// 1 where a lane is above zero, else 0.
    friend Lanes positive(const Lanes& a) {
        return combine(a, all(T(1)),
                       [](auto x, auto one) { return x > one - one ? one : one - one; });
    }

    /// Every lane l changes places with lane l ^ K.
    template <std::size_t K>
    Lanes swapped() const {
        static_assert(K < L && (L == 4 || L == 8));
        Lanes lanes;
#if defined(__clang__)
        if constexpr (L == 4) {
            lanes.v = __builtin_shufflevector(v, v, 0 ^ K, 1 ^ K, 2 ^ K, 3 ^ K);
        } else {
            lanes.v = __builtin_shufflevector(v, v, 0 ^ K, 1 ^ K, 2 ^ K, 3 ^ K, 4 ^ K, 5 ^ K, 6 ^ K,
                                              7 ^ K);
        }
#elif defined(__GNUC__)
        using Number = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
        typedef Number Numbers __attribute__((vector_size(sizeof(Vector))));
        if constexpr (L == 4) {
            lanes.v = __builtin_shuffle(v, Numbers{0 ^ K, 1 ^ K, 2 ^ K, 3 ^ K});
        } else {
            lanes.v = __builtin_shuffle(
                v, Numbers{0 ^ K, 1 ^ K, 2 ^ K, 3 ^ K, 4 ^ K, 5 ^ K, 6 ^ K, 7 ^ K});
        }
#else
        for (std::size_t l = 0; l < L; ++l) lanes.v[l] = v[l ^ K];
#endif
        return lanes;
    }

    T sum() const {
        return fold([](const auto& a, const auto& b) { return a + b; });
    }
    T top() const {
        return fold([](const auto& a, const auto& b) { return larger(a, b); });
    }

private:
    /// Combine the two halves, then the halves of that, and so on down to one number. The order of
    /// additions is part of the result, and a tree is the one order that no vector unit changes.
    template <typename Operation>
    T fold(Operation operation) const {
        if constexpr (L == 1) {
            T value;
            std::memcpy(&value, &v, sizeof value);
            return value;
        } else {
            Lanes<T, L / 2> low, high;
            std::memcpy(&low.v, &v, sizeof low.v);
            std::memcpy(&high.v, reinterpret_cast<const char*>(&v) + sizeof low.v, sizeof high.v);
            return operation(low, high).template fold<Operation>(operation);
        }
    }
    template <typename, std::size_t>
    friend struct Lanes;
};

}  // namespace
}  // namespace crfrnn::CRFRNN_ISA
