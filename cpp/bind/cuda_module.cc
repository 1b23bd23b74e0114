// The list of ops with a CUDA kernel. Adding a kernel to Python means adding one line here.
#include <pybind11/pybind11.h>

#include "bind/xla_cuda.hpp"
#include "cuda/mask.hpp"

namespace py = pybind11;
using namespace bitlaw;

// One instantiation per element type.
template <auto... fns>
py::capsule op() {
  return py::capsule(reinterpret_cast<void*>(&bind::XlaCudaHandler<fns...>::handle));
}

PYBIND11_MODULE(_cuda, m) {
  py::dict ops;
  ops["nm_mask"] = op<&cuda::nm_mask<float>, &cuda::nm_mask<bfloat16>>();
  ops["prune"] = op<&cuda::prune<float>, &cuda::prune<bfloat16>>();
  m.attr("ops") = ops;
  m.attr("xla_ffi_api") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
