// The list of compiled ops. Adding an op to Python means adding one line here.
#include "bind/op.hpp"
#include "core/bits.hpp"
#include "core/formats.hpp"
#include "core/hadamard.hpp"
#include "core/learned.hpp"
#include "core/mask.hpp"
#include "core/pack.hpp"
#include "core/random.hpp"
#include "core/scale.hpp"
#include "core/schedule.hpp"
#include "core/select.hpp"

using namespace bitlaw;
using namespace bitlaw::bind;

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
  add_quantization(ops);
  ops["hadamard"] = op<&hadamard<float>, &hadamard<bfloat16>>();
  ops["learned_gradient"] = op<&learned_gradient<float>, &learned_gradient<bfloat16>>();
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
