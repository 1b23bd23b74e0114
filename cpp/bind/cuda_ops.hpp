// The list of ops with a CUDA kernel. Adding a kernel to Python means adding one line here.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "cuda/mask.hpp"
#include "cuda/quantize.hpp"
#include "cuda/select.hpp"

namespace bitlaw::bind {

using Shapes = std::vector<std::vector<int64_t>>;

using Workspace = int64_t (*)(const Shapes&, const pybind11::dict&);

// name -> (door, bytes of workspace per item as a function of the inputs' shapes and the
// attributes, or None). A workspace is one more output, u8[items, bytes]: kernels do not allocate.
// `Doors::door<fns...>()` makes a door of one instantiation per element type.
template <class Doors>
pybind11::dict cuda_ops() {
  namespace py = pybind11;
  py::dict ops;
  const auto add = [&]<auto... fns>(const char* name, Workspace workspace = nullptr) {
    ops[name] = py::make_tuple(Doors::template door<fns...>(),
                               workspace ? py::object(py::cpp_function(workspace)) : py::none());
  };
  const Workspace rotated = [](const Shapes& in, const py::dict& attributes) {
    int64_t elements = 1;
    for (size_t i = 1; i < in[0].size(); ++i) elements *= in[0][i];
    return cuda::rotated_bytes(elements, py::cast<int64_t>(attributes["hadamard"]));
  };
  add.template operator()<&cuda::group_statistic<float>, &cuda::group_statistic<bfloat16>>(
      "group_statistic", rotated);
  add.template operator()<&cuda::statistic_ratio>("statistic_ratio");
  add.template operator()<&cuda::statistic_scale>("statistic_scale");
  add.template operator()<&cuda::outer_scale>("outer_scale");
  add.template operator()<&cuda::fake_quantize<float>, &cuda::fake_quantize<bfloat16>>(
      "fake_quantize", rotated);
  add.template operator()<&cuda::fake_quantize_scaled<float>,
                          &cuda::fake_quantize_scaled<bfloat16>>("fake_quantize_scaled", rotated);
  add.template operator()<&cuda::hadamard<float>, &cuda::hadamard<bfloat16>>("hadamard");
  add.template operator()<&cuda::nm_mask<float>, &cuda::nm_mask<bfloat16>, &cuda::nm_mask<float16>>(
      "nm_mask");
  add.template operator()<&cuda::prune<float>, &cuda::prune<bfloat16>, &cuda::prune<float16>>(
      "prune");
  add.template
  operator()<&cuda::top_k_mask<float>, &cuda::top_k_mask<bfloat16>, &cuda::top_k_mask<float16>>(
      "top_k_mask",
      [](const Shapes& in, const py::dict&) { return cuda::top_k_workspace(in[0][1]); });
  return ops;
}

}  // namespace bitlaw::bind
