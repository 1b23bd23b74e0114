// Keys that order elements by magnitude, and the loops that compare many with a range of them.
//
// A key is the magnitude's bits plus one, and 0 for NaN, so NaN goes first and infinity stays.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/bits.hpp"
#include "core/minifloat.hpp"

namespace bitlaw {

// Ordered like |x|, NaN lowest; at most 0x7f800001, so 31 bits.
BITLAW_LEAF int32_t selection_key(float x) {
  const int32_t m = magnitude_bits(x);
  return m > kInfinityBits ? 0 : m + 1;
}

inline constexpr int32_t kZeroKey = 1;
inline constexpr int32_t kKeys = kInfinityBits + 2;  // keys are 0 to kInfinityBits + 1
inline constexpr int kBinBits = 12;                  // tables that stay in the first-level cache
inline constexpr int64_t kBins = int64_t{1} << kBinBits;

// Keys lo + (b << shift) + 0 .. (1 << shift) - 1 belong to bin b of kBins.
struct Range {
  int32_t lo;
  int shift;

  BITLAW_LEAF uint32_t bin(int32_t key) const { return static_cast<uint32_t>(key - lo) >> shift; }
  int32_t first_of(int64_t bin) const { return lo + static_cast<int32_t>(bin << shift); }
  int32_t last_of(int64_t bin) const {
    return static_cast<int32_t>(std::min<int64_t>(kKeys, lo + ((bin + 1) << shift)) - 1);
  }
  // The range of some bins, in finer ones.
  Range inside(int64_t first_bin, int64_t last_bin) const {
    const int32_t first = first_of(first_bin);
    const auto width = std::bit_width(static_cast<uint32_t>(last_of(last_bin) - first));
    return {first, std::max(0, static_cast<int>(width) - kBinBits)};
  }
};
inline constexpr Range kAllKeys{0, 31 - kBinBits};

// Key of |x| times a positive scale.
template <class T>
BITLAW_LEAF int32_t scaled_key(T x, float scale) {
  return selection_key(to_float(x) * scale);
}

// body(i) for every bit i that is set among the first n.
template <class Body>
BITLAW_LEAF void each_bit(const uint64_t* bits, int64_t n, const Body& body) {
  for (int64_t w = 0; w < (n + 63) / 64; ++w)
    for (uint64_t set = bits[w]; set; set &= set - 1) body(64 * w + __builtin_ctzll(set));
}

// The keys first to last of |x| scale, found without keys: magnitudes are numbered in their order,
// NaN first, in as many bits as x has, and scaling keeps the order.
template <class T>
struct Span {
  using Unsigned = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  using Signed = std::make_signed_t<Unsigned>;
  static constexpr int64_t kNumbers = int64_t{1} << (8 * sizeof(T) - 1);
  static constexpr int64_t kInfinity = std::is_same_v<T, float>      ? kInfinityBits
                                       : std::is_same_v<T, bfloat16> ? 0x7f80
                                                                     : 0x7c00;
  static constexpr int64_t kNan = kNumbers - 1 - kInfinity;  // so many are NaN

  Unsigned last, count;

  Span(float scale, int64_t first_key, int64_t last_key) {
    const int64_t from = at_least(first_key, scale), to = at_least(last_key + 1, scale);
    count = static_cast<Unsigned>(std::max<int64_t>(0, to - from));
    last = static_cast<Unsigned>(to - 1);
  }
  // The number of the smallest magnitude whose key is not less.
  static int64_t at_least(int64_t key, float scale) {
    if (key <= 0) return 0;
    if (sizeof(T) == 4 && scale == 1.0f) return std::min(kNumbers, kNan + key - 1);
    int64_t low = kNan, high = kNumbers;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      const auto x = std::bit_cast<T>(static_cast<Unsigned>(middle - kNan));
      if (scaled_key(x, scale) >= key)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
  BITLAW_LEAF static Unsigned number(T x) {
    return static_cast<Unsigned>((raw_bits(x) + kNan) & (kNumbers - 1));
  }
  // How far the number is below the last: it is beyond where the sign's bit is set.
  BITLAW_LEAF Unsigned below(T x) const { return static_cast<Unsigned>(last - number(x)); }
  BITLAW_LEAF Unsigned beyond(T x) const {
    return static_cast<Unsigned>(below(x) >> (8 * sizeof(T) - 1));
  }
  BITLAW_LEAF bool within(T x) const { return below(x) < count; }
};

// At most this many elements are compared at a time; the loops below vectorise.
inline constexpr int64_t kCompared = 512;
inline constexpr int64_t kComparedWords = kCompared / 64;

// bits[i] = test(x[i]), for n <= kCompared, in whole words, spare bits 0; returns how many of
// another test there are: in sums as wide as what is compared.
template <class T, class Test, class Other>
BITLAW_LEAF int64_t bits_and_count(const T* x, int64_t n, uint64_t* bits, const Test& test,
                                   const Other& other) {
  uint8_t flags[kCompared];
  typename Span<T>::Unsigned count = 0;
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i) {
    flags[i] = test(x[i]);
    count += other(x[i]);
  }
  for (int64_t w = n / 64; w < (n + 63) / 64; ++w) bits[w] = 0;
  pack_flags(flags, reinterpret_cast<uint8_t*>(bits), n);
  return count;
}

// The places of the bits set among n <= kCompared, in order; returns how many. Four are written of
// every word, whether it has them or not: no branch to guess wrongly where few are set.
BITLAW_LEAF int64_t places(const uint64_t* bits, int64_t n, uint16_t* at) {
  int64_t count = 0;
  for (int64_t w = 0; w < (n + 63) / 64; ++w) {
    uint64_t set = bits[w];
    const int64_t next = count + __builtin_popcountll(set);
    do {
      BITLAW_UNROLL
      for (int j = 0; j < 4; ++j, set &= set - 1)
        at[count + j] = static_cast<uint16_t>(64 * w + __builtin_ctzll(set | 1ull << 63));
      count += 4;
    } while (set);
    count = next;
  }
  return count;
}

// Adds to *above the keys beyond the range, to bins those inside.
template <class T>
struct CountRange {
  Range range;
  float scale;
  // Pruned weights are many, and all in one bin, as NaN would be: those are not visited.
  Span<T> visited, zero, nan;

  CountRange(float scale, Range range, int32_t last)
      : range(range),
        scale(scale),
        visited(scale, std::max(range.lo, kZeroKey + 1), last),
        zero(scale, kZeroKey, kZeroKey),
        nan(scale, 0, 0) {}

  BITLAW_LEAF static void run(const T* x, int64_t n, CountRange c, int64_t* above, int32_t* bins) {
    uint64_t bits[kComparedWords];
    uint16_t at[kCompared + 4];
    const auto add = [&](const Span<T>& one, int32_t key, const T* from, int64_t m) BITLAW_INLINE {
      typename Span<T>::Unsigned count = 0;
      for (int64_t i = 0; i < m; ++i) count += one.within(from[i]);
      bins[c.range.bin(key)] += count;
    };
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      const T* from = x + i;
      *above += bits_and_count(
          from, m, bits, [&](T v) BITLAW_INLINE { return c.visited.within(v); },
          [&](T v) BITLAW_INLINE { return c.visited.beyond(v); });
      if (c.range.lo <= kZeroKey) add(c.zero, kZeroKey, from, m);
      if (c.range.lo <= 0) add(c.nan, 0, from, m);
      const int64_t some = places(bits, m, at);
      for (int64_t j = 0; j < some; ++j) ++bins[c.range.bin(scaled_key(from[at[j]], c.scale))];
    }
  }
};

// beyond[i] = key beyond the span, within[i] = key in it, in whole words; adds those to *found.
template <class T>
struct MarkSpan {
  BITLAW_LEAF static void run(const T* x, int64_t n, Span<T> span, uint8_t* beyond,
                              uint64_t* within, int64_t* found) {
    const auto is_beyond = [&](T v) BITLAW_INLINE { return span.beyond(v); };
    const auto is_within = [&](T v) BITLAW_INLINE { return span.within(v); };
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      const int64_t count = bits_and_count(x + i, m, bits, is_beyond, is_within);
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
      *found += count;
      if (count > 0)
        bits_and_count(x + i, m, within + i / 64, is_within, [](T) BITLAW_INLINE { return false; });
      else
        std::memset(within + i / 64, 0, (m + 63) / 64 * 8);
    }
  }
};

// bits[i] = key beyond the span
template <class T>
struct MarkBeyond {
  BITLAW_LEAF static void run(const T* x, int64_t n, Span<T> span, uint8_t* beyond) {
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      bits_and_count(
          x + i, m, bits, [&](T v) BITLAW_INLINE { return span.beyond(v); },
          [](T) BITLAW_INLINE { return false; });
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
    }
  }
};

}  // namespace bitlaw
