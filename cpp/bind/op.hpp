// Both doors of an op, derived from its core function.
#pragma once
#include "bind/numpy.hpp"
#include "bind/xla.hpp"

namespace bitlaw::bind {

// One instantiation per element type: (XLA handler, numpy function).
template <auto... fns>
py::tuple op() {
  return py::make_tuple(py::capsule(reinterpret_cast<void*>(&XlaHandler<fns...>::handle)),
                        py::cpp_function(&call_numpy<fns...>));
}

// A plan made on the host, from numpy only.
template <auto... fns>
py::tuple host() {
  return py::make_tuple(py::none(), py::cpp_function(&call_numpy<fns...>));
}

void add_quantization(py::dict ops);  // quantization.cc

}  // namespace bitlaw::bind
