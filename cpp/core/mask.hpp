// Masks of n:m sparsity, and the application of a packed mask.
#pragma once
#include <numeric>
#include <tuple>

#include "core/bits.hpp"
#include "core/parallel.hpp"
#include "core/select.hpp"

namespace bitlaw {

struct NmAttrs {
  int64_t n, m;
  bool along_rows;  // groups of m consecutive rows of a column; else consecutive columns of a row
  static constexpr auto fields() {
    return std::tuple{Field{"n", &NmAttrs::n}, Field{"m", &NmAttrs::m},
                      Field{"along_rows", &NmAttrs::along_rows}};
  }
};

inline constexpr int64_t kMaxGroup = 64;
// Groups ranked side by side: one key of each in a row of the table below.
inline constexpr int64_t kSide = 64;

// flags[j][w]: whether key j of group w is among the group's n largest, lowest j first among
// equals.
struct RankGroups {
  BITLAW_LEAF static void run(const int32_t* keys, uint8_t* flags, int64_t n, int64_t m) {
    for (int64_t j = 0; j < m; ++j) {
      int32_t rank[kSide] = {};
      for (int64_t i = 0; i < m; ++i) {
        const int32_t strict = i < j ? 0 : 1;  // an equal key earlier in the group goes before
        for (int64_t w = 0; w < kSide; ++w)
          rank[w] += keys[i * kSide + w] >= keys[j * kSide + w] + strict;
      }
      for (int64_t w = 0; w < kSide; ++w) flags[j * kSide + w] = rank[w] < n;
    }
  }
};

// Groups along the columns: kSide groups of m consecutive elements.
template <class T, int kM>
struct NmAlong {
  BITLAW_LEAF static void run(const T* x, uint8_t* flags, int64_t n, int64_t m_any) {
    const int64_t m = kM ? kM : m_any;
    int32_t keys[(kM ? kM : kMaxGroup) * kSide];
    uint8_t ranked[(kM ? kM : kMaxGroup) * kSide];
    for (int64_t j = 0; j < m; ++j)
      for (int64_t w = 0; w < kSide; ++w)
        keys[j * kSide + w] = selection_key(to_float(x[w * m + j]));
    RankGroups::run(keys, ranked, n, m);
    for (int64_t w = 0; w < kSide; ++w)
      for (int64_t j = 0; j < m; ++j) flags[w * m + j] = ranked[j * kSide + w];
  }
};

// Groups down the rows: m rows of `cols` columns.
template <class T, int kM>
struct NmDown {
  BITLAW_LEAF static void run(const T* x, uint8_t* flags, int64_t cols, int64_t n, int64_t m_any) {
    const int64_t m = kM ? kM : m_any;
    int32_t keys[(kM ? kM : kMaxGroup) * kSide];
    uint8_t ranked[(kM ? kM : kMaxGroup) * kSide];
    for (int64_t c = 0; c < cols; c += kSide) {
      const int64_t side = cols - c < kSide ? cols - c : kSide;
      for (int64_t j = 0; j < m; ++j)
        for (int64_t w = 0; w < kSide; ++w)
          keys[j * kSide + w] = w < side ? selection_key(to_float(x[j * cols + c + w])) : 0;
      RankGroups::run(keys, ranked, n, m);
      for (int64_t j = 0; j < m; ++j)
        for (int64_t w = 0; w < side; ++w) flags[j * cols + c + w] = ranked[j * kSide + w];
    }
  }
};

// Flags of `length` consecutive elements, a multiple of the group's size.
template <class T>
void nm_flags(const T* x, uint8_t* flags, int64_t length, int64_t cols, NmAttrs a) {
  const auto run = [&]<int kM>() {
    if (a.along_rows) {
      for (int64_t at = 0; at < length; at += a.m * cols)
        on_isa<NmDown<T, kM>>(x + at, flags + at, cols, a.n, a.m);
      return;
    }
    const int64_t step = a.m * kSide, whole = length / step * step;
    for (int64_t at = 0; at < whole; at += step)
      on_isa<NmAlong<T, kM>>(x + at, flags + at, a.n, a.m);
    if (whole < length) {  // the last groups, padded
      T padded[kMaxGroup * kSide] = {};
      uint8_t padded_flags[kMaxGroup * kSide];
      std::copy(x + whole, x + length, padded);
      on_isa<NmAlong<T, kM>>(static_cast<const T*>(padded), static_cast<uint8_t*>(padded_flags),
                             a.n, a.m);
      std::copy_n(padded_flags, length - whole, flags + whole);
    }
  };
  if (a.m == 4)
    run.template operator()<4>();
  else if (a.m == 8)
    run.template operator()<8>();
  else
    run.template operator()<0>();
}

template <class T>
void check_nm(View<const T, 3> x, NmAttrs a) {
  require(a.m >= 1 && a.m <= kMaxGroup, "m must be in [1, 64], got " + std::to_string(a.m));
  require(a.n >= 1 && a.n <= a.m, "n must be in [1, m], got " + std::to_string(a.n));
  require(x.shape[a.along_rows ? 1 : 2] % a.m == 0, "m must divide the axis of x");
}

// mask[item] has n ones in every m consecutive elements: the largest |x|, lowest index first among
// equals, NaN last. Bits are those of the item's elements in memory order.
template <class T>
void nm_mask(const Parallel& par, View<const T, 3> x, View<uint8_t, 2> mask, NmAttrs a) {
  const int64_t cols = x.shape[2], length = x.item_size();
  check_nm(x, a);
  if (x.size() == 0) return;
  // A unit holds whole groups and starts on a byte of the mask.
  const int64_t group = a.along_rows ? a.m * cols : a.m;
  const int64_t step = std::lcm<int64_t>(group, 8);
  const int64_t unit = std::min(length, std::max(step, int64_t{8192} / step * step));
  const int64_t units = (length + unit - 1) / unit;
  par(x.shape[0] * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> flags(unit);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t first = u % units * unit, n = std::min(unit, length - first);
      nm_flags(x.item(u / units) + first, flags.data(), n, cols, a);
      on_isa<PackFlags>(flags.data(), mask.item(u / units) + first / 8, n);
    }
  });
}

// Where a bit of the mask is 1 the element's bits, else zero, at most kPruneUnit elements.
inline constexpr int64_t kPruneUnit = 4096;
template <class T>
struct PruneStretch {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  BITLAW_LEAF static void run(const T* x, const uint8_t* mask, T* y, int64_t n) {
    // Byte l of the product keeps bit l only: eight flags, zero or not, at once.
    uint8_t flags[kPruneUnit + 7];
    for (int64_t b = 0; b < bytes_of_bits(n); ++b) {
      const uint64_t eight = (mask[b] * 0x0101010101010101ull) & 0x8040201008040201ull;
      std::memcpy(flags + 8 * b, &eight, 8);
    }
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) {
      const Bits bits = std::bit_cast<Bits>(x[i]);
      y[i] = std::bit_cast<T>(static_cast<Bits>(flags[i] ? bits : Bits{0}));
    }
  }
};

// y = x where the mask's bit is 1, else 0.
template <class T>
void prune(const Parallel& par, View<const T, 2> x, View<const uint8_t, 2> mask, View<T, 2> y) {
  const int64_t n = x.shape[1], unit = std::min<int64_t>(n, kPruneUnit);
  if (x.size() == 0) return;
  const int64_t units = (n + unit - 1) / unit;
  par(x.shape[0] * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit;
      on_isa<PruneStretch<T>>(x.item(item) + first, mask.item(item) + first / 8,
                              y.item(item) + first, std::min(unit, n - first));
    }
  });
}

}  // namespace bitlaw
