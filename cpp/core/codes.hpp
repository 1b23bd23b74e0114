// Quantization to packed codes and back; together, fake quantization.
#pragma once
#include "core/quantize.hpp"

namespace bitlaw {

// Codes to values: a table of levels, times the scale of each element.
struct DecodeCodes {
  BITLAW_LEAF static void run(const uint8_t* code, const float* level, const float* step,
                              const float* zero, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = level[code[i]];
    if (zero) {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) y[i] -= zero[i];
    }
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) y[i] *= step[i];
  }
};

// out[i] = number of the group of column first + i.
inline void expand_columns(const float* number, int64_t first, int64_t n, int64_t block,
                           float* out) {
  for (int64_t i = 0; i < n;) {
    const int64_t group = (first + i) / block, m = std::min(n - i, (group + 1) * block - first - i);
    std::fill_n(out + i, m, number[group]);
    i += m;
  }
}

inline void check_bits(int64_t bits, Kind kind) {
  require(bits >= 1 && bits <= 8 && (kind != Kind::nf4 || bits == 4),
          "bits must be 1 to 8, and 4 of nf4, got " + std::to_string(bits));
}

// ---- the ops ---------------------------------------------------------------------------------

struct ScaledCodesAttrs : MapAttrs {
  int64_t bits;
  static constexpr auto fields() {
    return std::tuple_cat(MapAttrs::fields(), std::tuple{Field{"bits", &ScaledCodesAttrs::bits}});
  }
};
struct CodesAttrs : ScaledCodesAttrs {
  std::string statistic;
  static constexpr auto fields() {
    return std::tuple_cat(ScaledCodesAttrs::fields(),
                          std::tuple{Field{"statistic", &CodesAttrs::statistic}});
  }
};
struct DequantizeAttrs {
  int64_t block, bits, hadamard;
  std::string kind;
  static constexpr auto fields() {
    using A = DequantizeAttrs;
    return std::tuple{Field{"block", &A::block}, Field{"bits", &A::bits},
                      Field{"hadamard", &A::hadamard}, Field{"kind", &A::kind}};
  }
};

template <class T>
void quantize(const Parallel& par, View<const T, 3> x, View<const float, 2> grid,
              View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<float, 2> scale,
              View<float, 2> zero, View<uint8_t, 3> mask, CodesAttrs a) {
  Choices c = choices_of(x, a, a.statistic);
  check_bits(a.bits, c.kind);
  c.bits = a.bits;
  quantize_array<T>(
      par,
      {x, grid.data, noise.data, nullptr, c.estimator == Estimator::identity ? nullptr : mask.data,
       scale.data, c.kind == Kind::affine ? zero.data : nullptr, nullptr, nullptr, c, codes.data});
}

template <class T>
void quantize_scaled(const Parallel& par, View<const T, 3> x, View<const float, 2> scale,
                     View<const float, 2> zero, View<const float, 2> grid,
                     View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<uint8_t, 3> mask,
                     ScaledCodesAttrs a) {
  Choices c = choices_of(x, a, Statistic::absmax);
  check_bits(a.bits, c.kind);
  c.bits = a.bits;
  quantize_array<T>(
      par,
      {x, grid.data, noise.data, nullptr, c.estimator == Estimator::identity ? nullptr : mask.data,
       nullptr, nullptr, scale.data, c.kind == Kind::affine ? zero.data : nullptr, c, codes.data});
}

template <class T>
void dequantize(const Parallel& par, View<const uint8_t, 3> codes, View<const float, 2> scale,
                View<const float, 2> zero, View<const float, 2> grid, View<T, 3> y,
                DequantizeAttrs a) {
  const int64_t rows = y.shape[1], cols = y.shape[2], groups = scale.shape[1];
  const Kind kind = parse_kind(a.kind);
  check_bits(a.bits, kind);
  const int64_t unit = std::min(cols, kUnit), units = unit ? (cols + unit - 1) / unit : 0;
  par(y.shape[0] * rows * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    Scratch& scratch = Scratch::of_thread();
    float table[256] = {};
    int64_t tabled = -1;
    for (int64_t u = begin; u < end; ++u) {
      const int64_t line = u / units, item = line / rows, first = u % units * unit;
      const int64_t n = std::min(unit, cols - first);
      if (item != tabled) decode_table(kind, a.bits, grid_at(grid.data, item), table);
      tabled = item;
      uint8_t* code = scratch.codes.at_least(n);
      const uint8_t* packed = codes.data + line * codes.shape[2] + first / 8 * a.bits;
      with_bits(a.bits, [&]<int k>() { on_isa<UnpackCodes<k>>(packed, code, n); });
      float *step = scratch.step.at_least(n), *v = scratch.staged.at_least(n), *zeros = nullptr;
      expand_columns(scale.data + item * groups, first, n, a.block, step);
      if (kind == Kind::affine) {
        zeros = scratch.zero.at_least(n);
        expand_columns(zero.data + item * groups, first, n, a.block, zeros);
      }
      on_isa<DecodeCodes>(static_cast<const uint8_t*>(code), static_cast<const float*>(table),
                          static_cast<const float*>(step), static_cast<const float*>(zeros), v, n);
      if (a.hadamard) rotate(v, v, n, a.hadamard);
      on_isa<NarrowTo<T>>(static_cast<const float*>(v), y.data + line * cols + first, n);
    }
  });
}

}  // namespace bitlaw
