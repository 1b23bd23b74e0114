// bitlaw._cuda: the CUDA kernels as XLA FFI handlers.
#include "bind/cuda_ops.hpp"
#include "bind/xla_cuda.hpp"

namespace py = pybind11;
using namespace bitlaw;

namespace {

struct Xla {
  template <auto... fns>
  static py::object door() {
    return py::capsule(reinterpret_cast<void*>(&bind::XlaCudaHandler<fns...>::handle));
  }
};

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.attr("ops") = bind::cuda_ops<Xla>();
  m.attr("xla_ffi_api") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}
