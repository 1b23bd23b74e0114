// The list of ops with a CUDA kernel. Adding a kernel to Python means adding one line here.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "cuda/block.hpp"
#include "cuda/codes.hpp"
#include "cuda/dispatch.hpp"
#include "cuda/learned.hpp"
#include "cuda/mask.hpp"
#include "cuda/quantize.hpp"
#include "cuda/select.hpp"

namespace bitlaw::bind {

using Shapes = std::vector<std::vector<int64_t>>;

using Workspace = int64_t (*)(const Shapes&, const pybind11::dict&);

// name -> (door, bytes of workspace per item as a function of the inputs' shapes and the
// attributes, or None). A workspace is one more output, u8[items, bytes]: kernels do not allocate.
// `Doors::door<fns...>()` makes a door of one instantiation per element type.
//
// Every op that is not host-only has a kernel; the host-only ones (schedules, plans and the rows of
// packing) are called by numpy and have no JAX door on any platform.
template <class Doors>
pybind11::dict cuda_ops() {
  namespace py = pybind11;
  py::dict ops;
  const auto add = [&]<auto... fns>(const char* name, Workspace workspace = nullptr) {
    ops[name] = py::make_tuple(Doors::template door<fns...>(),
                               workspace ? py::object(py::cpp_function(workspace)) : py::none());
  };
  // Arrays are [items, rows, cols], or [items, cols] for items of one row.
  static const auto number = [](const py::dict& attributes, const char* name) {
    return py::cast<int64_t>(attributes[name]);
  };
  static const auto rows_of = [](const Shapes& in) { return in[0].size() == 3 ? in[0][1] : 1; };
  const Workspace rotated = [](const Shapes& in, const py::dict& attributes) {
    return cuda::rotated_bytes(rows_of(in) * in[0].back(), number(attributes, "hadamard"));
  };
  const Workspace selection = [](const Shapes& in, const py::dict&) {
    return cuda::selection_workspace({in[0][1]});
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

  add.template operator()<&cuda::quantize<float>, &cuda::quantize<bfloat16>>("quantize", rotated);
  add.template operator()<&cuda::quantize_scaled<float>, &cuda::quantize_scaled<bfloat16>>(
      "quantize_scaled", rotated);
  add.template operator()<&cuda::dequantize<float>, &cuda::dequantize<bfloat16>>(
      "dequantize", [](const Shapes& in, const py::dict& attributes) {
        return cuda::rotated_bytes(rows_of(in) * number(attributes, "cols"),
                                   number(attributes, "hadamard"));
      });
  add.template operator()<&cuda::pack_bits>("pack_bits");
  add.template operator()<&cuda::unpack_bits>("unpack_bits");
  add.template operator()<&cuda::uniform>("uniform");
  add.template operator()<&cuda::learned_gradient<float>, &cuda::learned_gradient<bfloat16>>(
      "learned_gradient", [](const Shapes& in, const py::dict& attributes) {
        return cuda::learned_workspace(rows_of(in), in[0].back(), number(attributes, "block"));
      });

  add.template operator()<&cuda::nm_mask<float>, &cuda::nm_mask<bfloat16>, &cuda::nm_mask<float16>>(
      "nm_mask");
  add.template operator()<&cuda::transposable_mask<float>, &cuda::transposable_mask<bfloat16>,
                          &cuda::transposable_mask<float16>>(
      "transposable_mask", [](const Shapes& in, const py::dict&) { return in[0][1] * in[0][2]; });
  add.template operator()<&cuda::prune<float>, &cuda::prune<bfloat16>, &cuda::prune<float16>>(
      "prune");
  add.template operator()<&cuda::top_k_mask<float>, &cuda::top_k_mask<bfloat16>,
                          &cuda::top_k_mask<float16>>("top_k_mask", selection);
  add.template operator()<&cuda::joint_top_k_mask<float>, &cuda::joint_top_k_mask<bfloat16>,
                          &cuda::joint_top_k_mask<float16>>(
      "joint_top_k_mask", [](const Shapes& in, const py::dict&) {
        std::vector<int64_t> sizes;
        for (size_t p = 2; p < in.size(); ++p) sizes.push_back(in[p][1]);
        return cuda::selection_workspace(sizes);
      });
  add.template operator()<&cuda::select_threshold<float>, &cuda::select_threshold<bfloat16>,
                          &cuda::select_threshold<float16>>("select_threshold", selection);
  add.template operator()<&cuda::key_histogram<float>, &cuda::key_histogram<bfloat16>,
                          &cuda::key_histogram<float16>>("key_histogram");
  add.template operator()<&cuda::threshold_mask<float>, &cuda::threshold_mask<bfloat16>,
                          &cuda::threshold_mask<float16>>("threshold_mask", selection);

  add.template
  operator()<&cuda::block_sum<float>, &cuda::block_sum<bfloat16>, &cuda::block_sum<float16>>(
      "block_sum", [](const Shapes& in, const py::dict& attributes) {
        return 4 * (in[0][1] / number(attributes, "rows")) * in[0][2];
      });

  add.template operator()<&cuda::dispatch_plan>(
      "dispatch_plan", [](const Shapes& in, const py::dict& attributes) {
        return cuda::dispatch_workspace(in[0][1], in[0][2], number(attributes, "experts"),
                                        py::cast<std::string>(attributes["priority"]) == "gate");
      });
  add.template operator()<&cuda::dispatch_sort>(
      "dispatch_sort", [](const Shapes& in, const py::dict& attributes) {
        return cuda::dispatch_workspace(in[0][1], in[0][2], number(attributes, "experts"), false);
      });
  return ops;
}

}  // namespace bitlaw::bind
