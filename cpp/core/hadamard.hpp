// The fast Walsh-Hadamard transform of runs of consecutive elements.
//
// y = H x with H[i, j] = (-1)^popcount(i & j) / sqrt(block): symmetric and orthonormal, so it is
// its own inverse. Butterflies run by ascending stride 1, 2, 4, ..., each a sum and a difference;
// the normalisation is one product at the end. That order is part of the result.
#pragma once
#include <bit>
#include <cmath>
#include <tuple>

#include "core/bits.hpp"
#include "core/minifloat.hpp"

namespace bitlaw {

inline constexpr int64_t kHadamardMin = 16, kHadamardMax = 4096;

// Strides below a segment would shuffle lanes. A pass over a segment that reads neighbours 2 i and
// 2 i + 1 and writes to i and i + half rotates the bits of every index by one: five passes bring
// each element home, and each pass is two shuffles for two vectors, whatever the stride was.
inline constexpr int kSegment = 32, kRun = 128;

template <bool kButterfly>
BITLAW_LEAF void segment_pass(const float* x, float* y) {
  constexpr int half = kSegment / 2;
  BITLAW_UNROLL
  for (int s = 0; s < kRun; s += kSegment) {
    BITLAW_CHUNK
    for (int i = 0; i < half; ++i) {
      const float a = x[s + 2 * i], b = x[s + 2 * i + 1];
      y[s + i] = kButterfly ? a + b : a;
      y[s + i + half] = kButterfly ? a - b : b;
    }
  }
}
// The butterflies of a stride that is no shorter than a segment.
template <int kStride>
BITLAW_LEAF void stride_pass(const float* x, float* y) {
  BITLAW_UNROLL
  for (int s = 0; s < kRun; s += 2 * kStride) {
    BITLAW_LOOP
    for (int i = 0; i < kStride; ++i) {
      const float a = x[s + i], b = x[s + i + kStride];
      y[s + i] = a + b;
      y[s + i + kStride] = a - b;
    }
  }
}

// The first `strides` butterflies of a run; x and y may be the same memory. The passes are written
// out, so that the compiler keeps the run in registers where there are enough.
template <int strides>
BITLAW_LEAF void hadamard_run(const float* x, float* y, float factor) {
  alignas(64) float a[kRun], b[kRun];
  segment_pass<(strides > 0)>(x, a);
  segment_pass<(strides > 1)>(a, b);
  segment_pass<(strides > 2)>(b, a);
  segment_pass<(strides > 3)>(a, b);
  segment_pass<(strides > 4)>(b, a);
  if constexpr (strides > 5) stride_pass<32>(a, b);
  if constexpr (strides > 6) stride_pass<64>(b, a);
  const float* const last = strides == 6 ? b : a;
  for (int i = 0; i < kRun; ++i) y[i] = last[i] * factor;
}

// Whole blocks of at most a run, and the first strides of longer ones.
template <int strides>
BITLAW_LEAF void hadamard_short(const float* x, float* y, int64_t n, float factor) {
  const int64_t whole = n / kRun * kRun;
  for (int64_t i = 0; i < whole; i += kRun) hadamard_run<strides>(x + i, y + i, factor);
  if (whole == n) return;
  float rest[kRun] = {};
  for (int64_t i = whole; i < n; ++i) rest[i - whole] = x[i];
  hadamard_run<strides>(rest, rest, factor);
  for (int64_t i = whole; i < n; ++i) y[i] = rest[i - whole];
}

// The butterflies of strides h and 2 h (or of h alone), in place, on `block` elements.
BITLAW_LEAF void stride_pair(float* x, int64_t block, int64_t h, float factor) {
  for (int64_t i = 0; i < block; i += 4 * h) {
    float *p = x + i, *q = p + h, *r = q + h, *s = r + h;
    BITLAW_LOOP
    for (int64_t j = 0; j < h; ++j) {
      const float a = p[j] + q[j], b = p[j] - q[j], c = r[j] + s[j], d = r[j] - s[j];
      p[j] = (a + c) * factor, q[j] = (b + d) * factor;
      r[j] = (a - c) * factor, s[j] = (b - d) * factor;
    }
  }
}
BITLAW_LEAF void stride_single(float* x, int64_t block, int64_t h, float factor) {
  for (int64_t i = 0; i < block; i += 2 * h) {
    float *p = x + i, *q = p + h;
    BITLAW_LOOP
    for (int64_t j = 0; j < h; ++j) {
      const float a = p[j], b = q[j];
      p[j] = (a + b) * factor, q[j] = (a - b) * factor;
    }
  }
}

// The strides from a run up, in place, of blocks longer than that.
BITLAW_LEAF void long_strides(float* y, int64_t n, int64_t block, float factor) {
  for (int64_t i = 0; i < n; i += block) {
    int64_t h = kRun;
    for (; 4 * h <= block; h *= 4) stride_pair(y + i, block, h, 4 * h == block ? factor : 1.0f);
    if (h < block) stride_single(y + i, block, h, factor);
  }
}

// 1 / sqrt(block) as f32.
inline float hadamard_factor(int64_t block) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
}

// y[0 .. n) = the transform of each run of `block` elements of x; n is a multiple of block, x and y
// may be the same memory. Meant for data in the first-level cache.
BITLAW_LEAF void hadamard_runs(const float* x, float* y, int64_t n, int64_t block, float factor) {
  switch (block) {
    case 16:
      return hadamard_short<4>(x, y, n, factor);
    case 32:
      return hadamard_short<5>(x, y, n, factor);
    case 64:
      return hadamard_short<6>(x, y, n, factor);
    case 128:
      return hadamard_short<7>(x, y, n, factor);
  }
  hadamard_short<7>(x, y, n, 1.0f);
  long_strides(y, n, block, factor);
}

// ---- the op ----------------------------------------------------------------------------------

struct HadamardAttrs {
  int64_t block;
  bool inverse;
  static constexpr auto fields() {
    return std::tuple{Field{"block", &HadamardAttrs::block},
                      Field{"inverse", &HadamardAttrs::inverse}};
  }
};

// Columns copied and worked on at a time, or the block if that is longer; each a multiple of 8.
inline constexpr int64_t kHadamardUnit = 1024;

// x, the other way round where its flag is 1.
BITLAW_LEAF float turned(float x, uint8_t flag) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) ^ (uint32_t{flag} << 31));
}

// n columns of a row. A set bit of `signs` turns its element round: before the transform, or after
// it for the inverse. What needs neither signs nor another type is transformed where it is.
template <class T>
struct HadamardColumns {
  BITLAW_LEAF static void run(const T* x, const uint8_t* signs, T* y, int64_t n, int64_t block,
                              float factor, bool inverse) {
    constexpr bool f32 = std::is_same_v<T, float>;
    if constexpr (f32)
      if (!signs) return hadamard_runs(x, y, n, block, factor);
    float work[kHadamardMax];
    uint8_t flags[kHadamardMax];
    if (signs) unpack_codes<1>(signs, flags, n);
    if (signs && !inverse) {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) work[i] = turned(to_float(x[i]), flags[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) work[i] = to_float(x[i]);
    }
    if constexpr (f32)
      if (!inverse) return hadamard_runs(work, y, n, block, factor);
    hadamard_runs(work, work, n, block, factor);
    if (signs && inverse) {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) y[i] = Narrow<T>::from(turned(work[i], flags[i]));
    } else {
      BITLAW_LOOP
      for (int64_t i = 0; i < n; ++i) y[i] = Narrow<T>::from(work[i]);
    }
  }
};

inline void check_hadamard(int64_t block, int64_t cols) {
  require(block >= kHadamardMin && block <= kHadamardMax &&
              std::has_single_bit(static_cast<uint64_t>(block)) && cols % block == 0,
          "block must be a power of two in [16, 4096] that divides the columns of x");
}

template <class T>
void hadamard(const Parallel& par, View<const T, 3> x, View<const uint8_t, 2> signs, View<T, 3> y,
              HadamardAttrs a) {
  const int64_t rows = x.shape[1], cols = x.shape[2];
  check_hadamard(a.block, cols);
  if (x.size() == 0) return;
  const int64_t unit = std::min(cols, std::max(a.block, kHadamardUnit));
  const int64_t units = (cols + unit - 1) / unit;
  const float factor = hadamard_factor(a.block);
  par(x.shape[0] * rows * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t row = u / units, first = u % units * unit, at = row * cols + first;
      const uint8_t* bits = signs.shape[1] ? signs.item(row / rows) + first / 8 : nullptr;
      on_isa<HadamardColumns<T>>(x.data + at, bits, y.data + at, std::min(unit, cols - first),
                                 a.block, factor, a.inverse);
    }
  });
}

}  // namespace bitlaw

#include "core/avx512_hadamard.hpp"  // a second form of the leaf, known wherever the leaf is
