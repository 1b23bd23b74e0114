// One group of a fake quantization: its statistic, its scale, and the map of an element to the
// grid.
#pragma once
#include <limits>

#include "core/minifloat.hpp"

namespace bitlaw {

// What a group's scale is taken from.
enum class Statistic { absmax, rms };
// Which elements the straight-through estimator lets pass; identity writes no mask.
enum class Estimator { identity, clip_rounded, trust };

inline Statistic parse_statistic(const std::string& name) {
  if (name == "absmax") return Statistic::absmax;
  if (name == "rms") return Statistic::rms;
  throw std::invalid_argument("statistic must be absmax or rms, got " + name);
}
inline Estimator parse_estimator(const std::string& name) {
  if (name == "identity") return Estimator::identity;
  if (name == "clip_rounded") return Estimator::clip_rounded;
  if (name == "trust") return Estimator::trust;
  throw std::invalid_argument("estimator must be identity, clip_rounded or trust, got " + name);
}

// Levels (code + offset) * scale for whole codes qmin..qmax; scale = statistic / span.
struct Grid {
  float qmin, qmax, offset, span;
};

// ---- the scale -------------------------------------------------------------------------------

// Partial sums run in a fixed order: element j of a stretch goes to lane j mod 16, lanes add up in
// order, stretches of kStretch elements add up in order.
inline constexpr int64_t kStretch = 4096;
inline constexpr int kLanes = 16;

struct Sums {
  int32_t amax = 0;   // as bits: an integer maximum keeps NaN, a float one may drop it
  double square = 0;  // exact squares of floats, so it neither overflows nor underflows
  int64_t count = 0;  // elements that take part

  BITLAW_LEAF void add(const Sums& other) {
    amax = amax > other.amax ? amax : other.amax;
    square += other.square;
    count += other.count;
  }
};

// absmax, or the root of the mean square; NaN or infinite if an element is.
BITLAW_LEAF float statistic_of(const Sums& s, Statistic statistic) {
  if (statistic == Statistic::absmax) return std::bit_cast<float>(s.amax);
  return static_cast<float>(
      __builtin_sqrt(s.square / static_cast<double>(s.count > 0 ? s.count : 1)));
}

// min(statistic / span, FLT_MAX), or NaN if the statistic is not finite: the group is poisoned.
BITLAW_LEAF float scale_of(float statistic, float span) {
  constexpr float kMax = std::numeric_limits<float>::max();
  const float scale = statistic / span;
  const float finite = scale > kMax ? kMax : scale;
  return statistic <= kMax ? finite : std::numeric_limits<float>::quiet_NaN();
}

template <class T>
BITLAW_LEAF int32_t absmax_bits(const T* x, int64_t n) {
  int32_t amax = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t m = magnitude_bits(to_float(x[i]));
    amax = amax > m ? amax : m;
  }
  return amax;
}

// Sums of n <= kStretch elements.
template <class T>
BITLAW_LEAF Sums sums_of_stretch(const T* x, int64_t n, bool square, bool pruned) {
  Sums s{absmax_bits(x, n), 0, n};
  if (square) {
    double lane[kLanes] = {};
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        const double v = to_float(x[i + l]);
        lane[l] += v * v;
      }
    for (int64_t i = whole; i < n; ++i) {
      const double v = to_float(x[i]);
      lane[i - whole] += v * v;
    }
    for (double part : lane) s.square += part;
  }
  if (pruned) {
    int64_t zeros = 0;
    for (int64_t i = 0; i < n; ++i) zeros += to_float(x[i]) == 0.0f;
    s.count -= zeros;
  }
  return s;
}

template <class T>
BITLAW_LEAF Sums sums_of(const T* x, int64_t n, bool square, bool pruned) {
  Sums s;
  for (int64_t i = 0; i < n; i += kStretch)
    s.add(sums_of_stretch(x + i, n - i < kStretch ? n - i : kStretch, square, pruned));
  return s;
}

// ---- the map ---------------------------------------------------------------------------------

// min(1 / scale, FLT_MAX): a subnormal scale would give infinity, and infinity times zero NaN.
BITLAW_LEAF float inverse_of(float scale) {
  constexpr float kMax = std::numeric_limits<float>::max();
  const float inv = 1.0f / scale;
  return inv > kMax ? kMax : inv;
}

// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number, ties to even, for
// magnitudes below 2^22. It vectorises on every instruction set; rint does not.
inline constexpr float kRound = 12582912.0f;

struct Rounded {
  float value;
  float away;  // of what the estimator looks at from the level taken, in steps
  // Whether the estimator lets the gradient pass.
  BITLAW_LEAF uint8_t keep() const { return __builtin_fabsf(away) <= 0.5f; }
};

// The estimator and `pruned` are constants of the inner loops; see with_variant.
template <Estimator kEstimator, bool kPruned>
BITLAW_LEAF Rounded round_to_grid(float x, float scale, float inv, Grid g) {
  float v = x * inv - g.offset;
  v = g.qmin - 1.0f > v ? g.qmin - 1.0f : v;  // written so that NaN stays NaN
  v = g.qmax + 1.0f < v ? g.qmax + 1.0f : v;
  const float code = (v + kRound) - kRound;
  float c = g.qmin > code ? g.qmin : code;
  c = g.qmax < c ? g.qmax : c;
  const float away = (kEstimator == Estimator::trust ? v : code) - c;
  const float value = (c + g.offset) * scale;
  return {kPruned && x == 0.0f ? 0.0f : value, away};
}

// y, and flags unless the estimator is the identity, of n elements that share one scale.
template <class T, Estimator kEstimator, bool kPruned>
BITLAW_LEAF void map_group(const T* x, T* y, uint8_t* flags, int64_t n, float scale, float inv,
                           Grid g) {
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i) {
    const Rounded r = round_to_grid<kEstimator, kPruned>(to_float(x[i]), scale, inv, g);
    y[i] = Narrow<T>::from(r.value);
    if constexpr (kEstimator != Estimator::identity) flags[i] = r.keep();
  }
}

// Calls run.template operator()<estimator, pruned>().
template <class Run>
void with_variant(Estimator estimator, bool pruned, const Run& run) {
  const auto with = [&]<Estimator kEstimator>() {
    pruned ? run.template operator()<kEstimator, true>()
           : run.template operator()<kEstimator, false>();
  };
  switch (estimator) {
    case Estimator::identity:
      return with.template operator()<Estimator::identity>();
    case Estimator::clip_rounded:
      return with.template operator()<Estimator::clip_rounded>();
    case Estimator::trust:
      return with.template operator()<Estimator::trust>();
  }
}

}  // namespace bitlaw
