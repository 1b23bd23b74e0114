// Levels to codes and back: what a code of a few bits means.
//
// Whole codes of a grid with a zero level in two's complement; mid-rise and affine codes from qmin
// up, unsigned; floats as the bit patterns of the OCP formats; nf4 by the index of the level.
#pragma once
#include <algorithm>

#include "core/grid.hpp"

namespace bitlaw {

// Codes of levels, one to a byte; each group of `block` has its zero point.
struct EncodeLevels {
  template <class Encode>
  BITLAW_LEAF static void each(const float* level, uint8_t* code, int64_t n, const Encode& encode) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) code[i] = static_cast<uint8_t>(encode(level[i]));
  }
  // NaN, which comes with the scale or is kept by the 8-bit formats, is all ones but for the sign:
  // where two NaN meet, whose sign stays depends on the instructions.
  BITLAW_LEAF static int32_t minifloat(float level, int32_t mantissa, int32_t least, float unit,
                                       int32_t sign) {
    const int32_t mag = magnitude_bits(level);
    const int32_t normal = (mag >> (23 - mantissa)) - (((least >> 23) - 1) << mantissa);
    const int32_t below = static_cast<int32_t>(float_of(mag < least ? mag : 0) * unit);
    const int32_t code = (mag < least ? below : normal) | (bits_of(level) < 0 ? sign : 0);
    return mag > kInfinityBits ? sign - 1 : code;
  }
  BITLAW_LEAF static int32_t nf4(float level) {
    int32_t code = 0;
    BITLAW_UNROLL
    for (int k = 0; k < 15; ++k) code += level > nf4_level(k);
    return code;
  }
  // A NaN level of a uniform grid, whose scale is NaN too, must not reach the conversion.
  BITLAW_LEAF static int32_t whole(float code) {
    return static_cast<int32_t>(code >= -256.0f ? code : 0.0f);
  }
  BITLAW_LEAF static void run(const float* level, uint8_t* code, const float* zero, int64_t groups,
                              int64_t block, Grid g, Kind kind, int64_t bits) {
    const int64_t n = groups * block;
    if (kind == Kind::floating) {
      const int32_t mantissa = 127 - (bits_of(g.epsilon()) >> 23);
      const int32_t least = bits_of(g.smallest_normal()), sign = 1 << (bits - 1);
      const float unit = 1.0f / (g.smallest_normal() * g.epsilon());
      each(level, code, n,
           [=](float v) BITLAW_INLINE { return minifloat(v, mantissa, least, unit, sign); });
    } else if (kind == Kind::nf4) {
      each(level, code, n, [](float v) BITLAW_INLINE { return nf4(v); });
    } else if (zero) {
      for (int64_t b = 0; b < groups; ++b) {
        const float first = g.qmin() - zero[b];
        each(level + b * block, code + b * block, block,
             [=](float v) BITLAW_INLINE { return whole(v - first); });
      }
    } else {
      const float first = g.offset() == 0.0f ? 0.0f : g.qmin() + g.offset();
      each(level, code, n, [=](float v) BITLAW_INLINE { return whole(v - first); });
    }
  }
};

// The level of a code; NaN beyond the largest one.
BITLAW_LEAF float level_of_code(Kind kind, int bits, Grid g, int code) {
  const int codes = 1 << bits, sign = codes / 2;
  if (kind == Kind::nf4) {  // by selection: a GPU has no table at hand
    float level = nf4_level(0);
    BITLAW_UNROLL
    for (int k = 1; k < 16; ++k) level = code == k ? nf4_level(k) : level;
    return level;
  }
  if (kind == Kind::floating) {
    const int mantissa = 127 - (bits_of(g.epsilon()) >> 23), mag = code & (sign - 1);
    const int exponent = mag >> mantissa, part = mag & ((1 << mantissa) - 1);
    float v = static_cast<float>(exponent ? (1 << mantissa) + part : part) * g.epsilon();
    const int power = exponent < 1 ? 0 : exponent > 31 ? 30 : exponent - 1;
    v *= g.smallest_normal() * static_cast<float>(1u << power);
    return v > g.largest() ? kNan : code < sign ? v : -v;
  }
  if (kind == Kind::uniform && g.offset() == 0.0f)
    return static_cast<float>(code < sign ? code : code - codes);
  return static_cast<float>(code) + g.qmin() + g.offset();
}
inline void decode_table(Kind kind, int64_t bits, Grid g, float* level) {
  for (int c = 0; c < 1 << bits; ++c) level[c] = level_of_code(kind, static_cast<int>(bits), g, c);
}

}  // namespace bitlaw
