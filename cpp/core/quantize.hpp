// Fake quantization: to a grid of a few levels and back, one scale per group.
//
// An array is a list of items; an item is [rows, cols]; `block` columns over all rows of an item
// share one scale. That one layout is every granularity: a scale per row is items of one row and
// block = cols; blocks along the row, block = 32; a scale per column, block = 1; a tile, rows and
// block both above 1. A group that fits the cache is read from memory once.
#pragma once
#include <numeric>
#include <tuple>
#include <vector>

#include "core/bits.hpp"
#include "core/statistic.hpp"

namespace bitlaw {

struct QuantizeAttrs {
  int64_t block;
  std::string statistic, estimator;
  bool pruned;  // exact zeros are pruned weights: they stay zero and take no part in the scale
  static constexpr auto fields() {
    return std::tuple{
        Field{"block", &QuantizeAttrs::block}, Field{"statistic", &QuantizeAttrs::statistic},
        Field{"estimator", &QuantizeAttrs::estimator}, Field{"pruned", &QuantizeAttrs::pruned}};
  }
};

struct ScaledAttrs {
  int64_t block;
  std::string estimator;
  bool pruned;
  static constexpr auto fields() {
    return std::tuple{Field{"block", &ScaledAttrs::block},
                      Field{"estimator", &ScaledAttrs::estimator},
                      Field{"pruned", &ScaledAttrs::pruned}};
  }
};

// One call's arrays and choices. The scale is either taken from the data or given.
template <class T>
struct Quantize {
  View<const T, 3> x;     // [items, rows, cols]
  const float* grid;      // [items, 4]
  T* y;                   // as x; null: statistics only
  float* scale;           // [items, cols / block], written; null where scale_in is given
  const float* scale_in;  // as scale
  uint8_t* mask;          // [items, rows, bytes of cols]; null with the identity estimator
  int64_t block;
  Statistic statistic;
  Estimator estimator;
  bool pruned;

  int64_t rows() const { return x.shape[1]; }
  int64_t cols() const { return x.shape[2]; }
  int64_t groups() const { return cols() / block; }
  bool square() const { return statistic == Statistic::rms; }
  Grid grid_of(int64_t item) const {
    const float* g = grid + 4 * item;
    return {g[0], g[1], g[2], g[3]};
  }
};

// Elements worked on at a time while they stay in the first-level cache.
inline constexpr int64_t kUnit = 8192;
// Elements mapped between two looks ahead.
inline constexpr int64_t kPiece = 512;
inline std::vector<uint8_t>& flags_of_thread(int64_t n) {
  static thread_local std::vector<uint8_t> flags;
  if (static_cast<int64_t>(flags.size()) < n) flags.resize(n);
  return flags;
}

// ---- leaves ----------------------------------------------------------------------------------

// Consecutive groups of one row: all statistics, all scales, then the map, and the mask's bits.
// kBlock = 0 takes the block from the argument; a constant lets the compiler unroll the group.
template <class T, int kBlock, Estimator kEstimator, bool kPruned>
struct QuantizeGroups {
  BITLAW_LEAF static void run(const T* x, T* y, float* scale, const float* scale_in, uint8_t* flags,
                              uint8_t* mask, int64_t groups, int64_t block, Grid g, bool rms) {
    const int64_t n = kBlock ? kBlock : block;
    if (!scale_in) {
      const Statistic statistic = rms ? Statistic::rms : Statistic::absmax;
      for (int64_t b = 0; b < groups; ++b)
        scale[b] = rms ? statistic_of(sums_of(x + b * n, n, true, kPruned), statistic)
                       : std::bit_cast<float>(absmax_bits(x + b * n, n));
      BITLAW_LOOP
      for (int64_t b = 0; b < groups; ++b) scale[b] = scale_of(scale[b], g.span);
      scale_in = scale;
    }
    float inverses[kBlock ? kUnit / kBlock : 1];  // of short groups, all at once
    if constexpr (kBlock > 0) {
      BITLAW_LOOP
      for (int64_t b = 0; b < groups; ++b) inverses[b] = inverse_of(scale_in[b]);
    }
    for (int64_t b = 0; b < groups; ++b) {
      const float inv = kBlock ? inverses[b] : inverse_of(scale_in[b]);
      // In pieces, each of which fetches its like of the next unit: the next statistic then finds
      // its data in cache while this map computes (1.6x in bench/kernels, one thread).
      for (int64_t i = b * n; i < (b + 1) * n; i += kPiece) {
        const int64_t m = kBlock ? n : (b + 1) * n - i < kPiece ? (b + 1) * n - i : kPiece;
        for (int64_t p = 0; p < m; p += 64 / static_cast<int64_t>(sizeof(T)))
          __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x) +
                                                           (groups * n + i + p) * sizeof(T)));
        map_group<T, kEstimator, kPruned>(x + i, y + i,
                                          kEstimator == Estimator::identity ? nullptr : flags + i,
                                          m, scale_in[b], inv, g);
      }
    }
    if constexpr (kEstimator != Estimator::identity) pack_flags(flags, mask, groups * n);
  }
};

// Rows whose columns have a scale each.
template <class T, Estimator kEstimator, bool kPruned>
struct QuantizeColumns {
  static constexpr bool kFlags = kEstimator != Estimator::identity;
  BITLAW_LEAF static void run(const T* x, T* y, const float* scale, const float* inv,
                              uint8_t* flags, uint8_t* mask, int64_t rows, int64_t cols, Grid g) {
    for (int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c) {
        const Rounded v = round_to_grid<kEstimator, kPruned>(to_float(x[c]), scale[c], inv[c], g);
        y[c] = Narrow<T>::from(v.value);
        if constexpr (kFlags) flags[c] = v.keep();
      }
      if constexpr (kFlags) {
        pack_flags(flags, mask, cols);
        mask += bytes_of_bits(cols);
      }
    }
  }
};

// ---- the three layouts -----------------------------------------------------------------------

// Items of one row: units of whole groups, spread over threads.
template <class T>
void quantize_rows(const Parallel& par, const Quantize<T>& q) {
  const int64_t cols = q.cols(), block = q.block;
  // A unit starts on a byte of the mask.
  const int64_t step = block == cols ? cols : std::lcm<int64_t>(block, 8);
  const int64_t unit = std::min(cols, std::max(step, kUnit / step * step));
  const int64_t units = (cols + unit - 1) / unit;
  par(q.x.shape[0] * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    uint8_t* flags = q.mask ? flags_of_thread(unit).data() : nullptr;
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit;
      const int64_t groups = (std::min(cols, first + unit) - first) / block;
      const int64_t at = item * cols + first, group = item * q.groups() + first / block;
      uint8_t* mask = q.mask ? q.mask + item * bytes_of_bits(cols) + first / 8 : nullptr;
      with_variant(q.estimator, q.pruned, [&]<Estimator kEstimator, bool kPruned>() {
        const auto run = [&]<int kBlock>() {
          on_isa<QuantizeGroups<T, kBlock, kEstimator, kPruned>>(
              q.x.data + at, q.y + at, q.scale_in ? nullptr : q.scale + group,
              q.scale_in ? q.scale_in + group : nullptr, flags, mask, groups, block,
              q.grid_of(item), q.square());
        };
        block == 32 ? run.template operator()<32>() : run.template operator()<0>();
      });
    }
  });
}

// One group per item, longer than a cache, its scale known.
template <class T>
void quantize_long(const Parallel& par, const Quantize<T>& q, const float* scale) {
  const int64_t rows = q.rows(), cols = q.cols(), n = rows * cols;
  for (int64_t item = 0; item < q.x.shape[0]; ++item) {
    const Grid g = q.grid_of(item);
    const int64_t unit = std::min(cols, kUnit), units = (cols + unit - 1) / unit;
    par(rows * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
      uint8_t* flags = q.mask ? flags_of_thread(unit).data() : nullptr;
      for (int64_t u = begin; u < end; ++u) {
        const int64_t row = u / units, first = u % units * unit;
        const int64_t at = item * n + row * cols + first;
        const int64_t byte = (item * rows + row) * bytes_of_bits(cols) + first / 8;
        uint8_t* mask = q.mask ? q.mask + byte : nullptr;
        with_variant(q.estimator, q.pruned, [&]<Estimator kEstimator, bool kPruned>() {
          on_isa<QuantizeGroups<T, 0, kEstimator, kPruned>>(
              q.x.data + at, q.y + at, static_cast<float*>(nullptr), scale + item, flags, mask,
              int64_t{1}, std::min(unit, cols - first), g, q.square());
        });
      }
    });
  }
}

// One item of several rows and a scale per block of columns, all known.
template <class T>
void quantize_columns(const Parallel& par, const Quantize<T>& q, int64_t item, const float* scale) {
  const int64_t rows = q.rows(), cols = q.cols();
  const Grid g = q.grid_of(item);
  std::vector<float> column_scale(cols), column_inv(cols);
  for (int64_t c = 0; c < cols; ++c) column_scale[c] = scale[c / q.block];
  for (int64_t c = 0; c < cols; ++c) column_inv[c] = inverse_of(column_scale[c]);
  par(rows, items_per_chunk(cols), [&](int64_t begin, int64_t end) {
    const int64_t at = (item * rows + begin) * cols;
    uint8_t* flags = q.mask ? flags_of_thread(cols).data() : nullptr;
    uint8_t* mask = q.mask ? q.mask + (item * rows + begin) * bytes_of_bits(cols) : nullptr;
    with_variant(q.estimator, q.pruned, [&]<Estimator kEstimator, bool kPruned>() {
      on_isa<QuantizeColumns<T, kEstimator, kPruned>>(q.x.data + at, q.y + at, column_scale.data(),
                                                      column_inv.data(), flags, mask, end - begin,
                                                      cols, g);
    });
  });
}

template <class T>
void quantize(const Parallel& par, const Quantize<T>& q) {
  const auto& x = q.x;
  if (x.size() == 0) return;
  if (x.shape[1] == 1 && !is_long(x, q.block)) return quantize_rows(par, q);
  const int64_t n = x.shape[0] * q.groups();
  if (!q.scale_in) {
    statistics(par, x, q.block, q.statistic, q.pruned, q.scale);
    for (int64_t i = 0; i < n; ++i)
      q.scale[i] = scale_of(q.scale[i], q.grid_of(i / q.groups()).span);
  }
  const float* scale = q.scale_in ? q.scale_in : q.scale;
  if (is_long(x, q.block)) return quantize_long(par, q, scale);
  for_items(par, x, [&](const Parallel& inner, int64_t i) {
    quantize_columns(inner, q, i, scale + i * q.groups());
  });
}

// ---- the ops ---------------------------------------------------------------------------------

template <class T>
void fake_quantize(const Parallel& par, View<const T, 3> x, View<const float, 2> grid, View<T, 3> y,
                   View<float, 2> scale, View<uint8_t, 3> mask, QuantizeAttrs a) {
  check(x, a.block);
  const Estimator estimator = parse_estimator(a.estimator);
  if (x.size() == 0) std::fill_n(scale.data, scale.size(), 0.0f);
  quantize<T>(par, {x, grid.data, y.data, scale.data, nullptr,
                    estimator == Estimator::identity ? nullptr : mask.data, a.block,
                    parse_statistic(a.statistic), estimator, a.pruned});
}

template <class T>
void fake_quantize_scaled(const Parallel& par, View<const T, 3> x, View<const float, 2> scale,
                          View<const float, 2> grid, View<T, 3> y, View<uint8_t, 3> mask,
                          ScaledAttrs a) {
  check(x, a.block);
  const Estimator estimator = parse_estimator(a.estimator);
  quantize<T>(par, {x, grid.data, y.data, nullptr, scale.data,
                    estimator == Estimator::identity ? nullptr : mask.data, a.block,
                    Statistic::absmax, estimator, a.pruned});
}

}  // namespace bitlaw
