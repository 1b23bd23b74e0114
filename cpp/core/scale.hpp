// The scale of a group: from its statistic, stored as the format stores it.
#pragma once
#include "core/statistic.hpp"

namespace bitlaw {

// 2^(field - 127); field 0 is 2^-127.
BITLAW_LEAF float e8m0(int32_t field) { return float_of(field > 0 ? field << 23 : 0x00400000); }

// The stored scale of a group, from its statistic; NaN if that is not finite: the group is
// poisoned. `uniform` grids have their power-of-two scale bounded where the scale of MX integers,
// whose largest level is just below 2, would end.
template <Scaling kScaling>
BITLAW_LEAF float stored_scale(float statistic, Grid g, bool uniform) {
  const float quotient = statistic / g.span;
  float scale = quotient > kMax ? kMax : quotient;
  const int32_t bits = bits_of(scale);
  const int32_t exponent = (bits_of(g.span) >> 23) - 127;  // of the span
  if constexpr (kScaling == Scaling::bf16) {
    int32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
    rounded = rounded > 0x7f7f0000 ? 0x7f7f0000 : rounded;
    rounded = rounded == 0 && bits > 0 ? 0x10000 : rounded;
    scale = float_of(rounded);
  } else if constexpr (kScaling == Scaling::pow2) {
    const auto up = static_cast<int32_t>((static_cast<uint32_t>(bits) + 0x7fffff) & kInfinityBits);
    scale = float_of(up > 0x7f000000 ? 0x7f000000 : up);
  } else if constexpr (kScaling == Scaling::e8m0_floor) {
    scale = e8m0((bits_of(statistic) >> 23) - exponent);
  } else if constexpr (kScaling == Scaling::e8m0_rceil) {
    const auto above = static_cast<uint32_t>(bits) + 0x7fffff;  // unsigned: of NaN it overflows
    const int32_t field = bits <= 0x00400000 ? 0 : static_cast<int32_t>(above >> 23);
    scale = field > (uniform ? 254 - exponent : 254) ? kNan : e8m0(field);
  } else if constexpr (kScaling == Scaling::e4m3) {
    // NaN stays NaN, and nothing rounds past 448, not even what is negative.
    const float of = scale * g.outer;
    scale = with_sign_of(minifloat_round(of, 448.0f, 0x1p-6f, 0x1p-3f), of) / g.outer;
  }
  return statistic <= kMax ? scale : kNan;
}

// Scales, and zero points of a range, of groups that share a grid; `high` may be `scale`.
struct ScaleGroups {
  template <Scaling kScaling>
  BITLAW_LEAF static void store(const float* high, const float* low, float* scale, int64_t n,
                                Grid g, bool uniform) {
    BITLAW_LOOP
    for (int64_t b = 0; b < n; ++b) {
      float s = high[b];
      if (low) {  // a sum that overflows is not a poisoned group
        const float sum = s + low[b], most = s > low[b] ? s : low[b];
        s = sum > kMax && most <= kMax ? kMax : sum;
      }
      scale[b] = stored_scale<kScaling>(s, g, uniform);
    }
  }
  BITLAW_LEAF static void run(const float* high, const float* low, float* scale, float* zero,
                              int64_t n, Grid g, Scaling scaling, bool uniform) {
    switch (scaling) {
      case Scaling::f32:
        store<Scaling::f32>(high, low, scale, n, g, uniform);
        break;
      case Scaling::bf16:
        store<Scaling::bf16>(high, low, scale, n, g, uniform);
        break;
      case Scaling::pow2:
        store<Scaling::pow2>(high, low, scale, n, g, uniform);
        break;
      case Scaling::e8m0_floor:
        store<Scaling::e8m0_floor>(high, low, scale, n, g, uniform);
        break;
      case Scaling::e8m0_rceil:
        store<Scaling::e8m0_rceil>(high, low, scale, n, g, uniform);
        break;
      case Scaling::e4m3:
        store<Scaling::e4m3>(high, low, scale, n, g, uniform);
        break;
    }
    if (!low) return;
    for (int64_t b = 0; b < n; ++b) {
      const float steps = low[b] / scale[b];
      const float most = steps > g.span ? g.span : steps;
      zero[b] = scale[b] > 0.0f ? (most + kRound) - kRound : 0.0f;
    }
  }
};

// ---- mse_search ------------------------------------------------------------------------------

inline constexpr int kCandidates = 8;

// Of the scales of (16 - k) / 16 of absmax, k = 0..7, the one with the least squared error of
// nearest rounding; of equals the largest. Errors are in units of absmax; element j of a group adds
// to lane j mod 16, lanes add up in order.
template <Element kElement>
struct SearchGroups {
  // lane[j mod 16] = the sum of the errors of those elements.
  BITLAW_LEAF static void errors(const float* x, int64_t n, float scale, float unit, bool pruned,
                                 Grid g, float* lane) {
    const float by = kElement == Element::divided ? divisor_of(scale) : inverse_of(scale);
    const auto squared = [&](float v) BITLAW_INLINE {
      const float y = map_element<kElement>(v, by, 0.0f, g, NearestEven{}).level * scale;
      const float d = (v - y) * unit;
      return pruned && v == 0.0f ? 0.0f : d * d;
    };
    float sum[kLanes] = {};
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) {
      BITLAW_CHUNK
      for (int l = 0; l < kLanes; ++l) sum[l] += squared(x[i + l]);
    }
    for (int l = 0; l < kLanes; ++l) lane[l] = sum[l];
    for (int64_t i = whole; i < n; ++i) lane[i - whole] += squared(x[i]);
  }
  BITLAW_LEAF static void run(const float* x, int64_t groups, int64_t block, float* scale, Grid g,
                              Scaling scaling, bool uniform, bool pruned) {
    for (int64_t b = 0; b < groups; ++b) {
      const float amax = float_of(absmax_bits(x + b * block, block)), unit = inverse_of(amax);
      float candidates[kCandidates], lane[kCandidates][kLanes], error[kCandidates] = {};
      for (int k = 0; k < kCandidates; ++k)
        candidates[k] = amax * (static_cast<float>(16 - k) / 16.0f);
      ScaleGroups::run(candidates, nullptr, candidates, nullptr, kCandidates, g, scaling, uniform);
      for (int k = 0; k < kCandidates; ++k)
        errors(x + b * block, block, candidates[k], unit, pruned, g, lane[k]);
      for (int l = 0; l < kLanes; ++l)  // the chains of all candidates side by side
        for (int k = 0; k < kCandidates; ++k) error[k] += lane[k][l];
      float least = kInfinity;
      scale[b] = candidates[0];
      for (int k = 0; k < kCandidates; ++k) {
        scale[b] = error[k] < least ? candidates[k] : scale[b];
        least = error[k] < least ? error[k] : least;
      }
    }
  }
};

// ---- the ops ---------------------------------------------------------------------------------

struct ScaleAttrs {
  std::string kind, scaling;
  static constexpr auto fields() {
    return std::tuple{Field{"kind", &ScaleAttrs::kind}, Field{"scaling", &ScaleAttrs::scaling}};
  }
};

// The power of two at or below |x|, in [2^-126, 2^126]; 1 where x is not finite.
BITLAW_LEAF float power_of(float x) {
  const int32_t bits = magnitude_bits(x) & kInfinityBits;
  const float power = clamp(float_of(bits), 0x1p-126f, 0x1p126f);
  return bits == kInfinityBits ? 1.0f : power;
}

// min(448 span / statistic, FLT_MAX), 1 where the statistic is zero, NaN where it is not finite.
BITLAW_LEAF float outer_of(float statistic, float span) {
  const float ratio = 448.0f * span / statistic;
  const float scale = ratio > kMax ? kMax : ratio;
  return statistic <= kMax ? (statistic > 0.0f ? scale : 1.0f) : kNan;
}

// unit[item, b]: the power of two at or below largest, in [2^-126, 2^126]; 1 where that is not
// finite. ratio[item, b] = statistic / unit.
inline void statistic_ratio(const Parallel&, View<const float, 2> statistic,
                            View<const float, 2> largest, View<float, 2> ratio,
                            View<float, 2> unit) {
  for (int64_t i = 0; i < statistic.size(); ++i) {
    unit.data[i] = power_of(largest.data[i]);
    ratio.data[i] = statistic.data[i] / unit.data[i];
  }
}

// The scales, and zero points, of statistics in units of `unit`.
inline void statistic_scale(const Parallel&, View<const float, 2> high, View<const float, 2> low,
                            View<const float, 2> unit, View<const float, 2> grid,
                            View<float, 2> scale, View<float, 2> zero, ScaleAttrs a) {
  const Kind kind = parse_kind(a.kind);
  const Scaling scaling = parse_scaling(a.scaling);
  const int64_t groups = high.shape[1];
  std::vector<float> lows(low.data, low.data + low.size());
  for (int64_t i = 0; i < high.size(); ++i) scale.data[i] = high.data[i] * unit.data[i];
  for (size_t i = 0; i < lows.size(); ++i) lows[i] *= unit.data[i];
  for (int64_t i = 0; i < high.shape[0] && groups > 0; ++i) {
    const bool range = kind == Kind::affine;
    float* s = scale.data + i * groups;
    on_isa<ScaleGroups>(static_cast<const float*>(s),
                        static_cast<const float*>(range ? lows.data() + i * groups : nullptr), s,
                        range ? zero.data + i * groups : nullptr, groups, grid_at(grid.data, i),
                        scaling, kind == Kind::uniform);
  }
}

inline void outer_scale(const Parallel&, View<const float, 2> statistic, View<const float, 2> grid,
                        View<float, 2> outer) {
  const int64_t groups = statistic.shape[1];
  for (int64_t i = 0; i < statistic.size(); ++i)
    outer.data[i] = outer_of(statistic.data[i], grid_at(grid.data, i / groups).span);
}

}  // namespace bitlaw
