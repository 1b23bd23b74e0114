// The list of compiled ops. Adding an op to Python means adding one line here.
#include "bind/memory.hpp"
#include "bind/op.hpp"
#include "core/bits.hpp"
#include "core/block.hpp"
#include "core/dispatch.hpp"
#include "core/fill.hpp"
#include "core/formats.hpp"
#include "core/hadamard.hpp"
#include "core/histogram.hpp"
#include "core/learned.hpp"
#include "core/mask.hpp"
#include "core/pack.hpp"
#include "core/random.hpp"
#include "core/scale.hpp"
#include "core/schedule.hpp"
#include "core/select.hpp"
#include "core/stream.hpp"
#include "core/transposable.hpp"

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
  ops["block_sum"] = op<&block_sum<float>, &block_sum<bfloat16>, &block_sum<float16>>();
  ops["top_k_mask"] = op<&top_k_mask<float>, &top_k_mask<bfloat16>, &top_k_mask<float16>>();
  ops["joint_top_k_mask"] =
      op<&joint_top_k_mask<float>, &joint_top_k_mask<bfloat16>, &joint_top_k_mask<float16>>();
  ops["select_threshold"] =
      op<&select_threshold<float>, &select_threshold<bfloat16>, &select_threshold<float16>>();
  ops["key_histogram"] =
      op<&key_histogram<float>, &key_histogram<bfloat16>, &key_histogram<float16>>();
  ops["threshold_mask"] =
      op<&threshold_mask<float>, &threshold_mask<bfloat16>, &threshold_mask<float16>>();
  ops["transposable_mask"] =
      op<&transposable_mask<float>, &transposable_mask<bfloat16>, &transposable_mask<float16>>();
  ops["nm_mask"] = op<&nm_mask<float>, &nm_mask<bfloat16>, &nm_mask<float16>>();
  ops["prune"] = op<&prune<float>, &prune<bfloat16>, &prune<float16>>();
  ops["polynomial_schedule"] = host<&polynomial_schedule>();
  ops["alternating_schedule"] = host<&alternating_schedule>();
  ops["cosine_schedule"] = host<&cosine_schedule>();
  ops["dispatch_plan"] = op<&dispatch_plan>();
  ops["dispatch_sort"] = op<&dispatch_sort>();
  ops["keep_counts"] = host<&keep_counts>();
  ops["fit_rows"] = host<&fit_rows>();
  ops["part_lengths"] = host<&part_lengths>();
  ops["fill_rows"] = host<&fill_rows>();
  ops["fit_stream"] = host<&fit_stream>();
  m.attr("ops") = ops;

  m.attr("xla_ffi_api") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.def("formats", &formats);
  m.def("isa", [] { return isa_name(active_isa()); });
  m.def("memory", &memory);
  m.def("threads", [] { return ThreadPool::instance().threads(); });
}
