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
// Ordered like |x|, NaN lowest, in as many bits as x has.
template <class T>
using GroupKey = typename Span<T>::Signed;
template <class T>
BITLAW_LEAF GroupKey<T> group_key(T x) {
  constexpr auto kMagnitude = static_cast<GroupKey<T>>(Span<T>::kNumbers - 1);
  constexpr auto kInfinity = static_cast<GroupKey<T>>(Span<T>::kInfinity);
  const auto m = static_cast<GroupKey<T>>(raw_bits(x) & kMagnitude);
  return static_cast<GroupKey<T>>(m > kInfinity ? 0 : m + 1);
}

// Bit j of the code: whether key j is among the n largest of kM, the lowest j first among equals.
// Every pair is compared once, and one of it counted as the lesser; all counts are bytes.
template <int kM, class Key>
BITLAW_LEAF uint8_t group_code(const Key* key, uint8_t n) {
  uint8_t losses[kM] = {}, code = 0;
  BITLAW_UNROLL
  for (int j = 1; j < kM; ++j) BITLAW_UNROLL
  for (int i = 0; i < j; ++i) {
    const uint8_t earlier = key[i] >= key[j];
    losses[j] += earlier;
    losses[i] += earlier ^ 1;
  }
  BITLAW_UNROLL
  for (int j = 0; j < kM; ++j) code |= static_cast<uint8_t>((losses[j] < n) << j);
  return code;
}

// Bits of groups of kM = 4 or 8 consecutive elements: a group's are one code.
template <class T, int kM>
struct RankAlong {
  BITLAW_LEAF static void run(const T* x, uint8_t* bits, int64_t groups, int64_t n) {
    uint8_t codes[kCompared];
    for (int64_t at = 0; at < groups; at += kCompared) {
      const int64_t side = groups - at < kCompared ? groups - at : kCompared;
      const T* from = x + at * kM;
      BITLAW_LOOP
      for (int64_t w = 0; w < side; ++w) {
        GroupKey<T> key[kM];
        BITLAW_UNROLL
        for (int j = 0; j < kM; ++j) key[j] = group_key(from[w * kM + j]);
        codes[w] = group_code<kM>(key, static_cast<uint8_t>(n));
      }
      pack_codes<kM>(codes, bits + at * kM / 8, side);
    }
  }
};

// Bit j of byte i becomes bit i of byte j (Hacker's Delight, section 7-3).
BITLAW_LEAF uint64_t transposed(uint64_t w) {
  const auto swap = [&](int by, uint64_t low) BITLAW_INLINE {
    const uint64_t differ = (w ^ w >> by) & low;
    w ^= differ ^ differ << by;
  };
  swap(7, 0x00aa00aa00aa00aa);
  swap(14, 0x0000cccc0000cccc);
  swap(28, 0x00000000f0f0f0f0);
  return w;
}

// Bits of kM rows of `cols` columns, a multiple of 8; a group is a column.
template <class T, int kM>
struct RankDown {
  BITLAW_LEAF static void run(const T* x, uint8_t* bits, int64_t cols, int64_t n) {
    uint8_t codes[kCompared];
    uint64_t eight[kCompared / 8];
    for (int64_t at = 0; at < cols; at += kCompared) {
      const int64_t side = cols - at < kCompared ? cols - at : kCompared;
      BITLAW_LOOP
      for (int64_t w = 0; w < side; ++w) {
        GroupKey<T> key[kM];
        BITLAW_UNROLL
        for (int j = 0; j < kM; ++j) key[j] = group_key(x[j * cols + at + w]);
        codes[w] = group_code<kM>(key, static_cast<uint8_t>(n));
      }
      BITLAW_LOOP
      for (int64_t i = 0; i < side / 8; ++i) {
        std::memcpy(&eight[i], codes + 8 * i, 8);
        eight[i] = transposed(eight[i]);
      }
      for (int j = 0; j < kM; ++j) {
        uint8_t* row = bits + (j * cols + at) / 8;
        BITLAW_LOOP
        for (int64_t i = 0; i < side / 8; ++i) row[i] = static_cast<uint8_t>(eight[i] >> 8 * j);
      }
    }
  }
};

// Flags of any groups, by a table of keys and one of counts.
template <class T, bool kAlong>
struct RankAny {
  static constexpr int64_t kSide = 64;
  BITLAW_LEAF static void run(const T* x, uint8_t* flags, int64_t groups, int64_t cols, int64_t n,
                              int64_t m) {
    int32_t keys[kMaxGroup * kSide];
    uint8_t losses[kMaxGroup * kSide];
    const auto most = static_cast<uint8_t>(n);
    for (int64_t at = 0; at < groups; at += kSide) {
      const int64_t side = groups - at < kSide ? groups - at : kSide;
      const T* from = x + (kAlong ? at * m : at);
      uint8_t* to = flags + (kAlong ? at * m : at);
      for (int64_t i = 0; i < m * kSide; ++i) keys[i] = losses[i] = 0;
      for (int64_t j = 0; j < m; ++j)
        for (int64_t w = 0; w < side; ++w)
          keys[j * kSide + w] = selection_key(to_float(from[kAlong ? w * m + j : j * cols + w]));
      for (int64_t j = 1; j < m; ++j)
        for (int64_t i = 0; i < j; ++i)
          for (int64_t w = 0; w < kSide; ++w) {
            const uint8_t earlier = keys[i * kSide + w] >= keys[j * kSide + w];
            losses[j * kSide + w] += earlier;
            losses[i * kSide + w] += earlier ^ 1;
          }
      for (int64_t j = 0; j < m; ++j)
        for (int64_t w = 0; w < side; ++w)
          to[kAlong ? w * m + j : j * cols + w] = losses[j * kSide + w] < most;
    }
  }
};

// Bits of `length` consecutive elements, whole groups; flags is scratch of that size.
template <class T>
void nm_bits(const T* x, uint8_t* flags, uint8_t* bits, int64_t length, int64_t cols, NmAttrs a) {
  const auto fixed = [&]<int kM>() {
    if (!a.along_rows) return on_isa<RankAlong<T, kM>>(x, bits, length / kM, a.n);
    for (int64_t at = 0; at < length; at += kM * cols)
      on_isa<RankDown<T, kM>>(x + at, bits + at / 8, cols, a.n);
  };
  const bool bytes = !a.along_rows || cols % 8 == 0;  // what is written begins on a byte
  if (bytes && a.m == 4) return fixed.template operator()<4>();
  if (bytes && a.m == 8) return fixed.template operator()<8>();
  if (!a.along_rows) on_isa<RankAny<T, true>>(x, flags, length / a.m, cols, a.n, a.m);
  for (int64_t at = 0; a.along_rows && at < length; at += a.m * cols)
    on_isa<RankAny<T, false>>(x + at, flags + at, cols, cols, a.n, a.m);
  on_isa<PackFlags>(static_cast<const uint8_t*>(flags), bits, length);
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
    const auto flags = std::make_unique_for_overwrite<uint8_t[]>(unit);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t first = u % units * unit, n = std::min(unit, length - first);
      nm_bits(x.item(u / units) + first, flags.get(), mask.item(u / units) + first / 8, n, cols, a);
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
