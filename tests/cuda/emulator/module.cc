// The CUDA functions compiled for the emulator, as numpy functions f(inputs, outputs, attributes).
#define BITLAW_CUDA_MODULE _cuda_emulated
#include "bind/cuda_ops.hpp"
#include "bind/numpy.hpp"

namespace py = pybind11;
using namespace bitlaw;

namespace {

using Inputs = std::vector<py::object>;
using Outputs = std::vector<py::array>;

struct Emulated {
  template <auto... fns>
  static py::object door() {
    return py::cpp_function([](const Inputs& in, const Outputs& out, const py::dict& attributes) {
      bind::NumpySource source(in, out, attributes);
      const auto call = [&]<auto fn>() {
        if (!bind::Signature<fn>::matches(source)) return false;
        bind::Signature<fn>::call(source, [](const auto& run) { run(nullptr); });
        return true;
      };
      require((call.template operator()<fns>() || ...), "no kernel for these types");
    });
  }
};

}  // namespace

PYBIND11_MODULE(_cuda_emulated, m) { m.attr("ops") = bind::cuda_ops<Emulated>(); }
