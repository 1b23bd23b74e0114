// One number: bfloat16 and float16 to float, bfloat16 back. Arithmetic is always float.
#pragma once
#include <bit>
#include <cstdint>

#include "core/isa.hpp"

namespace bitlaw {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

BITLAW_LEAF float to_float(float x) { return x; }
BITLAW_LEAF float to_float(bfloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
// By bits, so that every instruction set has it: the exponent is rebiased by an exact product.
BITLAW_LEAF float to_float(float16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x1fu << 23) ? 0x7f800000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(finite) | special | sign);
}

BITLAW_LEAF uint32_t raw_bits(float x) { return std::bit_cast<uint32_t>(x); }
BITLAW_LEAF uint16_t raw_bits(bfloat16 x) { return x.bits; }
BITLAW_LEAF uint16_t raw_bits(float16 x) { return x.bits; }

// Rounded to bfloat16, the upper half: nearest, ties to even; NaN stays NaN (rounding its bits
// could carry into infinity).
BITLAW_LEAF uint32_t rounded_bits(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  return x == x ? rounded : u | 0x400000u;
}

template <class T>
struct Narrow;
template <>
struct Narrow<float> {
  BITLAW_LEAF static float from(float x) { return x; }
};
template <>
struct Narrow<bfloat16> {
  BITLAW_LEAF static bfloat16 from(float x) {
    return {static_cast<uint16_t>(rounded_bits(x) >> 16)};
  }
};

// The bits of |x|: ordered like the magnitudes, with NaN above infinity.
BITLAW_LEAF int32_t magnitude_bits(float x) { return std::bit_cast<int32_t>(x) & 0x7fffffff; }
inline constexpr int32_t kInfinityBits = 0x7f800000;

}  // namespace bitlaw
