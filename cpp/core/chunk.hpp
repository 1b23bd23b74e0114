// Elements mapped to the grid a chunk at a time: a constant number of them, which the compiler
// turns into whole vectors.
#pragma once
#include <cstring>
#include <type_traits>

#include "core/bits.hpp"
#include "core/grid.hpp"

namespace bitlaw {

inline constexpr int kChunk = 16;

// Of each group, or of each element: multiplied (or divided) by, times step; affine codes are moved
// by zero.
struct Factors {
  const float *by, *step, *zero;
};
struct Factor {
  float by, step, zero;
};
template <Element kElement>
BITLAW_LEAF Factor factor_at(const Factors& m, int64_t i) {
  const float zero = kElement == Element::affine ? m.zero[i] : 0.0f;
  return {unless_nan(m.by[i], zero), m.step[i], zero};
}

// What all elements of a call share.
struct Common {
  Grid grid;
  Pass pass;
  float least;     // of Above
  float smallest;  // no level but zero is nearer to zero; 0: not known
};

// The smallest level above zero, where the grid shows it, or else 0.
inline float smallest_level(Kind kind, const Grid& g) {
  if (kind == Kind::floating) return g.smallest_normal() * g.epsilon();
  if (kind == Kind::nf4) return 0x1p-4f;
  const auto whole = [](float x) { return (x + kRound) - kRound == x; };
  const bool known = whole(g.qmin()) && whole(g.qmax()) && whole(2.0f * g.offset());
  return known ? 0.5f : 0.0f;
}

// A flag is as wide as the element beside it: that keeps the loops at full width.
template <class T>
using Flag = std::conditional_t<sizeof(T) == 2, int16_t, int32_t>;

// The value of an element on the grid; and its flag, where kFlags asks for it.
template <Element kElement, bool kNearest, bool kFlags, bool kNoOffset>
BITLAW_LEAF float mapped(float v, Factor f, float threshold, const Common& c, int32_t* flag) {
  const auto map = [&](auto rule) BITLAW_INLINE {
    return map_element<kElement>(v, f.by, f.zero, c.grid, rule);
  };
  Mapped m;
  if constexpr (kNearest && kFlags)
    m = map(NearestEven{});
  else if constexpr (kNearest)
    m = map(NearestLevel<kNoOffset>{});
  else if constexpr (kFlags)
    m = map(Above{threshold, c.least});
  else
    m = map(AboveLevel<kNoOffset>{{threshold, c.least}});
  if constexpr (kFlags) *flag = passes(m, c.pass, f.zero);
  return m.level * f.step;
}

// bfloat16 are mapped in pairs, the halves of a 32-bit word: a shift makes a float of one, a mask
// of the other, and no element leaves its lane. low[i] and high[i] are the values of pair i.
template <Element kElement, bool kNearest, bool kFlags, bool kNoOffset, int kPairs>
BITLAW_LEAF void map_pairs(const bfloat16* x, float* low, float* high, int16_t* flags,
                           const float* u, Factor f, const Common& c) {
  BITLAW_CHUNK
  for (int i = 0; i < kPairs; ++i) {
    uint32_t pair;
    std::memcpy(&pair, x + 2 * i, 4);
    const auto map = [&](uint32_t bits, int side, int32_t* flag) BITLAW_INLINE {
      return mapped<kElement, kNearest, kFlags, kNoOffset>(
          std::bit_cast<float>(bits), f, kNearest ? 0.0f : u[2 * i + side], c, flag);
    };
    int32_t first = 0, second = 0;
    low[i] = map(pair << 16, 0, &first);
    high[i] = map(pair & 0xffff0000u, 1, &second);
    if constexpr (kFlags) {
      const int32_t both = first | second << 16;
      std::memcpy(flags + 2 * i, &both, 4);
    }
  }
}
template <int kPairs>
BITLAW_LEAF void widen_pairs(const bfloat16* x, float* low, float* high) {
  BITLAW_CHUNK
  for (int i = 0; i < kPairs; ++i) {
    uint32_t pair;
    std::memcpy(&pair, x + 2 * i, 4);
    low[i] = float_of(static_cast<int32_t>(pair << 16));
    high[i] = float_of(static_cast<int32_t>(pair & 0xffff0000u));
  }
}
template <int kPairs>
BITLAW_LEAF void narrow_pairs(const float* low, const float* high, bfloat16* y) {
  BITLAW_CHUNK
  for (int i = 0; i < kPairs; ++i) {
    const uint32_t pair = rounded_bits(low[i]) >> 16 | (rounded_bits(high[i]) & 0xffff0000u);
    std::memcpy(y + 2 * i, &pair, 4);
  }
}

// Calls chunk(x, y, i) for the chunks of elements [begin, end). The last may be a part: it goes
// through a copy of x and y; scratch memory has room for all of it.
template <int kSize, class T, class Chunk>
BITLAW_LEAF void for_chunks(const T* x, T* y, int64_t begin, int64_t end, const Chunk& chunk) {
  int64_t i = begin;
  for (; i + kSize <= end; i += kSize) chunk(x + i, y + i, i);
  if (i == end) return;
  T part[kSize];
  for (int64_t j = 0; j < kSize; ++j) part[j] = x[i + j < end ? i + j : end - 1];
  chunk(part, part, i);
  for (int64_t j = 0; j < kSize && i + j < end; ++j) y[i + j] = part[j];
}

// Consecutive groups of one row.
template <class T, Element kElement, bool kNearest, bool kFlags>
struct MapGroups {
  // Elements [begin, end), of one group.
  template <int kSize, bool kNoOffset>
  BITLAW_LEAF static void map(const T* x, T* y, Flag<T>* flags, const float* u, Factor f,
                              int64_t begin, int64_t end, const T* ahead, const Common& c) {
    const auto chunk = [&](const T* from, T* to, int64_t at) BITLAW_INLINE {
      // Each chunk fetches its like of the next unit into the second-level cache: the next
      // statistic then finds its data while this map computes (1.6x in bench/kernels).
      for (int k = 0; k < kSize; k += 64 / sizeof(T)) __builtin_prefetch(ahead + at + k, 0, 2);
      if constexpr (std::is_same_v<T, float>) {
        BITLAW_CHUNK
        for (int i = 0; i < kSize; ++i)
          to[i] = mapped<kElement, kNearest, kFlags, kNoOffset>(
              from[i], f, kNearest ? 0.0f : u[at + i], c, flags + at + i);
      } else {
        float low[kSize / 2], high[kSize / 2];
        map_pairs<kElement, kNearest, kFlags, kNoOffset, kSize / 2>(
            from, low, high, flags + at, kNearest ? nullptr : u + at, f, c);
        narrow_pairs<kSize / 2>(low, high, to);
      }
    };
    for_chunks<kSize>(x, y, begin, end, chunk);
  }
  template <int kSize, bool kNoOffset>
  BITLAW_LEAF static void map_all(const T* x, T* y, Flag<T>* flags, const float* u, Factors m,
                                  int64_t groups, int64_t block, const T* ahead, const Common& c) {
    for (int64_t b = 0; b < groups; ++b)
      map<kSize, kNoOffset>(x, y, flags, u, factor_at<kElement>(m, b), b * block, (b + 1) * block,
                            ahead, c);
  }
  template <int kSize>
  BITLAW_LEAF static void map_grid(const T* x, T* y, Flag<T>* flags, const float* u, Factors m,
                                   int64_t groups, int64_t block, const T* ahead, const Common& c) {
    constexpr bool uniform = kElement == Element::uniform || kElement == Element::affine;
    if constexpr (uniform && !kFlags)
      if (c.grid.offset() == 0.0f)
        return map_all<kSize, true>(x, y, flags, u, m, groups, block, ahead, c);
    map_all<kSize, false>(x, y, flags, u, m, groups, block, ahead, c);
  }
  BITLAW_LEAF static void run(const T* x, T* y, Flag<T>* flags, const float* u, Factors m,
                              int64_t groups, int64_t block, const T* ahead, Common c) {
    if (sizeof(T) == 4 && block == 32)  // a constant lets the compiler unroll the group
      map_grid<32>(x, y, flags, u, m, groups, 32, ahead, c);
    else if (sizeof(T) == 2 && block % 32 == 0)
      map_grid<32>(x, y, flags, u, m, groups, block, ahead, c);
    else
      map_grid<16>(x, y, flags, u, m, groups, block, ahead, c);
  }
};

// Elements that have their numbers each: columns, and blocks shorter than a chunk.
template <Element kElement, bool kNearest, bool kFlags>
struct MapColumns {
  BITLAW_LEAF static void run(const float* x, float* y, int32_t* flags, const float* u, Factors m,
                              int64_t n, int64_t, const float*, Common c) {
    const auto chunk = [&](const float* from, float* to, int64_t at) BITLAW_INLINE {
      BITLAW_CHUNK
      for (int i = 0; i < kChunk; ++i)
        to[i] = mapped<kElement, kNearest, kFlags, false>(from[i], factor_at<kElement>(m, at + i),
                                                          kNearest ? 0.0f : u[at + i], c,
                                                          flags + at + i);
    };
    for_chunks<kChunk>(x, y, 0, n, chunk);
  }
};

template <class T>
struct NarrowTo {
  BITLAW_LEAF static void run(const float* x, T* y, int64_t n) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) y[i] = Narrow<T>::from(x[i]);
  }
};

// Flags to bits.
template <class F>
struct PackWideFlags {
  BITLAW_LEAF static void run(const F* flags, uint8_t* mask, int64_t n) {
    constexpr int64_t kPart = 512;
    uint8_t bytes[kPart];
    for (int64_t i = 0; i < n; i += kPart) {
      const int64_t m = n - i < kPart ? n - i : kPart;
      BITLAW_LOOP
      for (int64_t j = 0; j < m; ++j) bytes[j] = static_cast<uint8_t>(flags[i + j]);
      pack_codes<1>(bytes, mask + i / 8, m);
    }
  }
};

}  // namespace bitlaw
