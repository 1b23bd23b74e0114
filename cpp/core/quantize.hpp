// Fake quantization: to a grid of a few levels and back, one scale per group.
//
// An array is a list of items; an item is [rows, cols]; `block` columns over all rows of an item
// share one scale. That one layout is every granularity: a scale per row is items of one row and
// block = cols; blocks along the row, block = 32; a scale per column, block = 1; a tile, rows and
// block both above 1. A group that fits the cache is read from memory once.
#pragma once

#include "core/map.hpp"

namespace bitlaw {

// One call's arrays and choices. The scale is either taken from the data or given.
template <class T>
struct Quantize {
  View<const T, 3> x;     // [items, rows, cols]
  const float* grid;      // [items, 5]
  const uint32_t* noise;  // [items, 3]; not read unless stochastic
  T* y;                   // as x
  uint8_t* mask;          // [items, rows, bytes of cols]; null with the identity estimator
  float *scale, *zero;    // [items, cols / block], written unless given; zero: null unless affine
  const float *scale_in, *zero_in;
  Choices choices;
  uint8_t* codes = nullptr;  // [items, rows, bytes of cols codes], written instead of y

  Stretch<T> stretch(int64_t item, int64_t row, int64_t first, int64_t n) const {
    const int64_t rows = x.shape[1], cols = x.shape[2], line = item * rows + row;
    uint8_t* bits = mask ? mask + line * bytes_of_bits(cols) + first / 8 : nullptr;
    Noise bits_of_row{};
    if (choices.rounding == Rounding::stochastic)
      bits_of_row = {noise[3 * item], noise[3 * item + 1],
                     noise[3 * item + 2] + static_cast<uint32_t>(row)};
    const int64_t at = line * cols + first;
    const int64_t bytes = bytes_of_bits(cols * choices.bits);
    return {x.data + at,
            y + at,
            bits,
            codes + line * bytes + first / 8 * choices.bits,
            n,
            first,
            bits_of_row,
            grid_at(grid, item),
            x.data + at + n};
  }
};

// The scales, and zero points, of consecutive groups of one row.
template <class Source>
void scale_groups(const Choices& c, const Source* x, int64_t groups, Grid g, float* scale,
                  float* zero, Scratch& scratch) {
  const bool uniform = c.kind == Kind::uniform;
  if constexpr (std::is_same_v<Source, float>)  // others are staged
    if (c.statistic == Statistic::mse_search)
      return with_element(element_of(c.kind, c.scaling), [&]<Element kElement>() {
        on_isa<SearchGroups<kElement>>(x, groups, c.block, scale, g, c.scaling, uniform, c.pruned);
      });
  float* low = c.statistic == Statistic::range ? scratch.low.at_least(groups) : nullptr;
  on_isa<GroupStatistics<Source>>(x, groups, c.block, c.statistic, c.pruned, scale, low);
  on_isa<ScaleGroups>(static_cast<const float*>(scale), static_cast<const float*>(low), scale, zero,
                      groups, g, c.scaling, uniform);
}

// ---- the three layouts -----------------------------------------------------------------------

// Items of one row: units of whole groups, spread over threads.
template <class T>
void quantize_rows(const Parallel& par, const Quantize<T>& q) {
  const Choices& c = q.choices;
  const int64_t cols = q.x.shape[2], block = c.block, all = cols / block;
  // A unit starts on a byte of the mask and on a run of random columns.
  const int64_t step = block == cols ? cols : std::lcm<int64_t>(block, kRandomRun);
  const int64_t unit = std::min(cols, std::max(step, kUnit / step * step));
  const int64_t units = (cols + unit - 1) / unit;
  const Mapper<T> mapper(c, q.mask != nullptr, block < kChunk);
  // At most 128 chunks: at the end of one, what was fetched ahead is another thread's.
  const int64_t all_units = q.x.shape[0] * units;
  const int64_t grain = std::max(items_per_chunk(unit), all_units / 128);
  par(all_units, grain, [&](int64_t begin, int64_t end) {
    Scratch& scratch = Scratch::of_thread();
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit, n = std::min(unit, cols - first);
      const int64_t groups = n / block, group = item * all + first / block;
      const Stretch<T> s = q.stretch(item, 0, first, n);
      float* const zeros = q.zero ? q.zero + group : nullptr;
      const float* const staged = mapper.stage(s, scratch);
      if (!q.scale_in && staged)
        scale_groups(c, staged, groups, s.grid, q.scale + group, zeros, scratch);
      else if (!q.scale_in)
        scale_groups(c, s.x, groups, s.grid, q.scale + group, zeros, scratch);
      mapper.groups(s, scratch, q.scale_in ? q.scale_in + group : q.scale + group,
                    q.zero_in ? q.zero_in + group : zeros, groups, block);
    }
  });
}

// One group per item, longer than a cache, its scale known.
template <class T>
void quantize_long(const Parallel& par, const Quantize<T>& q, const float* scale,
                   const float* zero) {
  const int64_t rows = q.x.shape[1], cols = q.x.shape[2];
  const int64_t unit = std::min(cols, kUnit), units = (cols + unit - 1) / unit;
  const Mapper<T> mapper(q.choices, q.mask != nullptr, unit < kChunk);
  for (int64_t item = 0; item < q.x.shape[0]; ++item)
    par(rows * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
      Scratch& scratch = Scratch::of_thread();
      for (int64_t u = begin; u < end; ++u) {
        const int64_t first = u % units * unit, n = std::min(unit, cols - first);
        const Stretch<T> s = q.stretch(item, u / units, first, n);
        mapper.stage(s, scratch);
        mapper.groups(s, scratch, scale + item, zero ? zero + item : nullptr, 1, n);
      }
    });
}

// One item of several rows and a scale per block of columns, all known.
template <class T>
void quantize_columns(const Parallel& par, const Quantize<T>& q, int64_t item, const float* scale,
                      const float* zero) {
  const int64_t rows = q.x.shape[1], cols = q.x.shape[2], groups = cols / q.choices.block;
  const Mapper<T> mapper(q.choices, q.mask != nullptr, true);
  // Of all threads: bodies that are given the factors of columns leave these buffers alone.
  const Factors m = mapper.expand(Scratch::of_thread(), scale, zero, groups, q.choices.block);
  par(rows, items_per_chunk(cols), [&](int64_t begin, int64_t end) {
    Scratch& scratch = Scratch::of_thread();
    for (int64_t row = begin; row < end; ++row) {
      const Stretch<T> s = q.stretch(item, row, 0, cols);
      mapper.columns(s, scratch, m);
    }
  });
}

// The scales, and zero points, of all groups of all items.
template <class T>
void scale_array(const Parallel& par, const Quantize<T>& q) {
  const Choices& c = q.choices;
  const int64_t items = q.x.shape[0], groups = q.x.shape[2] / c.block;
  std::vector<float> low(q.zero ? items * groups : 0);
  if (q.x.size() == 0)
    std::fill_n(q.scale, items * groups, 0.0f);
  else
    statistics(par, q.x, c.block, c.statistic, c.pruned, q.scale, q.zero ? low.data() : nullptr);
  for (int64_t i = 0; i < items; ++i) {
    float* const scale = q.scale + i * groups;
    const float* lows = q.zero ? low.data() + i * groups : nullptr;
    on_isa<ScaleGroups>(static_cast<const float*>(scale), lows, scale,
                        q.zero ? q.zero + i * groups : nullptr, groups, grid_at(q.grid, i),
                        c.scaling, c.kind == Kind::uniform);
  }
}

template <class T>
void quantize_array(const Parallel& par, const Quantize<T>& q) {
  const Choices& c = q.choices;
  const auto& x = q.x;
  // What only units of whole groups can do.
  const bool units = !q.scale_in && (c.hadamard || c.statistic == Statistic::mse_search);
  if (x.size() > 0 && x.shape[1] == 1 && (units || !is_long(x, c.block)))
    return quantize_rows(par, q);
  if (!q.scale_in) scale_array(par, q);
  if (x.size() == 0) return;
  const int64_t groups = x.shape[2] / c.block;
  const float* scale = q.scale_in ? q.scale_in : q.scale;
  const float* zero = q.zero_in ? q.zero_in : q.zero;
  if (is_long(x, c.block)) return quantize_long(par, q, scale, zero);
  for_items(par, x, [&](const Parallel& inner, int64_t i) {
    quantize_columns(inner, q, i, scale + i * groups, zero ? zero + i * groups : nullptr);
  });
}

// ---- the ops ---------------------------------------------------------------------------------

struct MapAttrs {
  int64_t block;
  std::string kind, scaling, rounding, estimator;
  int64_t hadamard;
  bool pruned = false;
  static constexpr auto fields() {
    using A = MapAttrs;
    return std::tuple{Field{"block", &A::block},         Field{"kind", &A::kind},
                      Field{"scaling", &A::scaling},     Field{"rounding", &A::rounding},
                      Field{"estimator", &A::estimator}, Field{"hadamard", &A::hadamard}};
  }
};
struct ScaledAttrs : MapAttrs {
  static constexpr auto fields() {
    return std::tuple_cat(MapAttrs::fields(), std::tuple{Field{"pruned", &MapAttrs::pruned}});
  }
};
struct QuantizeAttrs : MapAttrs {
  std::string statistic;
  static constexpr auto fields() {
    return std::tuple_cat(ScaledAttrs::fields(),
                          std::tuple{Field{"statistic", &QuantizeAttrs::statistic}});
  }
};

template <class T>
Choices choices_of(View<const T, 3> x, const MapAttrs& a, Statistic statistic) {
  check(x, a.block, a.hadamard);
  const Choices c{a.block,
                  parse_kind(a.kind),
                  parse_scaling(a.scaling),
                  parse_rounding(a.rounding),
                  parse_estimator(a.estimator),
                  a.pruned,
                  a.hadamard,
                  statistic};
  require(!a.pruned || !a.hadamard, "pruned must not be set together with hadamard");
  require(statistic != Statistic::mse_search || (x.shape[1] == 1 && c.kind != Kind::affine),
          "mse_search must be for items of one row, and not for affine formats");
  element_of(c.kind, c.scaling);
  return c;
}

// Of the ops that take the scale from the data.
template <class T>
Choices choices_of(View<const T, 3> x, const MapAttrs& a, const std::string& statistic) {
  const Choices c = choices_of(x, a, parse_statistic(statistic));
  require((c.kind == Kind::affine) == (c.statistic == Statistic::range),
          "affine formats take the statistic range");
  return c;
}

template <class T>
void fake_quantize(const Parallel& par, View<const T, 3> x, View<const float, 2> grid,
                   View<const uint32_t, 2> noise, View<T, 3> y, View<float, 2> scale,
                   View<float, 2> zero, View<uint8_t, 3> mask, QuantizeAttrs a) {
  const Choices c = choices_of(x, a, a.statistic);
  quantize_array<T>(par, {x, grid.data, noise.data, y.data,
                          c.estimator == Estimator::identity ? nullptr : mask.data, scale.data,
                          c.kind == Kind::affine ? zero.data : nullptr, nullptr, nullptr, c});
}

template <class T>
void fake_quantize_scaled(const Parallel& par, View<const T, 3> x, View<const float, 2> scale,
                          View<const float, 2> zero, View<const float, 2> grid,
                          View<const uint32_t, 2> noise, View<T, 3> y, View<uint8_t, 3> mask,
                          ScaledAttrs a) {
  const Choices c = choices_of(x, a, Statistic::absmax);
  quantize_array<T>(par, {x, grid.data, noise.data, y.data,
                          c.estimator == Estimator::identity ? nullptr : mask.data, nullptr,
                          nullptr, scale.data, c.kind == Kind::affine ? zero.data : nullptr, c});
}

}  // namespace bitlaw
