// The list of compiled ops. Adding an op to Python means adding one line here.
#include "bind/numpy.hpp"
#include "bind/xla.hpp"
#include "core/bits.hpp"
#include "core/formats.hpp"
#include "core/hadamard.hpp"
#include "core/mask.hpp"
#include "core/pack.hpp"
#include "core/quantize.hpp"
#include "core/random.hpp"
#include "core/schedule.hpp"
#include "core/select.hpp"

namespace py = pybind11;
using namespace bitlaw;

// An op with both doors, one instantiation per element type: (XLA handler, numpy function).
template <auto... fns>
py::tuple op() {
  return py::make_tuple(py::capsule(reinterpret_cast<void*>(&bind::XlaHandler<fns...>::handle)),
                        py::cpp_function(&bind::call_numpy<fns...>));
}

// A plan made on the host, from numpy only.
template <auto... fns>
py::tuple host() {
  return py::make_tuple(py::none(), py::cpp_function(&bind::call_numpy<fns...>));
}

// The table of formats, a dictionary per row.
py::list formats() {
  py::list rows;
  for (const Format& f : kFormats) {
    py::dict row;
    row["name"] = f.name;
    row["kind"] = f.kind;
    row["bits"] = f.bits;
    row["numbers"] = py::make_tuple(f.numbers[0], f.numbers[1], f.numbers[2]);
    row["granularity"] = f.granularity;
    row["block"] = f.block;
    row["rule"] = f.rule;
    row["scaling"] = f.scaling;
    row["estimator"] = f.estimator;
    row["gauss_clip"] = f.gauss_clip;
    rows.append(row);
  }
  return rows;
}

PYBIND11_MODULE(_core, m) {
  py::dict ops;
  ops["group_statistic"] = op<&group_statistic<float>, &group_statistic<bfloat16>>();
  ops["statistic_ratio"] = op<&statistic_ratio>();
  ops["statistic_scale"] = op<&statistic_scale>();
  ops["outer_scale"] = op<&outer_scale>();
  ops["fake_quantize"] = op<&fake_quantize<float>, &fake_quantize<bfloat16>>();
  ops["fake_quantize_scaled"] = op<&fake_quantize_scaled<float>, &fake_quantize_scaled<bfloat16>>();
  ops["hadamard"] = op<&hadamard<float>, &hadamard<bfloat16>>();
  ops["uniform"] = op<&uniform>();
  ops["pack_bits"] = op<&pack_bits>();
  ops["unpack_bits"] = op<&unpack_bits>();
  ops["top_k_mask"] = op<&top_k_mask<float>, &top_k_mask<bfloat16>>();
  ops["nm_mask"] = op<&nm_mask<float>, &nm_mask<bfloat16>>();
  ops["prune"] = op<&prune<float>, &prune<bfloat16>>();
  ops["cubic_schedule"] = host<&cubic_schedule>();
  ops["keep_counts"] = host<&keep_counts>();
  ops["first_fit_decreasing"] = host<&first_fit_decreasing>();
  m.attr("ops") = ops;

  m.attr("xla_ffi_api") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.def("formats", &formats);
  m.def("isa", [] { return isa_name(active_isa()); });
  m.def("threads", [] { return ThreadPool::instance().threads(); });
}
