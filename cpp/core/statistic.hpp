// Statistics of groups, and the scales taken from them: items, rows and blocks as in quantize.hpp.
#pragma once
#include <algorithm>
#include <tuple>
#include <vector>

#include "core/hadamard.hpp"
#include "core/parallel.hpp"
#include "core/sums.hpp"

namespace bitlaw {

// A longer group is split over threads: one pass for its statistic, one for its map.
inline constexpr int64_t kLong = 64 * 1024;

template <class T>
struct Widen {
  BITLAW_LEAF static void run(const T* x, float* y, int64_t n) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) y[i] = to_float(x[i]);
  }
};
// Runs of `size` elements of x rotated into y, which may be x.
inline void rotate(const float* x, float* y, int64_t n, int64_t size) {
  on_isa<HadamardColumns<float>>(x, static_cast<const uint8_t*>(nullptr), y, n, size,
                                 hadamard_factor(size), false);
}

// ---- arrays ----------------------------------------------------------------------------------

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

// Sums of `n` consecutive elements by stretches on several threads, added up in order.
template <class T>
Sums long_sums(const Parallel& par, const T* x, int64_t n, Statistic statistic, bool pruned) {
  const int64_t stretches = (n + kStretch - 1) / kStretch;
  std::vector<Sums> parts(stretches);
  par(stretches, kSerial / kStretch, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      on_isa<SumStretch<T>>(x + s * kStretch, std::min(kStretch, n - s * kStretch), statistic,
                            pruned, &parts[s]);
  });
  Sums sums;
  for (const Sums& part : parts) sums.add(part);
  return sums;
}

// Adds the maxima, or the counts, of `panels` panels of columns to those of the first.
struct FoldPanels {
  BITLAW_LEAF static void run(int32_t* first, int64_t panels, int64_t cols, bool maxima) {
    for (int64_t p = 1; p < panels; ++p) {
      const int32_t* panel = first + p * cols;
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c)
        first[c] = maxima ? larger(first[c], panel[c]) : first[c] + panel[c];
    }
  }
};

// Statistics of one item of several rows, a block of columns each: panels of rows are summed column
// by column, then panels and columns add up in order.
template <class T>
void column_statistics(const Parallel& par, const T* x, int64_t rows, int64_t cols, int64_t block,
                       Statistic statistic, bool pruned, float* high, float* low) {
  constexpr int64_t kPanel = 64;
  const bool square = statistic == Statistic::rms, range = statistic == Statistic::range;
  const bool counts = square && pruned;
  const int64_t panels = (rows + kPanel - 1) / kPanel, all = panels * cols;
  std::vector<int32_t> highs(square ? 0 : all), lows(range ? all : 0), zeros(counts ? all : 0);
  std::vector<double> total(square ? all : 0);
  const auto at = [cols](auto& of, int64_t p) { return of.empty() ? nullptr : &of[p * cols]; };
  par(panels, items_per_chunk(kPanel * cols), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      on_isa<SumColumns<T>>(x + p * kPanel * cols, std::min(kPanel, rows - p * kPanel), cols,
                            statistic, pruned, at(highs, p), at(lows, p), at(total, p),
                            at(zeros, p));
  });
  for (std::vector<int32_t>* of : {&highs, &lows, &zeros})
    if (!of->empty()) on_isa<FoldPanels>(of->data(), panels, cols, of != &zeros);
  for (int64_t b = 0; b < cols / block; ++b) {
    Sums sums;
    for (int64_t c = b * block; c < (b + 1) * block; ++c)
      sums.add({square ? 0 : highs[c], range ? lows[c] : 0, 0, counts ? -int64_t{zeros[c]} : 0});
    for (int64_t p = 0; p < panels && square; ++p)
      for (int64_t c = b * block; c < (b + 1) * block; ++c) sums.square += total[p * cols + c];
    sums.count += rows * block;
    high[b] = statistic_of(sums, statistic);
    if (range) low[b] = float_of(sums.low);
  }
}

// high[item, b], and low of a range, of every group.
template <class T>
void statistics(const Parallel& par, View<const T, 3> x, int64_t block, Statistic statistic,
                bool pruned, float* high, float* low) {
  const int64_t items = x.shape[0], rows = x.shape[1], cols = x.shape[2], groups = cols / block;
  const auto at = [&](int64_t i) { return low ? low + i : nullptr; };
  if (is_long(x, block)) {
    for (int64_t i = 0; i < items; ++i) {
      const Sums s = long_sums(par, x.item(i), rows * cols, statistic, pruned);
      high[i] = statistic_of(s, statistic);
      if (low) low[i] = float_of(s.low);
    }
    return;
  }
  if (rows == 1) {  // groups of all items lie one after the other
    par(items * groups, items_per_chunk(block), [&](int64_t begin, int64_t end) {
      on_isa<GroupStatistics<T>>(x.data + begin * block, end - begin, block, statistic, pruned,
                                 high + begin, at(begin));
    });
    return;
  }
  for_items(par, x, [&](const Parallel& inner, int64_t i) {
    column_statistics(inner, x.item(i), rows, cols, block, statistic, pruned, high + i * groups,
                      at(i * groups));
  });
}

// ---- the op ----------------------------------------------------------------------------------

struct StatisticAttrs {
  int64_t block;
  std::string statistic;
  bool pruned;
  int64_t hadamard;
  static constexpr auto fields() {
    return std::tuple{
        Field{"block", &StatisticAttrs::block}, Field{"statistic", &StatisticAttrs::statistic},
        Field{"pruned", &StatisticAttrs::pruned}, Field{"hadamard", &StatisticAttrs::hadamard}};
  }
};

template <class T>
void check(View<const T, 3> x, int64_t block, int64_t hadamard) {
  require(block > 0 && x.shape[2] % block == 0, "block must divide the columns of x");
  require(hadamard == 0 || (x.shape[1] == 1 && hadamard > 1 && block % hadamard == 0),
          "hadamard must divide block, and items must have one row");
}

template <class T>
void group_statistic(const Parallel& par, View<const T, 3> x, View<float, 2> high,
                     View<float, 2> low, StatisticAttrs a) {
  check(x, a.block, a.hadamard);
  const Statistic statistic = parse_statistic(a.statistic);
  require(statistic != Statistic::mse_search, "statistic must not be mse_search");
  if (x.size() == 0) {
    std::fill_n(high.data, high.size(), 0.0f);
    std::fill_n(low.data, low.size(), 0.0f);
    return;
  }
  float* const lows = statistic == Statistic::range ? low.data : nullptr;
  if (a.hadamard == 0) return statistics(par, x, a.block, statistic, a.pruned, high.data, lows);
  const int64_t groups = high.size();
  par(groups, items_per_chunk(a.block), [&](int64_t begin, int64_t end) {
    std::vector<float> rotated(a.block);
    for (int64_t i = begin; i < end; ++i) {
      on_isa<Widen<T>>(x.data + i * a.block, rotated.data(), a.block);
      rotate(rotated.data(), rotated.data(), a.block, a.hadamard);
      on_isa<GroupStatistics<float>>(static_cast<const float*>(rotated.data()), int64_t{1}, a.block,
                                     statistic, a.pruned, high.data + i, lows ? lows + i : nullptr);
    }
  });
}

}  // namespace bitlaw
