// Gradients of quantizers whose scale is learned: LSQ, LSQ+ and PACT.
//
// One pass gives the gradient of every element and, group by group, the sums that are the gradients
// of the scale and of the zero point. Items, rows and blocks as in quantize.hpp; whole numbers are
// taken as the forward map takes them, so both agree on what lies inside the range.
#pragma once
#include <cmath>
#include <tuple>
#include <vector>

#include "core/parallel.hpp"
#include "core/sums.hpp"

namespace bitlaw {

enum class Learned { lsq, lsq_plus, pact };

inline Learned parse_learned(const std::string& name) {
  if (name == "lsq") return Learned::lsq;
  if (name == "lsq_plus") return Learned::lsq_plus;
  if (name == "pact") return Learned::pact;
  throw std::invalid_argument("estimator must be lsq, lsq_plus or pact, got " + name);
}

struct LearnedAttrs {
  int64_t block;
  std::string estimator;
  bool pruned;  // exact zeros are pruned weights and take no part in the sums
  static constexpr auto fields() {
    return std::tuple{Field{"block", &LearnedAttrs::block},
                      Field{"estimator", &LearnedAttrs::estimator},
                      Field{"pruned", &LearnedAttrs::pruned}};
  }
};

// ---- one element -----------------------------------------------------------------------------

// The start of a row of the operand grid.
struct LearnedGrid {
  float qmin, qmax, offset;
};

// What the elements of a group share: codes low..high, and where the range ends in units of x.
struct CodeRange {
  float inv, low, high, offset, bottom, top;
};

BITLAW_LEAF CodeRange range_of(float scale, float inv, float zero, LearnedGrid grid) {
  const float low = grid.qmin - zero, high = grid.qmax - zero, offset = grid.offset;
  return {inv, low, high, offset, (low + offset) * scale, (high + offset) * scale};
}

struct Terms {
  float dx, scale, zero;
};

template <Learned kEstimator, bool kPruned>
BITLAW_LEAF Terms learned_terms(float g, float x, CodeRange r) {
  Terms t;
  if constexpr (kEstimator == Learned::pact) {
    const bool above = x >= r.top, below = x < r.bottom, within = (x >= r.bottom) & !above;
    const float end = above ? r.high : r.low;
    t.dx = within ? g : 0.0f;
    t.scale = above | below ? g * (end + r.offset) : 0.0f;
    t.zero = 0.0f;
  } else {
    const float v = x * r.inv - r.offset;
    float near = r.low - 1.0f > v ? r.low - 1.0f : v;  // written so that NaN stays NaN
    near = r.high + 1.0f < near ? r.high + 1.0f : near;
    const float rounded = (near + kRound) - kRound;
    float code = r.low > rounded ? r.low : rounded;
    code = r.high < code ? r.high : code;
    const bool inside = rounded == code;
    t.dx = inside ? g : 0.0f;
    t.scale = g * (inside ? code - v : code + r.offset);
    t.zero = inside ? 0.0f : g;
  }
  if (kPruned) t.scale = x == 0.0f ? 0.0f : t.scale;
  if (kPruned) t.zero = x == 0.0f ? 0.0f : t.zero;
  return t;
}

// ---- leaves ----------------------------------------------------------------------------------

// Elements whose terms wait in the cache to be added up.
inline constexpr int64_t kTerms = 512;

struct LearnedSums {
  double scale = 0, zero = 0;
};

// Of the sum over what lies outside.
BITLAW_LEAF float zero_gradient(float scale, double sum) {
  return 0.0f - scale * static_cast<float>(sum);
}

// Element j goes to lane j mod 16.
BITLAW_LEAF void add_lanes(const float* terms, int64_t n, double* lane) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += static_cast<double>(terms[i + l]);
  for (int64_t i = whole; i < n; ++i) lane[i - whole] += static_cast<double>(terms[i]);
}

// dx and the sums of n elements of one group.
template <class T, Learned kEstimator, bool kPruned>
BITLAW_LEAF LearnedSums learned_group(const T* g, const T* x, T* dx, int64_t n, CodeRange r) {
  constexpr bool kZero = kEstimator == Learned::lsq_plus;
  float scale_terms[kTerms], zero_terms[kZero ? kTerms : 1];
  double scale_lane[kLanes] = {}, zero_lane[kLanes] = {};
  for (int64_t at = 0; at < n; at += kTerms) {
    const int64_t m = n - at < kTerms ? n - at : kTerms;
    BITLAW_LOOP
    for (int64_t i = 0; i < m; ++i) {
      const Terms t =
          learned_terms<kEstimator, kPruned>(to_float(g[at + i]), to_float(x[at + i]), r);
      dx[at + i] = Narrow<T>::from(t.dx);
      scale_terms[i] = t.scale;
      if constexpr (kZero) zero_terms[i] = t.zero;
    }
    add_lanes(scale_terms, m, scale_lane);
    if constexpr (kZero) add_lanes(zero_terms, m, zero_lane);
  }
  return {sum_of_lanes(scale_lane), kZero ? sum_of_lanes(zero_lane) : 0.0};
}

// Consecutive groups of n elements in one row; zero is null where there is none. kBlock = 0 takes
// n from the argument; a constant lets the compiler unroll the group.
template <class T, int kBlock, Learned kEstimator, bool kPruned>
struct LearnedGroups {
  BITLAW_LEAF static void run(const T* g, const T* x, T* dx, const float* scale, const float* zero,
                              int64_t groups, int64_t block, LearnedGrid grid, LearnedSums* sums) {
    const int64_t n = kBlock ? kBlock : block;
    for (int64_t b = 0; b < groups; ++b)
      sums[b] = learned_group<T, kEstimator, kPruned>(
          g + b * n, x + b * n, dx + b * n, n,
          range_of(scale[b], inverse_of(scale[b]), zero ? zero[b] : 0.0f, grid));
  }
};

// What the columns of an item share, and the sums of each over a panel of rows.
struct Columns {
  const float *scale, *inv, *zero;
  LearnedGrid grid;
};

template <class T, Learned kEstimator, bool kPruned>
struct LearnedColumns {
  BITLAW_LEAF static void run(const T* g, const T* x, T* dx, Columns of, int64_t rows, int64_t cols,
                              double* scale_sum, double* zero_sum) {
    constexpr bool kZero = kEstimator == Learned::lsq_plus;
    float scale_terms[kTerms], zero_terms[kZero ? kTerms : 1];
    for (int64_t at = 0; at < cols; at += kTerms) {
      const int64_t m = cols - at < kTerms ? cols - at : kTerms;
      const float *scale = of.scale + at, *inv = of.inv + at, *zero = of.zero + at;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t first = r * cols + at;
        BITLAW_LOOP
        for (int64_t c = 0; c < m; ++c) {
          const CodeRange range = range_of(scale[c], inv[c], zero[c], of.grid);
          const Terms t = learned_terms<kEstimator, kPruned>(to_float(g[first + c]),
                                                             to_float(x[first + c]), range);
          dx[first + c] = Narrow<T>::from(t.dx);
          scale_terms[c] = t.scale;
          if constexpr (kZero) zero_terms[c] = t.zero;
        }
        BITLAW_LOOP
        for (int64_t c = 0; c < m; ++c) scale_sum[at + c] += static_cast<double>(scale_terms[c]);
        if constexpr (kZero)
          for (int64_t c = 0; c < m; ++c) zero_sum[at + c] += static_cast<double>(zero_terms[c]);
      }
    }
  }
};

// ---- the two layouts -------------------------------------------------------------------------

// One call's arrays and choices.
template <class T>
struct LearnedCall {
  View<const T, 3> g, x;      // [items, rows, cols]
  const float *scale, *zero;  // [items, groups]; zero is null where there is none
  View<const float, 2> grid;
  T* dx;
  float* sums;  // [items, 1 or 2, groups]
  int64_t block;
  Learned estimator;
  bool pruned;

  int64_t groups() const { return x.shape[2] / block; }
  LearnedGrid grid_of(int64_t item) const {
    const float* g = grid.item(item);
    return {g[0], g[1], g[2]};
  }
  void write(int64_t item, int64_t group, LearnedSums s) const {
    const bool zeros = estimator == Learned::lsq_plus;
    float* out = sums + item * groups() * (zeros ? 2 : 1) + group;
    *out = static_cast<float>(s.scale);
    if (zeros) out[groups()] = zero_gradient(scale[item * groups() + group], s.zero);
  }
  // Calls run.template operator()<estimator, pruned>().
  template <class Run>
  void with_variant(const Run& run) const {
    const auto with = [&]<Learned kEstimator>() {
      pruned ? run.template operator()<kEstimator, true>()
             : run.template operator()<kEstimator, false>();
    };
    switch (estimator) {
      case Learned::lsq:
        return with.template operator()<Learned::lsq>();
      case Learned::lsq_plus:
        return with.template operator()<Learned::lsq_plus>();
      case Learned::pact:
        return with.template operator()<Learned::pact>();
    }
  }
};

// Elements of a group that one thread adds up, rows of an item that do; both add up in order.
inline constexpr int64_t kLearnedPart = 32 * 1024, kLearnedPanel = 64;

// Items of one row: groups lie one after the other, long ones in parts.
template <class T>
void learned_rows(const Parallel& par, const LearnedCall<T>& q) {
  const int64_t n = q.block, groups = q.groups(), all = q.x.shape[0] * groups;
  const int64_t parts = (n + kLearnedPart - 1) / kLearnedPart;
  std::vector<LearnedSums> sums(all * parts);
  par(all * parts, items_per_chunk(std::min(n, kLearnedPart)), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t group = begin / parts, item = group / groups,
                    first = begin % parts * kLearnedPart;
      // Up to the end of the item, or one part of a group.
      const int64_t count = parts > 1 ? 1 : std::min(end, (item + 1) * groups) - begin;
      const int64_t at = group * n + first;
      q.with_variant([&]<Learned kEstimator, bool kPruned>() {
        const auto run = [&]<int kBlock>() {
          on_isa<LearnedGroups<T, kBlock, kEstimator, kPruned>>(
              q.g.data + at, q.x.data + at, q.dx + at, q.scale + group,
              q.zero ? q.zero + group : nullptr, count, std::min(n - first, kLearnedPart),
              q.grid_of(item), &sums[begin]);
        };
        n == 32 ? run.template operator()<32>() : run.template operator()<0>();
      });
      begin += count;
    }
  });
  for (int64_t group = 0; group < all; ++group) {
    LearnedSums s;
    for (int64_t p = 0; p < parts; ++p)
      s.scale += sums[group * parts + p].scale, s.zero += sums[group * parts + p].zero;
    q.write(group / groups, group % groups, s);
  }
}

// An item of several rows: panels of rows sum column by column, then panels and columns in order.
template <class T>
void learned_columns(const Parallel& par, const LearnedCall<T>& q, int64_t item) {
  constexpr int64_t kPanel = kLearnedPanel;
  const int64_t rows = q.x.shape[1], cols = q.x.shape[2], groups = q.groups();
  const int64_t panels = (rows + kPanel - 1) / kPanel;
  std::vector<float> scale(cols), inv(cols), zero(cols);
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t group = item * groups + c / q.block;
    scale[c] = q.scale[group], inv[c] = inverse_of(scale[c]);
    zero[c] = q.zero ? q.zero[group] : 0.0f;
  }
  const Columns of{scale.data(), inv.data(), zero.data(), q.grid_of(item)};
  std::vector<double> sums(2 * panels * cols);
  par(panels, items_per_chunk(kPanel * cols), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = (item * rows + p * kPanel) * cols;
      double* sum = sums.data() + 2 * p * cols;
      q.with_variant([&]<Learned kEstimator, bool kPruned>() {
        on_isa<LearnedColumns<T, kEstimator, kPruned>>(q.g.data + at, q.x.data + at, q.dx + at, of,
                                                       std::min(kPanel, rows - p * kPanel), cols,
                                                       sum, sum + cols);
      });
    }
  });
  for (int64_t b = 0; b < groups; ++b) {
    LearnedSums s;
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t c = b * q.block; c < (b + 1) * q.block; ++c)
        s.scale += sums[2 * p * cols + c], s.zero += sums[(2 * p + 1) * cols + c];
    q.write(item, b, s);
  }
}

// ---- the op ----------------------------------------------------------------------------------

template <class T>
void learned_gradient(const Parallel& par, View<const T, 3> g, View<const T, 3> x,
                      View<const float, 2> scale, View<const float, 2> zero,
                      View<const float, 2> grid, View<T, 3> dx, View<float, 3> sums,
                      LearnedAttrs a) {
  require(a.block > 0 && x.shape[2] % a.block == 0, "block must divide the columns of x");
  const LearnedCall<T> q{
      g,       x,         scale.data, zero.shape[1] ? zero.data : nullptr, grid,
      dx.data, sums.data, a.block,    parse_learned(a.estimator),          a.pruned};
  if (x.size() == 0) return static_cast<void>(std::fill_n(sums.data, sums.size(), 0.0f));
  if (x.shape[1] == 1) return learned_rows(par, q);
  const bool large = x.item_size() > 64 * 1024;  // few large items split inside
  par(x.shape[0], large ? x.shape[0] : items_per_chunk(x.item_size()),
      [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) learned_columns(large ? par : Parallel(), q, i);
      });
}

}  // namespace bitlaw
