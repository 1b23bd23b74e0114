// Core function -> numpy function f(inputs, outputs, attributes). Releases the GIL; exceptions
// become ValueError. bfloat16 arrays come viewed as uint16, float16 ones as int16.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "bind/signature.hpp"
#include "core/thread_pool.hpp"

namespace bitlaw::bind {
namespace py = pybind11;

template <class E>
using NumpyElement = std::conditional_t<std::is_same_v<E, bfloat16>, uint16_t,
                                        std::conditional_t<std::is_same_v<E, float16>, int16_t, E>>;

struct NumpyAttributes {
  const py::dict& dict;
  template <class T>
  T get(const char* name) const {
    require(dict.contains(name), std::string("attribute missing: ") + name);
    return py::cast<T>(dict[name]);
  }
};

class NumpySource {
 public:
  NumpySource(const std::vector<py::array>& in, const std::vector<py::array>& out,
              const py::dict& attrs)
      : in_(in), out_(out), attrs_{attrs} {}

  template <class P>
  P get() {
    if constexpr (Param<P>::is_view) {
      const py::array& array = next<P>();
      using Element = typename Param<P>::Element;
      require(array.flags() & py::array::c_style, "arrays must be C-contiguous");
      P view{};
      if constexpr (Param<P>::is_input)
        view.data = static_cast<const Element*>(array.data());
      else
        view.data = static_cast<Element*>(const_cast<py::array&>(array).mutable_data());
      set_shape(view, [&](int64_t i) { return array.shape(i); }, array.ndim());
      return view;
    } else {
      return attributes<P>(attrs_);
    }
  }
  template <class P>
  bool matches() {
    if constexpr (Param<P>::is_view) {
      if (Param<P>::is_input ? at_in_ >= in_.size() : at_out_ >= out_.size()) return false;
      const py::array& array = next<P>();
      return py::isinstance<py::array_t<NumpyElement<typename Param<P>::Element>>>(array) &&
             takes_rank<P>(array.ndim());
    }
    return true;
  }
  bool exhausted() const { return at_in_ == in_.size() && at_out_ == out_.size(); }

 private:
  template <class P>
  const py::array& next() {
    return Param<P>::is_input ? in_[at_in_++] : out_[at_out_++];
  }
  const std::vector<py::array>&in_, &out_;
  NumpyAttributes attrs_;
  size_t at_in_ = 0, at_out_ = 0;
};

template <auto... fns>
void call_numpy(const std::vector<py::array>& in, const std::vector<py::array>& out,
                const py::dict& attrs) {
  NumpySource source(in, out, attrs);
  const auto call = [&]<auto fn>() {
    if (!Signature<fn>::matches(source)) return false;
    // Parameters are read under the GIL, the function runs without it.
    Signature<fn>::call(source, [](const auto& run) {
      py::gil_scoped_release release;
      IeeeSubnormals guard;
      const Parallel par(ThreadPool::instance());
      run(par);
    });
    return true;
  };
  require((call.template operator()<fns>() || ...), "no kernel for these ranks and element types");
}

}  // namespace bitlaw::bind
