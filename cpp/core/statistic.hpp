// Statistics of groups, from which scales are taken: items, rows and blocks as in quantize.hpp.
#pragma once
#include <tuple>
#include <vector>

#include "core/grid.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

struct StatisticAttrs {
  int64_t block;
  std::string statistic;
  bool pruned;
  static constexpr auto fields() {
    return std::tuple{Field{"block", &StatisticAttrs::block},
                      Field{"statistic", &StatisticAttrs::statistic},
                      Field{"pruned", &StatisticAttrs::pruned}};
  }
};

// A longer group is split over threads: one pass for its statistic, one for its map.
inline constexpr int64_t kLong = 64 * 1024;

template <class T>
bool is_long(View<const T, 3> x, int64_t block) {
  return block == x.shape[2] && x.item_size() > kLong;
}

// Many items go to threads whole; few large ones are split inside.
template <class T, class Body>
void for_items(const Parallel& par, View<const T, 3> x, const Body& body) {
  if (x.item_size() > kLong) {
    for (int64_t i = 0; i < x.shape[0]; ++i) body(par, i);
    return;
  }
  par(x.shape[0], items_per_chunk(x.item_size()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(Parallel(), i);
  });
}

template <class T>
struct GroupStatistics {
  BITLAW_LEAF static void run(const T* x, int64_t groups, int64_t block, bool rms, bool pruned,
                              float* out) {
    const Statistic statistic = rms ? Statistic::rms : Statistic::absmax;
    for (int64_t b = 0; b < groups; ++b)
      out[b] = statistic_of(sums_of(x + b * block, block, rms, pruned), statistic);
  }
};

template <class T>
struct SumStretch {
  BITLAW_LEAF static void run(const T* x, int64_t n, bool square, bool pruned, Sums* out) {
    *out = sums_of_stretch(x, n, square, pruned);
  }
};

// Adds a panel of rows to one Sums per column, kept as three arrays.
template <class T>
struct SumColumns {
  BITLAW_LEAF static void run(const T* x, int64_t rows, int64_t cols, bool square, bool pruned,
                              int32_t* amax, double* total, int32_t* zeros) {
    for (int64_t r = 0; r < rows; ++r, x += cols) {
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c) {
        const int32_t m = magnitude_bits(to_float(x[c]));
        amax[c] = amax[c] > m ? amax[c] : m;
      }
      if (square) {
        BITLAW_LOOP
        for (int64_t c = 0; c < cols; ++c) {
          const double v = to_float(x[c]);
          total[c] += v * v;
        }
      }
      if (pruned) {
        BITLAW_LOOP
        for (int64_t c = 0; c < cols; ++c) zeros[c] += to_float(x[c]) == 0.0f;
      }
    }
  }
};

// Sums of `n` consecutive elements by stretches on several threads, added up in order.
template <class T>
Sums long_sums(const Parallel& par, const T* x, int64_t n, bool square, bool pruned) {
  const int64_t stretches = (n + kStretch - 1) / kStretch;
  std::vector<Sums> parts(stretches);
  par(stretches, kSerial / kStretch, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      on_isa<SumStretch<T>>(x + s * kStretch, std::min(kStretch, n - s * kStretch), square, pruned,
                            &parts[s]);
  });
  Sums sums;
  for (const Sums& part : parts) sums.add(part);
  return sums;
}

// Statistics of one item of several rows, a block of columns each: panels of rows are summed column
// by column, then panels and columns add up in order.
template <class T>
void column_statistics(const Parallel& par, const T* x, int64_t rows, int64_t cols, int64_t block,
                       Statistic statistic, bool pruned, float* out) {
  constexpr int64_t kPanel = 64;
  const bool square = statistic == Statistic::rms;
  const int64_t panels = (rows + kPanel - 1) / kPanel;
  std::vector<int32_t> amax(panels * cols), zeros(pruned ? panels * cols : 0);
  std::vector<double> total(square ? panels * cols : 0);
  par(panels, items_per_chunk(kPanel * cols), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      on_isa<SumColumns<T>>(x + p * kPanel * cols, std::min(kPanel, rows - p * kPanel), cols,
                            square, pruned, amax.data() + p * cols,
                            square ? total.data() + p * cols : nullptr,
                            pruned ? zeros.data() + p * cols : nullptr);
  });
  for (int64_t b = 0; b < cols / block; ++b) {
    Sums sums;
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t c = b * block; c < (b + 1) * block; ++c) {
        const int64_t at = p * cols + c;
        sums.add({amax[at], square ? total[at] : 0, pruned ? -int64_t{zeros[at]} : 0});
      }
    sums.count += rows * block;
    out[b] = statistic_of(sums, statistic);
  }
}

// statistic[item, b] of every group.
template <class T>
void statistics(const Parallel& par, View<const T, 3> x, int64_t block, Statistic statistic,
                bool pruned, float* out) {
  const int64_t items = x.shape[0], rows = x.shape[1], cols = x.shape[2], groups = cols / block;
  if (is_long(x, block)) {
    for (int64_t i = 0; i < items; ++i)
      out[i] = statistic_of(
          long_sums(par, x.item(i), rows * cols, statistic == Statistic::rms, pruned), statistic);
    return;
  }
  if (rows == 1) {  // groups of all items lie one after the other
    par(items * groups, items_per_chunk(block), [&](int64_t begin, int64_t end) {
      on_isa<GroupStatistics<T>>(x.data + begin * block, end - begin, block,
                                 statistic == Statistic::rms, pruned, out + begin);
    });
    return;
  }
  for_items(par, x, [&](const Parallel& inner, int64_t i) {
    column_statistics(inner, x.item(i), rows, cols, block, statistic, pruned, out + i * groups);
  });
}

// ---- the ops ---------------------------------------------------------------------------------

template <class T>
void check(View<const T, 3> x, int64_t block) {
  require(block > 0 && x.shape[2] % block == 0, "block must divide the columns of x");
}

template <class T>
void group_statistic(const Parallel& par, View<const T, 3> x, View<float, 2> statistic,
                     StatisticAttrs a) {
  check(x, a.block);
  if (x.size() == 0)
    std::fill_n(statistic.data, statistic.size(), 0.0f);
  else
    statistics(par, x, a.block, parse_statistic(a.statistic), a.pruned, statistic.data);
}

// unit[item, b]: the power of two at or below largest, in [2^-126, 2^126]; 1 where that is not
// finite. ratio[item, b] = statistic / unit.
inline void statistic_ratio(const Parallel&, View<const float, 2> statistic,
                            View<const float, 2> largest, View<float, 2> ratio,
                            View<float, 2> unit) {
  for (int64_t i = 0; i < statistic.size(); ++i) {
    const int32_t bits = magnitude_bits(largest.data[i]) & kInfinityBits;
    const float power = std::clamp(std::bit_cast<float>(bits), 0x1p-126f, 0x1p126f);
    unit.data[i] = bits == kInfinityBits ? 1.0f : power;
    ratio.data[i] = statistic.data[i] / unit.data[i];
  }
}

// scale[item, b] = scale_of(statistic[item, b] unit[item, b])
inline void statistic_scale(const Parallel&, View<const float, 2> statistic,
                            View<const float, 2> unit, View<const float, 2> grid,
                            View<float, 2> scale) {
  const int64_t groups = statistic.shape[1];
  for (int64_t i = 0; i < statistic.size(); ++i)
    scale.data[i] = scale_of(statistic.data[i] * unit.data[i], grid.data[4 * (i / groups) + 3]);
}

}  // namespace bitlaw
