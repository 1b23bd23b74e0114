// Masks that are n:m along both axes: n ones in every row and column of each m by m tile.
#pragma once
#include <array>
#include <bit>
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

// The 4 by 4 patterns with n ones per row and column (90 for n = 2), earliest elements first.
struct TilePatterns {
  static constexpr int kMost = 96;
  int count = 0;
  std::array<std::array<uint32_t, kMost>, 16> bits{};  // [element][pattern]: all ones where kept

  explicit TilePatterns(int64_t n) {
    for (int code = 0xffff; code >= 0; --code) {
      int rows[4] = {}, cols[4] = {};
      for (int j = 0; j < 16; ++j) {
        const int one = code >> (15 - j) & 1;
        rows[j / 4] += one;
        cols[j % 4] += one;
      }
      bool regular = true;
      for (int i = 0; i < 4; ++i) regular &= rows[i] == n && cols[i] == n;
      if (!regular) continue;
      for (int j = 0; j < 16; ++j) bits[j][count] = code >> (15 - j) & 1 ? 0xffffffffu : 0u;
      ++count;
    }
  }
};

// What an element adds to the sum of a pattern: its magnitude up to 2^120; a NaN -2^120.
BITLAW_LEAF float tile_value(float x) {
  const float magnitude = std::fabs(x);
  const float capped = magnitude < 0x1p120f ? magnitude : 0x1p120f;
  return selection_key(x) == 0 ? -0x1p120f : capped;
}

// The index of the pattern of largest sum, the first among equals. Sums run over the elements in
// order.
struct BestPattern {
  BITLAW_LEAF static void run(const float* tile, const TilePatterns* patterns, int* best) {
    float sums[TilePatterns::kMost] = {};
    for (int j = 0; j < 16; ++j) {
      const uint32_t bits = std::bit_cast<uint32_t>(tile_value(tile[j]));
      for (int p = 0; p < TilePatterns::kMost; ++p)
        sums[p] += std::bit_cast<float>(patterns->bits[j][p] & bits);
    }
    int first = 0;
    for (int p = 1; p < patterns->count; ++p) first = sums[p] > sums[first] ? p : first;
    *best = first;
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
  static const TilePatterns kPatterns[] = {TilePatterns(1), TilePatterns(2), TilePatterns(3),
                                           TilePatterns(4)};
  const TilePatterns* patterns = m == 4 ? &kPatterns[a.n - 1] : nullptr;
  // A unit is some bands of m rows, and starts on a byte of the mask.
  const int64_t band = m * cols, unit = std::lcm<int64_t>(band, 8);
  const int64_t units = (rows * cols + unit - 1) / unit;
  par(x.shape[0] * units, std::max<int64_t>(1, 1024 / unit), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> flags(unit);
    std::vector<float> tile(m * m);
    const auto keep = std::make_unique<bool[]>(m * m);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit;
      const int64_t length = std::min(unit, rows * cols - first);
      for (int64_t at = 0; at < length; at += (at + m) % cols ? m : band - cols + m) {
        const T* from = x.item(item) + first + at;
        for (int64_t i = 0; i < m * m; ++i) tile[i] = to_float(from[i / m * cols + i % m]);
        if (m == 4) {
          int best;
          on_isa<BestPattern>(static_cast<const float*>(tile.data()), patterns, &best);
          for (int j = 0; j < 16; ++j) keep[j] = patterns->bits[j][best] != 0;
        } else {
          greedy_tile(tile.data(), a.n, m, keep.get());
        }
        for (int64_t i = 0; i < m * m; ++i) flags[at + i / m * cols + i % m] = keep[i];
      }
      on_isa<PackFlags>(static_cast<const uint8_t*>(flags.data()), mask.item(item) + first / 8,
                        length);
    }
  });
}

}  // namespace bitlaw
