// The ops of quantize.hpp and codes.hpp, beside module.cc so that two cores compile.
#include "bind/op.hpp"
#include "core/codes.hpp"

namespace bitlaw::bind {

void add_quantization(py::dict ops) {
  ops["fake_quantize"] = op<&fake_quantize<float>, &fake_quantize<bfloat16>>();
  ops["fake_quantize_scaled"] = op<&fake_quantize_scaled<float>, &fake_quantize_scaled<bfloat16>>();
  ops["quantize"] = op<&quantize<float>, &quantize<bfloat16>>();
  ops["quantize_scaled"] = op<&quantize_scaled<float>, &quantize_scaled<bfloat16>>();
  ops["dequantize"] = op<&dequantize<float>, &dequantize<bfloat16>>();
}

}  // namespace bitlaw::bind
