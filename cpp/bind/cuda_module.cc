// The list of ops with a CUDA kernel. Adding a kernel to Python means adding one line here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/xla_cuda.hpp"
#include "cuda/mask.hpp"
#include "cuda/select.hpp"

namespace py = pybind11;
using namespace bitlaw;

// (XLA handler, bytes of workspace per item as a function of the inputs' shapes, or None). One
// instantiation per element type. A workspace is one more output, u8[items, bytes]: kernels do not
// allocate.
using Shapes = std::vector<std::vector<int64_t>>;
template <auto... fns>
py::tuple op(int64_t (*workspace)(const Shapes&) = nullptr) {
  const py::capsule handler(reinterpret_cast<void*>(&bind::XlaCudaHandler<fns...>::handle));
  return py::make_tuple(handler, workspace ? py::object(py::cpp_function(workspace)) : py::none());
}

PYBIND11_MODULE(_cuda, m) {
  py::dict ops;
  ops["nm_mask"] = op<&cuda::nm_mask<float>, &cuda::nm_mask<bfloat16>>();
  ops["prune"] = op<&cuda::prune<float>, &cuda::prune<bfloat16>>();
  ops["top_k_mask"] = op<&cuda::top_k_mask<float>, &cuda::top_k_mask<bfloat16>>(
      [](const Shapes& in) { return cuda::top_k_workspace(in[0][1]); });
  m.attr("ops") = ops;
  m.attr("xla_ffi_api") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
