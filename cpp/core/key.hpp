// Keys that order elements by magnitude, and the loops that compare many with a range of them.
//
// A key is the magnitude's bits plus one, and 0 for NaN, so NaN goes first and infinity stays.
#pragma once
#include <algorithm>
#include <cstring>

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
  int32_t last_of(int64_t bin) const {
    return static_cast<int32_t>(std::min<int64_t>(kKeys, lo + ((bin + 1) << shift)) - 1);
  }
  // The range of one bin, in finer bins.
  Range inside(int64_t bin) const {
    return {lo + static_cast<int32_t>(bin << shift), std::max(0, shift - kBinBits)};
  }
};
inline constexpr Range kAllKeys{0, 31 - kBinBits};

// Packs n <= kCompared flags into whole words, spare bits 0; returns how many are set.
BITLAW_LEAF int64_t packed_count(const uint8_t* flags, int64_t n, uint64_t* bits) {
  for (int64_t w = n / 64; w < (n + 63) / 64; ++w) bits[w] = 0;
  pack_flags(flags, reinterpret_cast<uint8_t*>(bits), n);
  int64_t count = 0;
  for (int64_t w = 0; w < (n + 63) / 64; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

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

// At most this many keys are compared at a time; the loops below vectorise, unless conditions join.
inline constexpr int64_t kCompared = 512;
inline constexpr int64_t kComparedWords = kCompared / 64;

// bits[i] = key > last, for n <= kCompared; returns how many.
template <class T>
BITLAW_LEAF int64_t bits_beyond(const T* x, int64_t n, float scale, int32_t last, uint64_t* bits) {
  uint8_t flags[kCompared];
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i) flags[i] = scaled_key(x[i], scale) > last;
  return packed_count(flags, n, bits);
}

// bits[i] = first <= key <= last, for n <= kCompared; returns how many.
template <class T>
BITLAW_LEAF int64_t bits_within(const T* x, int64_t n, float scale, int32_t first, int32_t last,
                                uint64_t* bits) {
  uint8_t flags[kCompared];
  const auto width = static_cast<uint32_t>(last - first);
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i)
    flags[i] = static_cast<uint32_t>(scaled_key(x[i], scale) - first) <= width;
  return packed_count(flags, n, bits);
}

// Adds to *above the keys beyond the range, to bins those inside.
template <class T>
struct CountRange {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, Range range, int32_t last,
                              int64_t* above, int32_t* bins) {
    uint64_t bits[kComparedWords];
    // Pruned weights are many, and all in one bin, as NaN would be: those are not visited.
    const int32_t first = range.lo > kZeroKey ? range.lo : kZeroKey + 1;
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      *above += bits_beyond(x + i, m, scale, last, bits);
      for (int32_t key = range.lo; key < first && key <= last; ++key)
        bins[range.bin(key)] += static_cast<int32_t>(bits_within(x + i, m, scale, key, key, bits));
      if (first > last || !bits_within(x + i, m, scale, first, last, bits)) continue;
      // Few are inside a narrow range: visit the set bits.
      each_bit(bits, m, [&](int64_t j) { ++bins[range.bin(scaled_key(x[i + j], scale))]; });
    }
  }
};

// beyond[i] = key > last; within[i] = first <= key <= last, in whole words; adds those to *found.
template <class T>
struct MarkRange {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, int32_t first, int32_t last,
                              uint8_t* beyond, uint64_t* within, int64_t* found) {
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      bits_beyond(x + i, m, scale, last, bits);
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
      *found += bits_within(x + i, m, scale, first, last, within + i / 64);
    }
  }
};

// bits[i] = key > last
template <class T>
struct MarkBeyond {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, int32_t last, uint8_t* beyond) {
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      bits_beyond(x + i, m, scale, last, bits);
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
    }
  }
};

}  // namespace bitlaw
