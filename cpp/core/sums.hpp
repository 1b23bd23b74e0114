// What scales are taken from, summed or compared over stretches, groups and columns.
#pragma once
#include "core/grid.hpp"

namespace bitlaw {

// Partial sums run in a fixed order: element j of a stretch goes to lane j mod 16, lanes add up in
// halves, stretches of kStretch elements add up in order.
inline constexpr int64_t kStretch = 4096;
inline constexpr int kLanes = 16;

struct Sums {
  int32_t high = 0;   // not of rms; as bits: an integer maximum keeps NaN, a float one may drop it
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

// lane[j mod 16] = the sum of the squares of those elements, exact ones.
template <class T>
BITLAW_LEAF void square_lanes(const T* x, int64_t n, double* lane) {
  double sum[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const double v = to_float(x[i + l]);
      sum[l] += v * v;
    }
  for (int l = 0; l < kLanes; ++l) lane[l] = sum[l];
  for (int64_t i = whole; i < n; ++i) {
    const double v = to_float(x[i]);
    lane[i - whole] += v * v;
  }
}

// The same of bfloat16 in pairs, the halves of 32-bit words, which no element leaves: better where
// the lanes come home once in many elements, worse in short blocks.
BITLAW_LEAF void square_lanes_of_pairs(const bfloat16* x, int64_t n, double* lane) {
  constexpr int half = kLanes / 2;
  double even[half] = {}, odd[half] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    BITLAW_CHUNK
    for (int l = 0; l < half; ++l) {
      uint32_t pair;
      std::memcpy(&pair, x + i + 2 * l, 4);
      const double a = std::bit_cast<float>(pair << 16);
      const double b = std::bit_cast<float>(pair & 0xffff0000u);
      even[l] += a * a;
      odd[l] += b * b;
    }
  }
  for (int l = 0; l < half; ++l) lane[2 * l] = even[l], lane[2 * l + 1] = odd[l];
  for (int64_t i = whole; i < n; ++i) {
    const double v = to_float(x[i]);
    lane[i - whole] += v * v;
  }
}

// The upper half of the lanes to the lower, until one is left.
template <int lanes = kLanes>
BITLAW_LEAF double sum_of_lanes(double* lane) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
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
  } else if (statistic != Statistic::rms) {
    s.high = absmax_bits(x, n);
  }
  if (statistic != Statistic::rms) return s;
  double lane[kLanes];
  if constexpr (std::is_same_v<T, bfloat16>)
    square_lanes_of_pairs(x, n, lane);
  else
    square_lanes(x, n, lane);
  s.square = sum_of_lanes(lane);
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
// The chains of eight groups side by side: one alone is waited for.
template <class T>
BITLAW_LEAF int64_t rms_of_blocks(const T* x, int64_t groups, int64_t block, float* high) {
  constexpr int kSide = 8;
  int64_t b = 0;
  for (; b + kSide <= groups; b += kSide) {
    double lane[kSide][kLanes];
    for (int k = 0; k < kSide; ++k) square_lanes(x + (b + k) * block, block, lane[k]);
    BITLAW_UNROLL
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int k = 0; k < kSide; ++k)
        for (int l = 0; l < half; ++l) lane[k][l] += lane[k][l + half];
    for (int k = 0; k < kSide; ++k)
      high[b + k] = statistic_of({0, 0, lane[k][0], block}, Statistic::rms);
  }
  return b;
}
template <class T>
struct GroupStatistics {
  BITLAW_LEAF static void run(const T* x, int64_t groups, int64_t block, Statistic statistic,
                              bool pruned, float* high, float* low) {
    const bool absmax = statistic == Statistic::absmax;
    if (absmax && block == 16) return absmax_of_blocks<T, 16>(x, groups, high);
    if (absmax && block == 32) return absmax_of_blocks<T, 32>(x, groups, high);
    if (absmax && block == 64) return absmax_of_blocks<T, 64>(x, groups, high);
    if (statistic == Statistic::range && block == 32)
      return range_of_blocks<T, 32>(x, groups, high, low);
    int64_t b = 0;
    if (statistic == Statistic::rms && !pruned && block <= 256)
      b = rms_of_blocks(x, groups, block, high);
    for (; b < groups; ++b) {
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
      if (statistic == Statistic::absmax) {
        BITLAW_LOOP
        for (int64_t c = 0; c < cols; ++c) {
          const int32_t m = magnitude_bits(to_float(x[c]));
          high[c] = high[c] > m ? high[c] : m;
        }
        continue;
      }
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

}  // namespace bitlaw

#include "core/avx512_sums.hpp"  // a second form of leaves, known wherever they are
