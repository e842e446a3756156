// The recurrence and its adjoint, as the registered operators call them, and responses to ones.

#include <nanobind/stl/tuple.h>

#include <tuple>

#include "bindings.hpp"
#include "crf/mean_field.hpp"
#include "crf/mean_field_backward.hpp"
#include "crf/model.hpp"
#include "filters/response.hpp"

namespace crfrnn::bindings {
namespace {

template <typename T>
std::vector<Term<T>> plain_terms(const Terms<T>& arrays) {
    std::vector<Term<T>> terms;
    for (const auto* item : arrays) terms.push_back(item->term);
    return terms;
}

template <typename T>
Model<T> to_model(std::size_t n, std::size_t classes, std::size_t row, const AnyIn<T>& weights,
                  const Terms<T>& terms) {
    Model<T> model;
    model.n = n;
    model.classes = classes;
    model.row = row;
    model.is_potts = weights.ndim() == 2;
    model.weights = weights.data();
    model.terms = plain_terms(terms);
    return model;
}

/// A Frank-Wolfe step: whether it is l2, strength, size, mix, and whether it blends and learns.
using StepTuple = std::optional<std::tuple<bool, double, double, double, bool, bool>>;

std::optional<FrankWolfe> to_step(const StepTuple& step) {
    if (!step) return std::nullopt;
    const auto [is_l2, strength, size, mix, blends, learns] = *step;
    return FrankWolfe{is_l2, strength, size, mix, blends, learns};
}

template <typename T>
std::size_t mean_field(In<T, 2> logits, AnyIn<T> weights, const Terms<T>& terms, std::size_t row,
                       std::size_t iterations, double tolerance, Out<T, 2> z,
                       std::optional<Out<T, 3>> saved, const StepTuple& step, std::size_t threads) {
    auto model = to_model(logits.shape(1), logits.shape(0), row, weights, terms);
    model.step = to_step(step);
    T* const marginals = saved ? saved->data() : nullptr;
    nb::gil_scoped_release release;
    Result<T> result{z.data()};
    MeanField<T>(model, logits.data(), result, iterations, marginals, tolerance, threads).infer();
    return result.iterations;
}

/// @returns the gradients to a step's strength and size
template <typename T>
std::pair<double, double> mean_field_backward(In<T, 3> saved, In<T, 2> gradient, AnyIn<T> weights,
                                              const Terms<T>& terms, std::size_t row,
                                              Out<T, 2> to_logits, AnyOut<double> sums,
                                              const StepTuple& step, std::size_t threads) {
    auto model = to_model(gradient.shape(1), gradient.shape(0), row, weights, terms);
    model.step = to_step(step);
    // Frank-Wolfe saves the last marginals too.
    const std::size_t iterations = saved.shape(0) - std::size_t(step && saved.shape(0) > 0);
    nb::gil_scoped_release release;
    MeanFieldBackward<T> backward(model, saved.data(), gradient.data(), to_logits.data(),
                                  iterations, sums.data());
    backward.differentiate(threads);
    const auto rates = backward.rates();
    return {rates.strength, rates.size};
}

template <typename T>
void response(const TermArrays<T>& term, std::size_t n, std::size_t row, double power,
              Out<T, 1> out, std::size_t threads) {
    nb::gil_scoped_release release;
    crfrnn::response(term.term, n, row, power, out.data(), threads);
}

}  // namespace

template <typename T>
void bind_crf(nb::module_& m) {
    m.def("mean_field", &mean_field<T>, nb::arg("logits"), nb::arg("weights"), nb::arg("terms"),
          nb::arg("row"), nb::arg("iterations"), nb::arg("tolerance"), nb::arg("z"),
          nb::arg("saved").none(), nb::arg("step").none(), nb::arg("threads"));
    m.def("response", &response<T>, nb::arg("term"), nb::arg("n"), nb::arg("row"), nb::arg("power"),
          nb::arg("out"), nb::arg("threads"));
    m.def("mean_field_backward", &mean_field_backward<T>, nb::arg("saved"), nb::arg("gradient"),
          nb::arg("weights"), nb::arg("terms"), nb::arg("row"), nb::arg("to_logits"),
          nb::arg("sums"), nb::arg("step").none(), nb::arg("threads"));
}

template void bind_crf<float>(nb::module_&);
template void bind_crf<double>(nb::module_&);

void bind_sizes(nb::module_& m) {
    m.def("needs_total", &needs_total, nb::arg("classes"));
    m.def("saved_width", &saved_width, nb::arg("classes"), nb::arg("needs_all") = false);
}

}  // namespace crfrnn::bindings
