// The list of ops with a CUDA kernel. Adding a kernel to Python means adding one line here.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "cuda/mask.hpp"
#include "cuda/select.hpp"

namespace bitlaw::bind {

using Shapes = std::vector<std::vector<int64_t>>;

// name -> (door, bytes of workspace per item as a function of the inputs' shapes, or None). A
// workspace is one more output, u8[items, bytes]: kernels do not allocate. `Doors::door<fns...>()`
// makes a door of one instantiation per element type.
template <class Doors>
pybind11::dict cuda_ops() {
  namespace py = pybind11;
  py::dict ops;
  const auto add = [&]<auto... fns>(const char* name,
                                    int64_t (*workspace)(const Shapes&) = nullptr) {
    ops[name] = py::make_tuple(Doors::template door<fns...>(),
                               workspace ? py::object(py::cpp_function(workspace)) : py::none());
  };
  add.template operator()<&cuda::nm_mask<float>, &cuda::nm_mask<bfloat16>, &cuda::nm_mask<float16>>(
      "nm_mask");
  add.template operator()<&cuda::prune<float>, &cuda::prune<bfloat16>, &cuda::prune<float16>>(
      "prune");
  add.template
  operator()<&cuda::top_k_mask<float>, &cuda::top_k_mask<bfloat16>, &cuda::top_k_mask<float16>>(
      "top_k_mask", [](const Shapes& in) { return cuda::top_k_workspace(in[0][1]); });
  return ops;
}

}  // namespace bitlaw::bind
