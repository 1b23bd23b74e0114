// Masks that are n:m along both axes: n ones in every row and column of each m by m tile.
#pragma once
#include <cfloat>
#include <numeric>
#include <tuple>

#include "core/bits.hpp"
#include "core/parallel.hpp"
#include "core/select.hpp"

namespace bitlaw {

struct TransposableAttrs {
  int64_t n, m;
  static constexpr auto fields() {
    return std::tuple{Field{"n", &TransposableAttrs::n}, Field{"m", &TransposableAttrs::m}};
  }
};

inline constexpr int64_t kMaxTile = 64;

// The 4 by 4 patterns with n ones per row and column (90 for n = 2), earliest elements first:
// element j is bit j.
struct TilePatterns {
  static constexpr int kMost = 96;
  int count = 0;
  uint16_t code[kMost] = {};
};
constexpr TilePatterns tile_patterns(int n) {
  int rows[16] = {}, some = 0;  // rows of n ones
  for (const int row : {15, 7, 11, 3, 13, 5, 9, 1, 14, 6, 10, 2, 12, 4, 8})
    if ((row & 1) + (row >> 1 & 1) + (row >> 2 & 1) + (row >> 3) == n) rows[some++] = row;
  TilePatterns patterns;
  for (int i = 0; i < some * some * some * some; ++i) {
    const int row[4] = {rows[i / (some * some * some)], rows[i / (some * some) % some],
                        rows[i / some % some], rows[i % some]};
    bool regular = true;
    for (int j = 0; j < 4; ++j)
      regular &= (row[0] >> j & 1) + (row[1] >> j & 1) + (row[2] >> j & 1) + (row[3] >> j & 1) == n;
    if (regular)
      patterns.code[patterns.count++] =
          static_cast<uint16_t>(row[0] | row[1] << 4 | row[2] << 8 | row[3] << 12);
  }
  return patterns;
}

// What an element adds to the sum of a pattern: its magnitude up to 2^120; a NaN -2^120.
BITLAW_LEAF float tile_value(float x) {
  const float magnitude = std::fabs(x);
  const float capped = magnitude < 0x1p120f ? magnitude : 0x1p120f;
  return selection_key(x) == 0 ? -0x1p120f : capped;
}

// The code of the pattern of largest sum, the first among equals. Sums run over the elements in
// order.
template <uint16_t kCode>
BITLAW_LEAF void weigh(const float* value, float& most, int32_t& best) {
  float sum = 0.0f;
  BITLAW_UNROLL
  for (int j = 0; j < 16; ++j)
    if (kCode >> j & 1) sum += value[j];
  best = sum > most ? kCode : best;
  most = sum > most ? sum : most;
}
template <int n, int... p>
BITLAW_LEAF int32_t best_code(const float* value, std::integer_sequence<int, p...>) {
  constexpr TilePatterns patterns = tile_patterns(n);
  float most = -FLT_MAX;
  int32_t best = 0;
  (weigh<patterns.code[p]>(value, most, best), ...);
  return best;
}
template <int n>
BITLAW_LEAF int32_t best_code(const float* value) {
  return best_code<n>(value, std::make_integer_sequence<int, tile_patterns(n).count>());
}

// Of tiles side by side: value[j][t] is element j of tile t.
inline constexpr int64_t kTiles = 64;
using Tiles = float[16][kTiles];
template <class T>
struct TileValues {
  BITLAW_LEAF static void run(const T* x, int64_t cols, int64_t tiles, Tiles* value) {
    for (int j = 0; j < 16; ++j) {
      const T* from = x + j / 4 * cols + j % 4;
      BITLAW_LOOP
      for (int64_t t = 0; t < tiles; ++t) (*value)[j][t] = tile_value(to_float(from[4 * t]));
    }
  }
};
// Codes of four bits: those of row r of tile t at fours[r * across + t].
template <int n>
struct BestFours {
  BITLAW_LEAF static void run(const Tiles* value, int64_t tiles, int64_t across, uint8_t* fours) {
    int32_t code[kTiles];
    BITLAW_LOOP
    for (int64_t t = 0; t < kTiles; ++t) {
      float one[16];
      BITLAW_UNROLL
      for (int j = 0; j < 16; ++j) one[j] = (*value)[j][t];
      code[t] = best_code<n>(one);
    }
    for (int r = 0; r < 4; ++r)
      for (int64_t t = 0; t < tiles; ++t)
        fours[r * across + t] = static_cast<uint8_t>(code[t] >> 4 * r & 15);
  }
};

// Greedy: elements by magnitude, each taken where its row and column have room. Rows and columns
// left short are then completed, directly or by moving one element. The smaller of the kept and the
// pruned share is chosen so: for it one move always exists.
struct GreedyTile {
  int64_t m, share;
  uint8_t* taken;        // [m, m], zeros before
  int32_t *rows, *cols;  // [m], zeros before: how many are taken

  BITLAW_LEAF bool room(int64_t r, int64_t c) const { return rows[r] < share && cols[c] < share; }
  BITLAW_LEAF bool at(int64_t r, int64_t c) const { return taken[r * m + c]; }
  BITLAW_LEAF void take(int64_t r, int64_t c) { taken[r * m + c] = 1, ++rows[r], ++cols[c]; }

  // element(i) comes i-th.
  template <class Order>
  BITLAW_LEAF void fill(const Order& element) {
    for (int64_t i = 0; i < m * m; ++i) {
      const int64_t e = element(i);
      if (room(e / m, e % m)) take(e / m, e % m);
    }
    while (complete_one()) {
    }
  }
  BITLAW_LEAF bool complete_one() {
    int64_t row = -1, col = -1;
    for (int64_t i = 0; i < m * m; ++i) {
      if (!room(i / m, i % m)) continue;
      if (!taken[i]) return take(i / m, i % m), true;
      if (row < 0) row = i / m, col = i % m;
    }
    if (row < 0) return false;
    for (int64_t i = 0; i < m * m; ++i) {
      const int64_t r = i / m, c = i % m;
      if (taken[i] && !at(row, c) && !at(r, col)) {
        taken[i] = 0, taken[row * m + c] = 1, taken[r * m + col] = 1;
        ++rows[row], ++cols[col];
        return true;
      }
    }
    return false;  // unreachable for share <= m / 2
  }
};

inline void greedy_tile(const float* tile, int64_t n, int64_t m, bool* keep) {
  const bool pruning = n > m - n;
  std::vector<int64_t> order(m * m);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return selection_key(tile[a]) > selection_key(tile[b]);
  });
  if (pruning) std::reverse(order.begin(), order.end());
  std::vector<uint8_t> taken(m * m);
  std::vector<int32_t> counts(2 * m);
  GreedyTile greedy{m, pruning ? m - n : n, taken.data(), counts.data(), counts.data() + m};
  greedy.fill([&](int64_t i) { return order[i]; });
  for (int64_t i = 0; i < m * m; ++i) keep[i] = (taken[i] != 0) != pruning;
}

// Bits of bands of 4 rows, by pattern; fours is scratch.
template <class T>
void bits_by_pattern(const T* x, int64_t length, int64_t cols, int64_t n, uint8_t* fours,
                     uint8_t* bits) {
  Tiles value = {};
  for (int64_t at = 0; at < length; at += 4 * cols)
    for (int64_t col = 0; col < cols; col += 4 * kTiles) {
      const int64_t tiles = std::min(kTiles, (cols - col) / 4);
      on_isa<TileValues<T>>(x + at + col, cols, tiles, &value);
      [&]<int... k>(std::integer_sequence<int, k...>) {
        ((n == k + 1 ? on_isa<BestFours<k + 1>>(static_cast<const Tiles*>(&value), tiles, cols / 4,
                                                fours + (at + col) / 4)
                     : void()),
         ...);
      }(std::make_integer_sequence<int, 4>());
    }
  on_isa<PackCodes<4>>(static_cast<const uint8_t*>(fours), bits, length / 4);
}

// The same of bands of m rows, by greed.
template <class T>
void bits_by_greed(const T* x, int64_t length, int64_t cols, TransposableAttrs a, uint8_t* flags,
                   uint8_t* bits) {
  const int64_t m = a.m, band = m * cols;
  std::vector<float> tile(m * m);
  const auto keep = std::make_unique<bool[]>(m * m);
  for (int64_t at = 0; at < length; at += (at + m) % cols ? m : band - cols + m) {
    for (int64_t i = 0; i < m * m; ++i) tile[i] = to_float(x[at + i / m * cols + i % m]);
    greedy_tile(tile.data(), a.n, m, keep.get());
    for (int64_t i = 0; i < m * m; ++i) flags[at + i / m * cols + i % m] = keep[i];
  }
  on_isa<PackFlags>(static_cast<const uint8_t*>(flags), bits, length);
}

template <class T>
void check_tiles(View<const T, 3> x, TransposableAttrs a) {
  require(a.m >= 1 && a.m <= kMaxTile, "m must be in [1, 64], got " + std::to_string(a.m));
  require(a.n >= 1 && a.n <= a.m, "n must be in [1, m], got " + std::to_string(a.n));
  require(x.shape[1] % a.m == 0 && x.shape[2] % a.m == 0, "m must divide both axes of x");
}

// mask[item] has n ones in every row and every column of each m by m tile: the largest possible sum
// of |x| for m = 4, by greed for other m.
template <class T>
void transposable_mask(const Parallel& par, View<const T, 3> x, View<uint8_t, 2> mask,
                       TransposableAttrs a) {
  const int64_t rows = x.shape[1], cols = x.shape[2], m = a.m;
  check_tiles(x, a);
  if (x.size() == 0) return;
  // A unit is some bands of m rows, and starts on a byte of the mask.
  const int64_t band = m * cols, unit = std::lcm<int64_t>(band, 8);
  const int64_t units = (rows * cols + unit - 1) / unit;
  par(x.shape[0] * units, std::max<int64_t>(1, 1024 / unit), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> scratch(unit);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit;
      const int64_t length = std::min(unit, rows * cols - first);
      const T* from = x.item(item) + first;
      uint8_t* bits = mask.item(item) + first / 8;
      if (m == 4)
        bits_by_pattern(from, length, cols, a.n, scratch.data(), bits);
      else
        bits_by_greed(from, length, cols, a, scratch.data(), bits);
    }
  });
}

}  // namespace bitlaw
