// Which of the few elements of a group are the largest: the leaves of n:m masks.
#pragma once
#include "core/key.hpp"

namespace bitlaw {

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

}  // namespace bitlaw
