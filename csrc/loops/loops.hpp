#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace crfrnn {

/// A number in half precision (IEEE 754), the type in which a lattice may store its values.
struct Half {
    std::uint16_t bits;
};

/// Values that a row of `channels` is stored with, so that vector loops need no remainder.
///
/// Rows of one and two stay as they are: memory moved counts for more than a full vector there.
constexpr std::size_t padded(std::size_t channels) {
    return channels <= 2 ? channels : (channels + 3) / 4 * 4;
}

/// Widest group of channels that one lattice table holds: a sum of 32 floats fills four AVX2
/// registers, eight of 32 doubles, and leaves room for the operands.
constexpr std::size_t kGroup = 32;

/// A logit of no weight, in the padding of rows of logits.
constexpr float kNothing = std::numeric_limits<float>::lowest();

/// One point's share of a lattice vertex.
template <typename T>
struct Entry {
    std::int32_t point;
    T weight;
};

/// Outputs of a band matrix that are summed up together, so that each source is loaded once.
constexpr std::size_t kBandRows = 4;

/// A band matrix: row i holds the weights of sources i-radius .. i+radius, with zeros around them
/// where the rows beside it, summed up at the same time, reach farther.
template <typename T>
struct Band {
    const T* weight;  ///< size x pitch(radius), the source i at radius + kBandRows - 1
    std::size_t size, radius;
    /// Rows with the same weights, all of whose sources exist: the inside of a grid.
    std::size_t alike_begin, alike_end;

    static constexpr std::size_t pitch(std::size_t radius) { return 2 * (radius + kBandRows) - 1; }
};

/// Points that a leaf of the exact filter's tree holds at most.
constexpr std::size_t kLeaf = 32;

/// Points of a leaf that are summed up together against the same sources, and sources of a leaf
/// that are skipped together. Each is a part of the leaf that is split off like a leaf.
constexpr std::size_t kTargets = 4, kSources = 8;

/// The leaves of the exact filter's tree.
template <typename T>
struct GaussLeaves {
    const T* points;  ///< leaves x d x kLeaf
    const T* boxes;   ///< of kSources points each: leaves x kLeaf / kSources x (d lower, d upper)
    std::size_t d;
};

/// One kernel's filtered marginals of some pixels, on the way to the next logits.
template <typename T>
struct Message {
    const T* rows;
    const T* total;   ///< the sums of complete rows; null for zeros
    const T* weight;  ///< kernel weights, one per class
};

/// The loops over a lattice's values, which are stored as S.
template <typename T, typename S>
struct TableLoops {
    /// table[v] = sum of weight * x over the entries of v, for rows begin..end of 1..m.
    void (*splat)(const Entry<T>* entries, const std::int32_t* offset, const T* x,
                  std::size_t stride, std::size_t width, S* table, std::size_t begin,
                  std::size_t end);

    /// to[v] = from[v] + (from[one neighbor] + from[the other]) / 2, for rows begin..end of 1..m.
    /// In half precision, half of that, so that no blur leaves its range. Here as below, `far` says
    /// that the table is too large for the caches: rows are then prefetched.
    void (*blur)(const std::int32_t* neighbor, std::size_t width, const S* from, S* to, bool far,
                 std::size_t begin, std::size_t end);

    /// out[i - begin] = scale[i] * gain * weighted sum of the rows at the corners around point i.
    /// A null `scale` is all ones.
    void (*slice)(const std::int32_t* vertex, const T* weight, std::size_t corners,
                  std::size_t width, const S* table, T gain, const T* scale, T* out,
                  std::size_t stride, bool far, std::size_t begin, std::size_t end);
};

/// The inner loops, compiled once per instruction set; all take ranges and write only inside them.
template <typename T>
struct Loops {
    const char* name;

    TableLoops<T, T> tables;

    /// All null where the processor does not convert half precision, and for double.
    TableLoops<T, Half> half_tables;

    /// table[v] += scale[i] * weight * x[i - begin] for the rows v at the corners around the points
    /// begin..end: a splat from the points' side, for one thread per table. A null `scale` is all
    /// ones.
    void (*splat_points)(const std::int32_t* vertex, const T* weight, std::size_t corners,
                         std::size_t width, const T* scale, const T* x, T* table, bool far,
                         std::size_t begin, std::size_t end);

    /// to[v] = from[a] + (from[b] + from[c]) / 2 with the rows a, b, c = rows[3 (v - 1)] .. of
    /// `from`, for rows begin..end of 1..m: a blur from one table to another with other rows.
    void (*blur_rows)(const std::int32_t* rows, std::size_t width, const T* from, T* to, bool far,
                      std::size_t begin, std::size_t end);

    /// to[i - begin] = sum over sources k of band[i][k] * from[k], each n values wide.
    void (*band)(const Band<T>& band, const T* from, std::size_t from_step, T* to,
                 std::size_t to_step, std::size_t n, std::size_t begin, std::size_t end);

    /// out[i] = sum over the points j of the leaves `near` of 2^-|f_i - f_j|^2 values[j], for the
    /// first `count` points i of one leaf, some together; `out` has kLeaf rows. Sources are skipped
    /// where their box is farther away than the square root of `reach`. `values` has kLeaf rows per
    /// leaf.
    void (*gauss)(const GaussLeaves<T>& leaves, std::size_t leaf, std::size_t count,
                  const std::int32_t* near, std::size_t near_count, T reach, const T* values,
                  std::size_t width, T* out);

    /// x[i][c] *= scale[i] for `rows` rows of `width`.
    void (*scale_rows)(T* x, const T* scale, std::size_t rows, std::size_t width);

    /// Rows of all classes, `stride` wide, from rows of the filtered ones, `width` wide: the last
    /// class is `total` minus the sum of the others. A null `total` is zero. Equally wide rows are
    /// copied.
    void (*widen)(const T* f, std::size_t width, const T* total, T* r, std::size_t stride,
                  std::size_t rows);

    /// m[i] = from[i] + matrix * f[i]: `matrix` is inputs x outputs, row-major, all rows are
    /// `stride` wide. A null `from` is zero, and it may be m.
    void (*mix)(const T* f, std::size_t inputs, const T* matrix, const T* from, T* m,
                std::size_t stride, std::size_t rows);

    /// z[i] = u[i] - A (sum over the terms of W_k F_k) for the Potts model A, for rows `stride`
    /// wide, the first `classes` values of which are real. Rows of the messages F_k are `width`
    /// wide: all classes, or all but the last, whose message follows from `total`. Unless
    /// `is_exact`, each row may be off by a constant, which a softmax does not see.
    void (*potts_step)(const Message<T>* messages, std::size_t count, const T* u, T* z,
                       std::size_t stride, std::size_t classes, std::size_t width, bool is_exact,
                       std::size_t rows);

    /// z[i] = u[i] + sum over the terms of w_k F_k + shift[i], in rows `width` wide: independent
    /// two-class models, one in each column.
    void (*independent_step)(const Message<T>* messages, std::size_t count, const T* shift,
                             const T* u, T* z, std::size_t width, std::size_t rows);

    /// q[i] = 1 / (1 + exp(-z[i])) - center.
    void (*sigmoid)(const T* z, T center, T* q, std::size_t n);

    /// The adjoint of `potts_step` and the softmax before it. `messages` are the adjoint filters'
    /// rows R_k; q the marginals before the step, `width` wide. Adds dL/dz before the step to
    /// `total`, writes A' times it to `next` (`width` wide), the input of the next adjoint filters,
    /// and adds R_k q to `sums`, terms x `stride`.
    void (*potts_step_backward)(const Message<T>* messages, std::size_t count, const T* q, T* total,
                                T* next, T* sums, std::size_t stride, std::size_t classes,
                                std::size_t width, std::size_t rows);

    /// The input of the first adjoint filters, in rows `width` wide: A'g where A is Potts, else g
    /// itself. The first `classes` values of g are real, its padding is zero. Also writes the sums
    /// of the complete rows.
    void (*start_backward)(const T* g, std::size_t stride, std::size_t classes, bool is_potts,
                           T* next, std::size_t width, T* sums, std::size_t rows);

    /// q[i] = softmax(z[i]) over rows `stride` wide, the first `count` values of which are real and
    /// the others kNothing; writes the first `kept` of them to rows of q `width` wide, and zeros up
    /// to `width`. The order of up to 256 classes does not matter. Destroys z. Returns the sum of
    /// |change of q| if `before` is not null.
    double (*softmax)(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
                      std::size_t width, const T* before, std::size_t rows);

    /// Like `softmax`, but q[i] is the point of the simplex nearest to z[i].
    double (*project)(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
                      std::size_t width, const T* before, std::size_t rows);

    /// out[i] = scale[i] * exp(x[i] - shift[i]), where x <= shift.
    void (*scaled_exp)(const T* x, const T* shift, const T* scale, T* out, std::size_t n);

    /// high[i] + low[i] += exp(x[i] - shift[i]), where x <= shift. After `count` additions, at most
    /// 256, high[i] + low[i] does not depend on their order.
    void (*add_exp)(const T* x, const T* shift, std::size_t count, T* high, T* low, std::size_t n);

    /// next[i] = q[i] * (h[i] - sum of q[i] * h[i]), the softmax Jacobian, without the last class
    /// where rows of `width` leave it out; adds complete rows to `total`. Padding of q is zero.
    void (*softmax_backward)(const T* q, const T* h, T* total, T* next, std::size_t stride,
                             std::size_t width, std::size_t rows);

    /// The first half of `potts_step_backward`: h[i] = -sum over the terms of w_k R_k, in rows
    /// `stride` wide, and R_k q is added to `sums`.
    void (*potts_pull)(const Message<T>* messages, std::size_t count, const T* q, T* h, T* sums,
                       std::size_t stride, std::size_t classes, std::size_t width,
                       std::size_t rows);

    /// g[i] = scale * J h[i] with J the Jacobian of the softmax, or of the projection, at its
    /// result s[i]. Adds complete rows of g to `total`, and writes sign * g to rows of `next`,
    /// `width` wide.
    void (*target_backward)(const T* s, const T* h, bool is_l2, T scale, T sign, T* total, T* next,
                            std::size_t stride, std::size_t width, std::size_t rows);

    /// sums[a] += sum over rows i of r[i][a] * q[i], for a < count: r transposed times q.
    void (*outer)(const T* r, const T* q, T* sums, std::size_t stride, std::size_t count,
                  std::size_t rows);
};

/// The fastest loops that this processor can execute.
template <typename T>
const Loops<T>& loops();

namespace baseline {
template <typename T>
const Loops<T>& table();
}
namespace avx2 {
template <typename T>
const Loops<T>& table();
}
namespace avx512 {
template <typename T>
const Loops<T>& table();
}

}  // namespace crfrnn
