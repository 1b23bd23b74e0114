// What a core function's C++ signature says: the only declaration both bindings are derived from.
//
//     void name(Where, View<const T, R>... inputs, View<T, R>... outputs, Attrs)
//
// Where it runs is a `const Parallel&` or a CUDA stream. Const views are inputs, the others
// outputs; an attribute struct lists its fields once. The last input may be Views, and an output
// then too. What runs on the host only may take Parts, a list of arrays, as an input.
#pragma once
#include <tuple>
#include <type_traits>

#include "core/minifloat.hpp"
#include "core/parallel.hpp"

namespace bitlaw::bind {

template <class P>
struct Param {
  static constexpr bool is_view = false, is_list = false;
};
template <class E, int R>
struct Param<Views<E, R>> {
  static constexpr bool is_view = false, is_list = true;
  static constexpr bool is_input = std::is_const_v<E>;
  using One = View<E, R>;
};
template <class E, int R>
struct Param<View<E, R>> {
  static constexpr bool is_view = true, is_list = false;
  static constexpr bool is_input = std::is_const_v<E>;
  static constexpr int rank = R;
  using Element = std::remove_const_t<E>;
};

// An array of one axis less is taken for items of one row: [items, cols] for [items, rows, cols].
template <class P>
constexpr bool takes_rank(int64_t rank) {
  return rank == Param<P>::rank || (Param<P>::rank == 3 && rank == 2);
}
template <class P, class Dims>
void set_shape(P& view, const Dims& dims, int64_t rank) {
  const bool one_row = rank == Param<P>::rank - 1;
  for (int64_t i = 0; i < rank; ++i) view.shape[i + (one_row && i > 0)] = dims(i);
  if constexpr (Param<P>::rank > 1)
    if (one_row) view.shape[1] = 1;
}

// Arrays read in order, of which a list takes the inputs that are left and as many outputs.
class Order {
 public:
  Order(size_t inputs, size_t outputs) : inputs_(inputs), outputs_(outputs) {}

  template <class P>
  bool has_next() const {
    return Param<P>::is_input ? in < inputs_ : out < outputs_;
  }
  template <class P>
  size_t listed() {
    if (Param<P>::is_input) listed_ = inputs_ - in;
    return listed_;
  }
  bool exhausted() const { return in == inputs_ && out == outputs_; }

  size_t in = 0, out = 0;

 private:
  size_t inputs_, outputs_, listed_ = 0;
};

template <auto fn>
struct Signature;
template <class Where, class... P, void (*fn)(Where, P...)>
struct Signature<fn> {
  // Reads every parameter off `source`, in order, then has `runner` run the function.
  template <class Source, class Runner>
  static void call(Source source, const Runner& runner) {
    const std::tuple<P...> params{source.template get<P>()...};
    runner([&](Where where) { std::apply([&](const auto&... p) { fn(where, p...); }, params); });
  }
  template <class Source>
  static bool matches(Source source) {
    return (source.template matches<P>() && ...) && source.exhausted();
  }
};

// An attribute struct from anything with get<type>(name).
template <class Attrs, class Dict>
Attrs attributes(Dict& dict) {
  Attrs attrs{};
  std::apply(
      [&](auto... field) {
        ((attrs.*field.member =
              dict.template get<std::decay_t<decltype(attrs.*field.member)>>(field.name)),
         ...);
      },
      Attrs::fields());
  return attrs;
}

}  // namespace bitlaw::bind
