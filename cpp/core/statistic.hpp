// Statistics of groups, and the scales taken from them: items, rows and blocks as in quantize.hpp.
#pragma once
#include <algorithm>
#include <tuple>
#include <vector>

#include "core/grid.hpp"
#include "core/hadamard.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

// Partial sums run in a fixed order: element j of a stretch goes to lane j mod 16, lanes add up in
// order, stretches of kStretch elements add up in order.
inline constexpr int64_t kStretch = 4096;
inline constexpr int kLanes = 16;
// A longer group is split over threads: one pass for its statistic, one for its map.
inline constexpr int64_t kLong = 64 * 1024;

struct Sums {
  int32_t high = 0;   // as bits: an integer maximum keeps NaN, a float one may drop it
  int32_t low = 0;    // range: of the elements below zero, and high of those above
  double square = 0;  // exact squares of floats, so it neither overflows nor underflows
  int64_t count = 0;  // elements that take part

  BITLAW_LEAF void add(const Sums& other) {
    high = high > other.high ? high : other.high;
    low = low > other.low ? low : other.low;
    square += other.square;
    count += other.count;
  }
};

// absmax, the root of the mean square, or the largest value; NaN or infinite if an element is.
BITLAW_LEAF float statistic_of(const Sums& s, Statistic statistic) {
  if (statistic != Statistic::rms) return float_of(s.high);
  return static_cast<float>(
      __builtin_sqrt(s.square / static_cast<double>(s.count > 0 ? s.count : 1)));
}

// Bits as an integer of the type's width: ordered like the numbers from zero up.
BITLAW_LEAF int32_t key_of(float x) { return bits_of(x); }
BITLAW_LEAF int16_t key_of(bfloat16 x) { return static_cast<int16_t>(x.bits); }
// Those of |x|; and of |x| where x is below zero, else 0.
template <class Key>
BITLAW_LEAF Key magnitude_of(Key key) {
  return static_cast<Key>(key & std::numeric_limits<Key>::max());
}
template <class Key>
BITLAW_LEAF Key below_zero(Key key) {
  return key < 0 ? magnitude_of(key) : Key{0};
}
template <class Key>
BITLAW_LEAF int32_t float_bits(Key key) {
  return static_cast<int32_t>(static_cast<uint32_t>(key) << (32 - 8 * sizeof(Key)));
}

template <class T>
BITLAW_LEAF int32_t absmax_bits(const T* x, int64_t n) {
  using Key = decltype(key_of(x[0]));
  Key amax = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Key m = magnitude_of(key_of(x[i]));
    amax = amax > m ? amax : m;
  }
  return float_bits(amax);
}

// Sums of n <= kStretch elements.
template <class T>
BITLAW_LEAF Sums sums_of_stretch(const T* x, int64_t n, Statistic statistic, bool pruned) {
  Sums s{0, 0, 0, n};
  if (statistic == Statistic::range) {
    using Key = decltype(key_of(x[0]));
    Key high = 0, low = 0;
    for (int64_t i = 0; i < n; ++i) {
      const Key key = key_of(x[i]), below = below_zero(key);
      high = high > key ? high : key;
      low = low > below ? low : below;
    }
    s.high = float_bits(high), s.low = float_bits(low);
  } else {
    s.high = absmax_bits(x, n);
  }
  if (statistic != Statistic::rms) return s;
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
  if (pruned) {
    int64_t zeros = 0;
    for (int64_t i = 0; i < n; ++i) zeros += to_float(x[i]) == 0.0f;
    s.count -= zeros;
  }
  return s;
}

template <class T>
BITLAW_LEAF Sums sums_of(const T* x, int64_t n, Statistic statistic, bool pruned) {
  Sums s;
  for (int64_t i = 0; i < n; i += kStretch)
    s.add(sums_of_stretch(x + i, n - i < kStretch ? n - i : kStretch, statistic, pruned));
  return s;
}

// Consecutive groups of one row. A constant block lets the compiler unroll the group.
template <class T, int kBlock>
BITLAW_LEAF void absmax_of_blocks(const T* x, int64_t groups, float* high) {
  for (int64_t b = 0; b < groups; ++b) high[b] = float_of(absmax_bits(x + b * kBlock, kBlock));
}
template <class T, int kBlock>
BITLAW_LEAF void range_of_blocks(const T* x, int64_t groups, float* high, float* low) {
  for (int64_t b = 0; b < groups; ++b) {
    const Sums s = sums_of_stretch(x + b * kBlock, kBlock, Statistic::range, false);
    high[b] = float_of(s.high);
    low[b] = float_of(s.low);
  }
}
template <class T>
struct GroupStatistics {
  BITLAW_LEAF static void run(const T* x, int64_t groups, int64_t block, Statistic statistic,
                              bool pruned, float* high, float* low) {
    const bool absmax = statistic == Statistic::absmax;
    if (absmax && block == 16) return absmax_of_blocks<T, 16>(x, groups, high);
    if (absmax && block == 32) return absmax_of_blocks<T, 32>(x, groups, high);
    if (statistic == Statistic::range && block == 32)
      return range_of_blocks<T, 32>(x, groups, high, low);
    for (int64_t b = 0; b < groups; ++b) {
      const Sums s = sums_of(x + b * block, block, statistic, pruned);
      high[b] = statistic_of(s, statistic);
      if (statistic == Statistic::range) low[b] = float_of(s.low);
    }
  }
};

template <class T>
struct SumStretch {
  BITLAW_LEAF static void run(const T* x, int64_t n, Statistic statistic, bool pruned, Sums* out) {
    *out = sums_of_stretch(x, n, statistic, pruned);
  }
};

// Adds a panel of rows to one Sums per column, kept as arrays.
template <class T>
struct SumColumns {
  BITLAW_LEAF static void run(const T* x, int64_t rows, int64_t cols, Statistic statistic,
                              bool pruned, int32_t* high, int32_t* low, double* total,
                              int32_t* zeros) {
    for (int64_t r = 0; r < rows; ++r, x += cols) {
      if (statistic == Statistic::range) {
        BITLAW_LOOP
        for (int64_t c = 0; c < cols; ++c) {
          const int32_t bits = bits_of(to_float(x[c])), below = below_zero(bits);
          high[c] = high[c] > bits ? high[c] : bits;
          low[c] = low[c] > below ? low[c] : below;
        }
        continue;
      }
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c) {
        const int32_t m = magnitude_bits(to_float(x[c]));
        high[c] = high[c] > m ? high[c] : m;
      }
      if (statistic == Statistic::absmax) continue;
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c) {
        const double v = to_float(x[c]);
        total[c] += v * v;
      }
      if (!pruned) continue;
      BITLAW_LOOP
      for (int64_t c = 0; c < cols; ++c) zeros[c] += to_float(x[c]) == 0.0f;
    }
  }
};

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

// Statistics of one item of several rows, a block of columns each: panels of rows are summed column
// by column, then panels and columns add up in order.
template <class T>
void column_statistics(const Parallel& par, const T* x, int64_t rows, int64_t cols, int64_t block,
                       Statistic statistic, bool pruned, float* high, float* low) {
  constexpr int64_t kPanel = 64;
  const bool square = statistic == Statistic::rms, range = statistic == Statistic::range;
  const bool counts = square && pruned;
  const int64_t panels = (rows + kPanel - 1) / kPanel;
  std::vector<int32_t> highs(panels * cols), lows(range ? panels * cols : 0);
  std::vector<int32_t> zeros(counts ? panels * cols : 0);
  std::vector<double> total(square ? panels * cols : 0);
  par(panels, items_per_chunk(kPanel * cols), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      on_isa<SumColumns<T>>(
          x + p * kPanel * cols, std::min(kPanel, rows - p * kPanel), cols, statistic, pruned,
          highs.data() + p * cols, range ? lows.data() + p * cols : nullptr,
          square ? total.data() + p * cols : nullptr, counts ? zeros.data() + p * cols : nullptr);
  });
  for (int64_t b = 0; b < cols / block; ++b) {
    Sums sums;
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t c = b * block; c < (b + 1) * block; ++c) {
        const int64_t at = p * cols + c;
        sums.add({highs[at], range ? lows[at] : 0, square ? total[at] : 0,
                  counts ? -int64_t{zeros[at]} : 0});
      }
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
