// Maps with instructions that the compiler does not find: bfloat16 rounded by the processor, and
// the levels of NF4 looked up in a register. The same bits as chunk.hpp, whose maps they stand in
// for.
#pragma once
#include "core/chunk.hpp"

namespace bitlaw {

// The smallest level above zero, where the grid shows it, or else 0.
inline float smallest_level(Kind kind, const Grid& g) {
  if (kind == Kind::floating) return g.smallest_normal() * g.epsilon();
  if (kind == Kind::nf4) return 0x1p-4f;
  const auto whole = [](float x) { return (x + kRound) - kRound == x; };
  const bool known = whole(g.qmin()) && whole(g.qmax()) && whole(2.0f * g.offset());
  return known ? 0.5f : 0.0f;
}

}  // namespace bitlaw

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <immintrin.h>

#define BITLAW_OWN BITLAW_AVX512BF16 BITLAW_LEAF

namespace bitlaw {

// The instruction takes subnormals for zero. Whether no product of a level and a step is one.
template <Element kElement>
BITLAW_LEAF bool no_subnormals(const Factors& m, int64_t groups, float smallest) {
  int32_t fine = -1;
  for (int64_t b = 0; b < groups; ++b) {
    const Factor f = factor_at<kElement>(m, b);
    const float step = float_of(magnitude_bits(f.step));
    const bool normal = !(step * smallest < 0x1p-126f) | (step == 0.0f);
    fine &= -static_cast<int32_t>(normal & ((f.zero + kRound) - kRound == f.zero));
  }
  return fine;
}

// v[i] and v[n + i] as pair i, for n = 16 and 8.
BITLAW_OWN void convert(const float (&v)[32], bfloat16* y) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(v + 16), _mm512_loadu_ps(v));
  _mm512_storeu_si512(y, _mm512_permutexvar_epi16(order, (__m512i)both));
}
BITLAW_OWN void convert(const float (&v)[16], bfloat16* y) {
  const __m256i order = _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
  const __m256bh both = _mm256_cvtne2ps_pbh(_mm256_loadu_ps(v + 8), _mm256_loadu_ps(v));
  _mm256_storeu_si256((__m256i*)y, _mm256_permutexvar_epi16(order, (__m256i)both));
}

// The thresholds between the levels of NF4 from number `first` on, as a table for permutes.
struct Nf4Thresholds {
  float from[16];
  constexpr explicit Nf4Thresholds(int first) : from() {
    for (int k = 0; k + first < 15; ++k) from[k] = 0.5f * (kNf4[k + first] + kNf4[k + first + 1]);
  }
};
inline constexpr Nf4Thresholds kNf4First(0), kNf4Second(1), kNf4Fourth(3);

// An entry of a table of 16. With a mask of ones: g++ 12 warns of the plain form.
BITLAW_OWN __m512 nf4_entry(__m512i at, const float* table) {
  return _mm512_maskz_permutexvar_ps(0xffff, at, _mm512_loadu_ps(table));
}

// The count of thresholds below v, of which the next is `more` beyond those counted: one step.
BITLAW_OWN __m512i nf4_step(__m512 v, __m512i count, int more, const Nf4Thresholds& thresholds) {
  const __m512 next = nf4_entry(count, thresholds.from);
  const __mmask16 above = _mm512_cmp_ps_mask(v, next, _CMP_GT_OQ);
  return _mm512_mask_add_epi32(count, above, count, _mm512_set1_epi32(more));
}

// The nearest levels of x * by, times step. How many thresholds are below an element is found by
// bisection (8, 4, 2, 1); the one to compare with next is looked up by the count.
BITLAW_OWN __m512 nf4_values(__m512 x, __m512 by, __m512 step) {
  const __m512 v = _mm512_mul_ps(x, by);
  __m512i count = _mm512_maskz_set1_epi32(
      _mm512_cmp_ps_mask(v, _mm512_set1_ps(kNf4First.from[7]), _CMP_GT_OQ), 8);
  count = nf4_step(v, count, 4, kNf4Fourth);
  count = nf4_step(v, count, 2, kNf4Second);
  count = nf4_step(v, count, 1, kNf4First);
  const __m512 level = nf4_entry(count, kNf4.data());
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_mul_ps(_mm512_mask_add_ps(level, nan, level, v), step);
}

template <>
struct OwnForm<MapGroups<float, Element::nf4, true, false>> : std::true_type {
  BITLAW_OWN static void run(const float* x, float* y, int32_t*, const float*, Factors m,
                             int64_t groups, int64_t block, const float* ahead, Common) {
    for (int64_t b = 0; b < groups; ++b) {
      const __m512 by = _mm512_set1_ps(m.by[b]), step = _mm512_set1_ps(m.step[b]);
      for (int64_t i = b * block, end = i + block; i < end; i += 16) {
        __builtin_prefetch(ahead + i, 0, 2);
        const auto here = static_cast<__mmask16>(end - i < 16 ? (1 << (end - i)) - 1 : 0xffff);
        const __m512 value = nf4_values(_mm512_maskz_loadu_ps(here, x + i), by, step);
        _mm512_mask_storeu_ps(y + i, here, value);
      }
    }
  }
};

template <Element kElement, bool kFlags>
struct OwnForm<MapGroups<bfloat16, kElement, true, kFlags>> : std::true_type {
  using Plain = MapGroups<bfloat16, kElement, true, kFlags>;
  template <int kPairs, bool kWhole>
  BITLAW_OWN static void map(const bfloat16* x, bfloat16* y, int16_t* flags, Factors m,
                             int64_t groups, int64_t block, const bfloat16* ahead,
                             const Common& c) {
    for (int64_t b = 0; b < groups; ++b) {
      const Factor f = factor_at<kElement>(m, b);
      for (int64_t i = b * block; i < (b + 1) * block; i += 2 * kPairs) {
        __builtin_prefetch(ahead + i, 0, 2);
        float v[2 * kPairs];
        if constexpr (kElement == Element::nf4 && !kFlags) {
          widen_pairs<kPairs>(x + i, v, v + kPairs);
          const __m512 by = _mm512_set1_ps(f.by), step = _mm512_set1_ps(f.step);
          for (int j = 0; j < 2 * kPairs; j += 16)
            _mm512_storeu_ps(v + j, nf4_values(_mm512_loadu_ps(v + j), by, step));
        } else {
          map_pairs<kElement, kFlags, kWhole, kPairs>(x + i, v, v + kPairs, flags + i, f, c);
        }
        convert(v, y + i);
      }
    }
  }
  BITLAW_OWN static void run(const bfloat16* x, bfloat16* y, int16_t* flags, const float* u,
                             Factors m, int64_t groups, int64_t block, const bfloat16* ahead,
                             Common c) {
    if (block % 16 || !no_subnormals<kElement>(m, groups, c.smallest))
      return Plain::run(x, y, flags, u, m, groups, block, ahead, c);
    constexpr bool uniform = kElement == Element::uniform || kElement == Element::affine;
    if constexpr (uniform && !kFlags)
      if (c.grid.offset() == 0.0f && block % 32 == 0)
        return map<16, true>(x, y, flags, m, groups, block, ahead, c);
    if (block % 32 == 0)
      map<16, false>(x, y, flags, m, groups, block, ahead, c);
    else
      map<8, false>(x, y, flags, m, groups, block, ahead, c);
  }
};

}  // namespace bitlaw
#endif
