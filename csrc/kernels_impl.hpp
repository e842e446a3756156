// The inner loops themselves. Each instruction set includes this file once, with CRFRNN_ISA naming
// its namespace; nothing here may call a function template of another header, or the linker could
// hand another instruction set's copy to a processor that cannot run it.

#include <cmath>
#include <type_traits>

#include "kernels.hpp"
#include "lanes.hpp"

#if defined(__GNUC__)
#define CRFRNN_PREFETCH(address) __builtin_prefetch(address)
#else
#define CRFRNN_PREFETCH(address)
#endif

namespace crfrnn::CRFRNN_ISA {
namespace {

// How far ahead to prefetch rows; gathers wait for memory otherwise.
constexpr std::size_t kAhead = 8, kAheadInSlice = 3;
constexpr std::int32_t kAheadInSplat = 16;

template <typename T>
inline void prefetch_row(const T* row, std::size_t width) {
    for (std::size_t byte = 0; byte < width * sizeof(T); byte += 64)
        CRFRNN_PREFETCH(reinterpret_cast<const char*>(row) + byte);
}

template <typename T>
void splat(const Entry<T>* entries, const std::int32_t* offset, const T* x, std::size_t stride,
           std::size_t width, T* table, std::size_t begin, std::size_t end) {
    const std::int32_t last = offset[end - 1];
    with_width(width, [&](auto w) {
        const auto sum_up = [&](std::size_t row, auto sum) {
            for (std::int32_t e = offset[row - 1]; e < offset[row]; ++e) {
                if (e + kAheadInSplat < last)
                    prefetch_row(
                        x + static_cast<std::size_t>(entries[e + kAheadInSplat].point) * stride, w);
                sum.add(entries[e].weight, x + static_cast<std::size_t>(entries[e].point) * stride);
            }
            sum.store(table + row * w);
        };
        for (std::size_t row = begin; row < end; ++row) sum_up(row, RowOf<T, decltype(w)>(w));
    });
}

template <typename T>
void blur(const std::int32_t* neighbor, std::size_t width, const T* from, T* to, std::size_t begin,
          std::size_t end) {
    with_width(width, [&](auto w) {
        for (std::size_t row = begin; row < end; ++row) {
            if (row + kAhead < end) {
                const std::int32_t* next = neighbor + 2 * (row + kAhead - 1);
                prefetch_row(from + static_cast<std::size_t>(next[0]) * w, w);
                prefetch_row(from + static_cast<std::size_t>(next[1]) * w, w);
            }
            const T* here = from + row * w;
            const T* back = from + static_cast<std::size_t>(neighbor[2 * (row - 1)]) * w;
            const T* forth = from + static_cast<std::size_t>(neighbor[2 * (row - 1) + 1]) * w;
            T* out = to + row * w;
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                const V sides = V::load(back + c) + V::load(forth + c);
                (V::load(here + c) + V::all(T(0.5)) * sides).store(out + c);
            });
        }
    });
}

template <typename T>
void slice(const std::int32_t* vertex, const T* weight, std::size_t corners, std::size_t width,
           const T* table, T gain, const T* scale, T* out, std::size_t stride, std::size_t begin,
           std::size_t end) {
    with_width(width, [&](auto w) {
        const auto sum_up = [&](std::size_t i, auto sum) {
            const T factor = scale == nullptr ? gain : gain * scale[i];
            const std::int32_t* rows = vertex + i * corners;
            for (std::size_t r = 0; r < corners; ++r) {
                if (i + kAheadInSlice < end)
                    prefetch_row(
                        table + static_cast<std::size_t>(rows[r + kAheadInSlice * corners]) * w, w);
                sum.add(factor * weight[i * corners + r],
                        table + static_cast<std::size_t>(rows[r]) * w);
            }
            sum.store(out + (i - begin) * stride);
        };
        for (std::size_t i = begin; i < end; ++i) sum_up(i, RowOf<T, decltype(w)>(w));
    });
}

template <typename T>
void band(const Band<T>& band, const T* from, std::size_t from_step, T* to, std::size_t to_step,
          std::size_t n, std::size_t begin, std::size_t end) {
    const std::size_t whole = n / kGroup * kGroup;
    with_width(n - whole, [&](auto rest) {
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t first = i > band.radius ? i - band.radius : 0;
            const std::size_t last = i + band.radius < band.size ? i + band.radius + 1 : band.size;
            const T* weights = band.weight + i * (2 * band.radius + 1) + band.radius - i;
            const auto sum_up = [&](std::size_t at, auto sum) {
                const T* source = from + first * from_step + at;
                auto odd = sum;  // two sums, because one would wait for each addition to end
                std::size_t k = first;
                for (; k + 2 <= last; k += 2, source += 2 * from_step) {
                    sum.add(weights[k], source);
                    odd.add(weights[k + 1], source + from_step);
                }
                if (k < last) sum.add(weights[k], source);
                sum.add(odd);
                sum.store(to + (i - begin) * to_step + at);
            };
            for (std::size_t at = 0; at < whole; at += kGroup) sum_up(at, Row<T, kGroup>(kGroup));
            if (rest > 0) sum_up(whole, RowOf<T, decltype(rest)>(rest));
        }
    });
}

template <typename T>
void gauss(const GaussLeaves<T>& leaves, std::size_t leaf, std::size_t count,
           const std::int32_t* near, std::size_t near_count, T reach, const T* values,
           std::size_t width, T* out) {
    using V = Lanes<T, 8>;
    const std::size_t d = leaves.d;
    with_width(width, [&](auto w) {
        const auto sum_up = [&](std::size_t i, auto sum) {
            const T* point = leaves.points + leaf * d * kLeaf + i;
            for (std::size_t n = 0; n < near_count; ++n) {
                const auto other = static_cast<std::size_t>(near[n]);
                const T* box = leaves.boxes + other * 2 * d;
                T squared = 0;
                for (std::size_t k = 0; k < d; ++k) {
                    const T below = box[k] - point[k * kLeaf],
                            above = point[k * kLeaf] - box[d + k];
                    T gap = below > above ? below : above;
                    gap = gap > 0 ? gap : T(0);
                    squared += gap * gap;
                }
                if (squared > reach) continue;
                const T* points = leaves.points + other * d * kLeaf;
                T kernel[kLeaf];
                for (std::size_t l = 0; l < kLeaf; l += 8) {
                    V distance = V::all(T(0));
                    for (std::size_t k = 0; k < d; ++k) {
                        const V step = V::load(points + k * kLeaf + l) - V::all(point[k * kLeaf]);
                        distance = distance + step * step;
                    }
                    exponential(distance * V::all(T(-0.5))).store(kernel + l);
                }
                const T* value = values + other * kLeaf * w;
                for (std::size_t l = 0; l < kLeaf; ++l) sum.add(kernel[l], value + l * w);
            }
            sum.store(out + i * w);
        };
        for (std::size_t i = 0; i < count; ++i) sum_up(i, RowOf<T, decltype(w)>(w));
    });
}

template <typename T>
void scale_rows(T* x, const T* scale, std::size_t rows, std::size_t width) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(x + i * w + c) * V::all(scale[i])).store(x + i * w + c);
            });
    });
}

template <typename T>
void missing_channel(const T* f, std::size_t width, const T* total, T* missing, std::size_t rows) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            missing[i] = (total == nullptr ? T(0) : total[i]) - row_sum(f + i * w, w);
    });
}

template <typename T>
void weigh(const T* f, std::size_t width, const T* weight, T* m, std::size_t stride,
           std::size_t rows) {
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i)
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                T* out = m + i * stride + c;
                (V::load(out) + V::load(weight + c) * V::load(f + i * w + c)).store(out);
            });
    });
}

template <typename T>
void mix(const T* f, std::size_t width, std::size_t inputs, const T* matrix, T* m,
         std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t k = 0; k < inputs; ++k)
                for_lanes<T>(s, [&](auto tag, std::size_t c) {
                    using V = decltype(tag);
                    T* out = m + i * s + c;
                    (V::load(out) + V::all(f[i * width + k]) * V::load(matrix + k * s + c))
                        .store(out);
                });
    });
}

template <typename T>
void potts(T* m, std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T sum = row_sum(m + i * s, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::all(sum) - V::load(m + i * s + c)).store(m + i * s + c);
            });
        }
    });
}

template <typename T>
double softmax(T* z, std::size_t stride, std::size_t count, std::size_t kept, T* q,
               std::size_t width, const T* before, std::size_t rows) {
    double change = 0;
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            T* row = z + i * s;
            for (std::size_t c = count; c < s; ++c) row[c] = T(-1e30);
            const T top = row_top(row, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(row + c) - V::all(top)).store(row + c);
            });
        }
        for_lanes<T>(rows * s, [&](auto tag, std::size_t k) {
            exponential(decltype(tag)::load(z + k)).store(z + k);
        });
        for (std::size_t i = 0; i < rows; ++i) {
            T* row = z + i * s;
            const T inverse = T(1) / row_sum(row, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(row + c) * V::all(inverse)).store(row + c);
            });
            for (std::size_t c = kept; c < s; ++c) row[c] = T(0);
        }
    });
    with_width(width, [&](auto w) {
        for (std::size_t i = 0; i < rows; ++i) {
            const T* row = z + i * stride;
            T moved[4] = {}, sum = 0;
            if (before != nullptr) {
                for (std::size_t c = 0; c < w; ++c) {
                    const T difference = row[c] - before[i * w + c];
                    moved[c % 4] += difference < 0 ? -difference : difference;
                    sum += difference;
                }
                // Marginals sum to one: the class that is not kept moved against all the others.
                if (kept < count) moved[0] += sum < 0 ? -sum : sum;
                change += static_cast<double>((moved[0] + moved[1]) + (moved[2] + moved[3]));
            }
            for_lanes<T>(w, [&](auto tag, std::size_t c) {
                decltype(tag)::load(row + c).store(q + i * w + c);
            });
        }
    });
    return change;
}

template <typename T>
void log_sum_exp(T* z, std::size_t width, T* out, std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i) {
        T* row = z + i * width;
        out[i] = row_top(row, width);
        for (std::size_t c = 0; c < width; ++c) row[c] -= out[i];
    }
    for_lanes<T>(rows * width, [&](auto tag, std::size_t k) {
        exponential(decltype(tag)::load(z + k)).store(z + k);
    });
    for (std::size_t i = 0; i < rows; ++i) out[i] += std::log(row_sum(z + i * width, width));
}

template <typename T>
void softmax_backward(const T* q, const T* h, T* out, std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i) {
            const std::size_t at = i * s;
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(q + at + c) * V::load(h + at + c)).store(out + at + c);
            });
            const T dot = row_sum(out + at, s);
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(out + at + c) - V::load(q + at + c) * V::all(dot)).store(out + at + c);
            });
        }
    });
}

template <typename T>
void outer(const T* r, const T* q, T* sums, std::size_t stride, std::size_t count,
           std::size_t rows) {
    with_width(stride, [&](auto s) {
        const auto sum_up = [&](std::size_t a, std::size_t c, auto sum) {
            for (std::size_t i = 0; i < rows; ++i) sum.add(r[i * stride + a], q + i * stride + c);
            T total[kGroup];
            sum.store(total);
            for (std::size_t k = 0; k < kGroup && c + k < stride; ++k)
                sums[a * stride + c + k] += total[k];
        };
        for (std::size_t a = 0; a < count; ++a) {
            if constexpr (!std::is_same_v<decltype(s), std::size_t>) {
                sum_up(a, 0, RowOf<T, decltype(s)>(s));
            } else {
                for (std::size_t c = 0; c < s; c += kGroup)
                    sum_up(a, c, RowOf<T, std::size_t>(s - c < kGroup ? s - c : kGroup));
            }
        }
    });
}

template <typename T>
void dot_columns(const T* r, const T* q, T* sums, std::size_t stride, std::size_t rows) {
    with_width(stride, [&](auto s) {
        for (std::size_t i = 0; i < rows; ++i)
            for_lanes<T>(s, [&](auto tag, std::size_t c) {
                using V = decltype(tag);
                (V::load(sums + c) + V::load(r + i * s + c) * V::load(q + i * s + c))
                    .store(sums + c);
            });
    });
}

template <typename T>
constexpr Kernels<T> make(const char* name) {
    return {name,           splat<T>,
            blur<T>,        slice<T>,
            band<T>,        gauss<T>,
            scale_rows<T>,  missing_channel<T>,
            weigh<T>,       mix<T>,
            potts<T>,       softmax<T>,
            log_sum_exp<T>, softmax_backward<T>,
            outer<T>,       dot_columns<T>};
}

}  // namespace

#define CRFRNN_TEXT(name) #name
#define CRFRNN_NAME(name) CRFRNN_TEXT(name)

template <typename T>
const Kernels<T>& table() {
    static const Kernels<T> all = make<T>(CRFRNN_NAME(CRFRNN_ISA));
    return all;
}
template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace crfrnn::CRFRNN_ISA
