// The choices of a quantization, and the map of an element to its grid.
#pragma once
#include <cstring>
#include <limits>

#include "core/formats.hpp"
#include "core/minifloat.hpp"

namespace bitlaw {

// How an element is mapped, given its scale.
enum class Kind { uniform, affine, floating, nf4 };
// What a group's scale is taken from; mse_search starts from absmax.
enum class Statistic { absmax, rms, range, mse_search };
// How a scale is stored. e4m3 (NVFP4) has a second scale for the tensor, and x is divided.
enum class Scaling { f32, bf16, pow2, e8m0_floor, e8m0_rceil, e4m3 };
enum class Rounding { nearest, stochastic, toward_zero, away };
// Which elements the straight-through estimator lets pass; identity writes no mask.
enum class Estimator { identity, clip_value, clip_rounded, trust };

// The position of `value` among `names`, as the enum E.
template <class E, size_t n>
E choose(const char* what, const std::string& value, const char* const (&names)[n]) {
  std::string all;
  for (size_t i = 0; i < n; ++i) {
    if (value == names[i]) return static_cast<E>(i);
    all += (i ? ", " : "") + std::string(names[i]);
  }
  throw std::invalid_argument(std::string(what) + " must be one of " + all + ", got " + value);
}
inline Kind parse_kind(const std::string& name) {
  return choose<Kind>("kind", name, {"uniform", "affine", "float", "nf4"});
}
inline Statistic parse_statistic(const std::string& name) {
  return choose<Statistic>("statistic", name, {"absmax", "rms", "range", "mse_search"});
}
inline Scaling parse_scaling(const std::string& name) {
  return choose<Scaling>("scaling", name,
                         {"f32", "bf16", "pow2", "e8m0_floor", "e8m0_rceil", "e4m3"});
}
inline Rounding parse_rounding(const std::string& name) {
  return choose<Rounding>("rounding", name, {"nearest", "stochastic", "toward_zero", "away"});
}
inline Estimator parse_estimator(const std::string& name) {
  return choose<Estimator>("estimator", name, {"identity", "clip_value", "clip_rounded", "trust"});
}

inline constexpr int64_t kGridNumbers = 5;

// The operand grid: f32[items, 5]. Uniform: levels (code + offset) * scale for whole codes
// qmin..qmax; affine: the codes of a group begin at -zero instead. Float: a minifloat.
struct Grid {
  float number[3], span, outer;
  BITLAW_LEAF float qmin() const { return number[0]; }
  BITLAW_LEAF float qmax() const { return number[1]; }
  BITLAW_LEAF float offset() const { return number[2]; }
  BITLAW_LEAF float largest() const { return number[0]; }
  BITLAW_LEAF float smallest_normal() const { return number[1]; }
  BITLAW_LEAF float epsilon() const { return number[2]; }
};
BITLAW_LEAF Grid grid_at(const float* grid, int64_t item) {
  const float* g = grid + kGridNumbers * item;
  return {{g[0] + 0.0f, g[1] + 0.0f, g[2]}, g[3], g[4]};  // no bound is -0, which is no level
}

inline constexpr float kMax = std::numeric_limits<float>::max();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number, ties to even, for
// magnitudes below 2^22. It vectorises on every instruction set; rint does not.
inline constexpr float kRound = 12582912.0f;

BITLAW_LEAF int32_t bits_of(float x) { return std::bit_cast<int32_t>(x); }
BITLAW_LEAF float float_of(int32_t bits) { return std::bit_cast<float>(bits); }
BITLAW_LEAF float with_sign_of(float x, float sign) {
  return float_of(bits_of(x) ^ (bits_of(sign) & ~0x7fffffff));
}
// Written so that NaN stays NaN, as minimum and maximum instructions need not.
BITLAW_LEAF float clamp(float x, float low, float high) {
  x = low > x ? low : x;
  return high < x ? high : x;
}

// ---- the map ---------------------------------------------------------------------------------

// What x is multiplied by, or NaN where its zero point is: bounds of NaN would let all x pass.
BITLAW_LEAF float unless_nan(float by, float zero) { return zero == zero ? by : zero; }

// min(1 / scale, FLT_MAX): a subnormal scale would give infinity, and infinity times zero NaN.
BITLAW_LEAF float inverse_of(float scale) {
  const float inv = 1.0f / scale;
  return inv > kMax ? kMax : inv;
}
// What x is divided by: a zero scale makes zeros, not NaN.
BITLAW_LEAF float divisor_of(float scale) { return scale == 0.0f ? kInfinity : scale; }

BITLAW_LEAF int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
BITLAW_LEAF int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

// The magnitude of x, at most `limit`, rounded to the nearest level of a minifloat, ties to even:
// adding and subtracting its step, times 2^23, does that. Bits are taken of x, not of the minimum:
// the compiler would choose twice.
BITLAW_LEAF float minifloat_round(float x, float limit, float smallest_normal, float epsilon) {
  float mag = __builtin_fabsf(x);
  mag = limit < mag ? limit : mag;
  const int32_t most = bits_of(limit) & kInfinityBits;
  const int32_t power = smaller(larger(bits_of(x) & kInfinityBits, bits_of(smallest_normal)), most);
  const int32_t exponents = bits_of(epsilon * 0x1p23f) - bits_of(1.0f);  // of a power of two
  const float step = float_of(power + exponents);
  return (mag + step) - step;
}

// An element against its grid, in units of the scale (uniform grids: of codes).
struct Mapped {
  float v;        // the element
  float rounded;  // on the grid continued beyond its ends
  float code;     // on the grid
  float level;    // the value of the code
};

// The maps are written without branches. `u` is the threshold of the other roundings: a part of a
// step above it goes to the level away from zero.
struct NearestEven {
  static constexpr bool kNearest = true, kLevelOnly = false, kNoOffset = false;
};
struct Above {
  static constexpr bool kNearest = false, kLevelOnly = false, kNoOffset = false;
  float u;      // below 1
  float least;  // the least level index on the side of x: 0 keeps toward_zero from crossing zero
};

inline constexpr float kNever = 0x1.fffffep-1f;  // a threshold that no part of a step is above

// The same where only the level is wanted; and whether the grid has no offset.
template <bool kNone>
struct NearestLevel : NearestEven {
  static constexpr bool kLevelOnly = true, kNoOffset = kNone;
};
template <bool kNone>
struct AboveLevel : Above {
  static constexpr bool kLevelOnly = true, kNoOffset = kNone;
};

// 1 where the condition holds, else 0, by bits: `? 1 : 0` ends in branches that do not vectorise.
BITLAW_LEAF float one_where(bool condition) {
  return float_of(-static_cast<int32_t>(condition) & bits_of(1.0f));
}

// The whole number t is taken to: floor(t), or one more where the rest is above u; NaN stays NaN.
// (Of x86-64, AVX2 and later have an instruction for it; without, it is slow.)
BITLAW_LEAF float whole_above(float t, float u) {
  const float low = __builtin_floorf(t);
  return low + one_where(t - low > u);
}

template <class Rule>
BITLAW_LEAF Mapped map_uniform(float ratio, float qmin, float qmax, float offset, Rule rule) {
  const float v = Rule::kNoOffset ? ratio : ratio - offset;
  float rounded;
  if constexpr (Rule::kNearest) {
    rounded = (v + kRound) - kRound;  // not whole beyond 2^22, which is beyond all grids
  } else {                            // on magnitudes
    const float mag = __builtin_fabsf(ratio);
    if constexpr (Rule::kNoOffset) {
      rounded = with_sign_of(whole_above(mag, rule.u), ratio) + 0.0f;  // never -0
    } else {
      const float n = whole_above(mag - offset, rule.u);
      rounded = with_sign_of((rule.least > n ? rule.least : n) + offset, ratio) - offset;
    }
  }
  const float code = clamp(rounded, qmin, qmax);
  return {v, rounded, code, Rule::kNoOffset ? code : code + offset};
}

template <class Rule>
BITLAW_LEAF Mapped map_float(float ratio, Grid g, Rule rule) {
  // The largest is a level: clamping to it before or after rounding is one for the level.
  const float limit = Rule::kLevelOnly ? g.largest() : 2.0f * g.largest();
  float mag = __builtin_fabsf(ratio);
  mag = limit < mag ? limit : mag;
  float rounded;
  if constexpr (Rule::kNearest) {
    rounded = minifloat_round(ratio, limit, g.smallest_normal(), g.epsilon());
  } else {
    const int32_t unit = larger(bits_of(mag) & kInfinityBits, bits_of(g.smallest_normal()));
    const float t = mag * (float_of((254 << 23) - unit) * (1.0f / g.epsilon()));
    rounded = whole_above(t, rule.u) * (float_of(unit) * g.epsilon());
  }
  const float code = !Rule::kLevelOnly && g.largest() < rounded ? g.largest() : rounded;
  return {mag, rounded, code, with_sign_of(code, ratio)};
}

inline constexpr float kNf4HalfStep = (kNf4[1] - kNf4[0]) / 2;  // half of the largest step
BITLAW_LEAF float nf4_level(int k) {
  constexpr std::array<float, 16> levels = kNf4;  // a GPU does not see the table itself
  return levels[k];
}

template <class Rule>
BITLAW_LEAF Mapped map_nf4(float ratio, Rule rule) {
  const float v = clamp(ratio, -2.0f, 2.0f);
  float level = nf4_level(0);
  if constexpr (Rule::kNearest) {
    float upper = nf4_level(8);  // two chains of choices, side by side
    BITLAW_UNROLL
    for (int k = 1; k < 8; ++k) {
      const int up = k + 8;
      level = v > 0.5f * (nf4_level(k - 1) + nf4_level(k)) ? nf4_level(k) : level;
      upper = v > 0.5f * (nf4_level(up - 1) + nf4_level(up)) ? nf4_level(up) : upper;
    }
    level = v > 0.5f * (nf4_level(7) + nf4_level(8)) ? upper : level;
  } else {  // on magnitudes, between the neighbours
    const float mag = float_of(magnitude_bits(v));
    float near = 0.0f, far = v < 0.0f ? -nf4_level(6) : nf4_level(8);
    BITLAW_UNROLL
    for (int k = 1; k < 9; ++k) {
      const float here = v < 0.0f ? -nf4_level(k < 7 ? 7 - k : 0) : nf4_level(7 + k);
      const float next = v < 0.0f ? -nf4_level(k < 6 ? 6 - k : 0) : nf4_level(k < 8 ? 8 + k : 15);
      near = mag >= here ? here : near;
      far = mag >= here ? next : far;
    }
    const float taken = mag - near > rule.u * (far - near) ? far : near;
    level = with_sign_of(taken, v) + 0.0f;  // never -0
  }
  return {v, v, clamp(v, -1.0f, 1.0f), level + (v - v)};
}

// What the estimator looks at: v or rounded, which must lie in [low, high] and whose distance from
// the code must be at most `reach`.
struct Pass {
  int32_t use_rounded;  // all ones or zero
  float low, high, reach;
};

BITLAW_LEAF Pass pass_of(Estimator estimator, Kind kind, Grid g) {
  const bool uniform = kind == Kind::uniform || kind == Kind::affine;
  if (estimator == Estimator::trust) {
    const float power = float_of(bits_of(g.largest()) & kInfinityBits);
    const float half = uniform ? 0.5f : kind == Kind::nf4 ? kNf4HalfStep : power * g.epsilon() / 2;
    return {0, -kInfinity, kInfinity, half};
  }
  const int32_t use_rounded = estimator == Estimator::clip_rounded ? -1 : 0;
  if (uniform) return {use_rounded, g.qmin(), g.qmax(), kInfinity};
  return {use_rounded, -g.largest(), g.largest(), kInfinity};
}

BITLAW_LEAF int32_t passes(Mapped m, Pass p, float shift) {
  const int32_t seen = (bits_of(m.rounded) & p.use_rounded) | (bits_of(m.v) & ~p.use_rounded);
  const float e = float_of(seen);
  const int32_t inside = (e >= p.low - shift) & (e <= p.high - shift);
  return inside & (float_of(magnitude_bits(m.v - m.code)) <= p.reach);
}

// The map of a kind, and whether x is divided by the scale or multiplied by its inverse.
enum class Element { uniform, affine, floating, divided, nf4 };

inline Element element_of(Kind kind, Scaling scaling) {
  if (scaling == Scaling::e4m3) {
    require(kind == Kind::floating, "scaling must not be e4m3 unless kind is float");
    return Element::divided;
  }
  constexpr Element kElements[] = {Element::uniform, Element::affine, Element::floating,
                                   Element::nf4};
  return kElements[static_cast<int>(kind)];
}

// `by` is inverse_of(scale), or divisor_of(scale) where x is divided; zero moves affine codes.
template <Element kElement, class Rule>
BITLAW_LEAF Mapped map_element(float x, float by, float zero, Grid g, Rule rule) {
  if constexpr (kElement == Element::uniform)
    return map_uniform(x * by, g.qmin(), g.qmax(), g.offset(), rule);
  else if constexpr (kElement == Element::affine)
    return map_uniform(x * by, g.qmin() - zero, g.qmax() - zero, g.offset(), rule);
  else if constexpr (kElement == Element::floating)
    return map_float(x * by, g, rule);
  else if constexpr (kElement == Element::divided)
    return map_float(x / by, g, rule);
  else
    return map_nf4(x * by, rule);
}

// Calls run.template operator()<element>().
template <class Run>
auto with_element(Element element, const Run& run) {
  switch (element) {
    case Element::uniform:
      return run.template operator()<Element::uniform>();
    case Element::affine:
      return run.template operator()<Element::affine>();
    case Element::floating:
      return run.template operator()<Element::floating>();
    case Element::divided:
      return run.template operator()<Element::divided>();
    default:
      return run.template operator()<Element::nf4>();
  }
}

}  // namespace bitlaw
