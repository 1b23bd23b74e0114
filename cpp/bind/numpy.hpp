// Core function -> numpy function f(inputs, outputs, attributes). Releases the GIL; exceptions
// become ValueError. bfloat16 arrays come viewed as uint16, float16 ones as int16.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <forward_list>
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

// What a list of arrays says as Parts. What is no contiguous array becomes one, and is kept.
class PartsOf {
 public:
  explicit PartsOf(const py::list& list) {
    for (const py::handle item : list) {
      const bool is_array = py::isinstance<py::array>(item);
      auto array = is_array ? py::reinterpret_borrow<py::array>(item) : py::array::ensure(item);
      if (array && !(array.flags() & py::array::c_style))
        array = py::array::ensure(array, py::array::c_style);
      if (!array || array.ndim() < 1) refuse("arrays", "a scalar");
      if (data_.empty()) first_ = array;
      if (!alike(array)) refuse(kind(first_), kind(array));
      data_.push_back(static_cast<const uint8_t*>(array.data()));
      length_.push_back(array.shape(0));
      if (!array.is(item)) kept_.push_back(std::move(array));
    }
  }
  Parts parts() const {
    const auto size = static_cast<int64_t>(data_.size());
    int64_t width = size ? first_.itemsize() : 0;
    for (py::ssize_t i = 1; size && i < first_.ndim(); ++i) width *= first_.shape(i);
    return {data_.data(), length_.data(), size, width};
  }

 private:
  [[noreturn]] void refuse(const std::string& expected, const std::string& got) const {
    throw std::invalid_argument("parts must be " + expected + ", got " + got + " at " +
                                std::to_string(data_.size()));
  }
  bool alike(const py::array& a) const {
    return a.ndim() == first_.ndim() &&
           std::equal(a.shape() + 1, a.shape() + a.ndim(), first_.shape() + 1) &&
           (a.dtype().is(first_.dtype()) || a.dtype().equal(first_.dtype()));
  }
  static std::string kind(const py::array& a) {
    std::string text = py::str(a.dtype());
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
      text += (i ? ", " + std::to_string(a.shape(i)) : "[n");
    return text + "]";
  }

  py::array first_;
  std::vector<const uint8_t*> data_;
  std::vector<int64_t> length_;
  std::vector<py::array> kept_;
};

class NumpySource {
 public:
  NumpySource(const std::vector<py::object>& in, const std::vector<py::array>& out,
              const py::dict& attrs)
      : in_(in), out_(out), attrs_{attrs}, order_(in.size(), out.size()) {}

  template <class P>
  P get() {
    if constexpr (std::is_same_v<P, Parts>) {
      return lists_.emplace_front(py::reinterpret_borrow<py::list>(in_[order_.in++])).parts();
    } else if constexpr (Param<P>::is_list) {
      P list;
      for (size_t n = order_.listed<P>(); n > 0; --n)
        list.each.push_back(get<typename Param<P>::One>());
      return list;
    } else if constexpr (Param<P>::is_view) {
      py::array array = next<P>();
      using Element = typename Param<P>::Element;
      require(array.flags() & py::array::c_style, "arrays must be C-contiguous");
      P view{};
      if constexpr (Param<P>::is_input)
        view.data = static_cast<const Element*>(array.data());
      else
        view.data = static_cast<Element*>(array.mutable_data());
      set_shape(view, [&](int64_t i) { return array.shape(i); }, array.ndim());
      return view;
    } else {
      return attributes<P>(attrs_);
    }
  }
  template <class P>
  bool matches() {
    if constexpr (std::is_same_v<P, Parts>) {
      return order_.in < in_.size() && py::isinstance<py::list>(in_[order_.in++]);
    } else if constexpr (Param<P>::is_list) {
      for (size_t n = order_.listed<P>(); n > 0; --n)
        if (!matches<typename Param<P>::One>()) return false;
    } else if constexpr (Param<P>::is_view) {
      if (!order_.has_next<P>()) return false;
      const py::array array = next<P>();
      return py::isinstance<py::array_t<NumpyElement<typename Param<P>::Element>>>(array) &&
             takes_rank<P>(array.ndim());
    }
    return true;
  }
  bool exhausted() const { return order_.exhausted(); }

 private:
  template <class P>
  py::array next() {
    if constexpr (Param<P>::is_input) return py::reinterpret_borrow<py::array>(in_[order_.in++]);
    return out_[order_.out++];
  }
  const std::vector<py::object>& in_;
  const std::vector<py::array>& out_;
  std::forward_list<PartsOf> lists_;
  NumpyAttributes attrs_;
  Order order_;
};

template <auto... fns>
void call_numpy(const std::vector<py::object>& in, const std::vector<py::array>& out,
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
