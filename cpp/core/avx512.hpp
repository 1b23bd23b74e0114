// Leaves with instructions that the compiler does not find: bfloat16 rounded by the processor, the
// levels of NF4 looked up in a register, comparisons that are bits of a mask at once. The same bits
// as in chunk.hpp and groups.hpp, whose leaves they stand in for.
#pragma once
#include "core/chunk.hpp"
#include "core/groups.hpp"

// (clang does not know prefer-vector-width, and then ignores all of the target.)
#if defined(__x86_64__) && !defined(__CUDACC__) && !defined(__clang__)
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

template <>
struct OwnForm<NarrowTo<bfloat16>> : std::true_type {
  BITLAW_OWN static __mmask16 subnormal(__m512 x) {
    const __m512i twice = _mm512_maskz_slli_epi32(0xffff, _mm512_castps_si512(x), 1);
    return _mm512_cmplt_epu32_mask(_mm512_sub_epi32(twice, _mm512_set1_epi32(1)),
                                   _mm512_set1_epi32(0x00ffffff));
  }
  BITLAW_OWN static void run(const float* x, bfloat16* y, int64_t n) {
    for (; n >= 32; n -= 32, x += 32, y += 32) {
      const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
      if (subnormal(low) | subnormal(high))
        NarrowTo<bfloat16>::run(x, y, 32);
      else
        _mm512_storeu_si512(y, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    NarrowTo<bfloat16>::run(x, y, n);
  }
};

// Cells a sixteenth wide hold at most one of the thresholds between the levels of NF4. Of each cell
// from -16 to 15, at that number modulo 32: the threshold (or infinity) and the levels beside it.
struct Nf4Cells {
  float threshold[32], low[32], high[32];
  constexpr Nf4Cells() : threshold(), low(), high() {
    int level = 0;
    for (int cell = -16; cell < 16; ++cell) {
      const int at = cell & 31;
      const float next = level < 15 ? 0.5f * (kNf4[level] + kNf4[level + 1]) : kInfinity;
      const bool here = next * 16.0f < static_cast<float>(cell) + 0.5f;
      threshold[at] = here ? next : kInfinity;
      low[at] = kNf4[level];
      level += here;
      high[at] = kNf4[level];
    }
  }
};
inline constexpr Nf4Cells kNf4Cells;

BITLAW_OWN __m512 nf4_entry(const float* table, __m512i cell) {
  return _mm512_permutex2var_ps(_mm512_loadu_ps(table), cell, _mm512_loadu_ps(table + 16));
}

// The nearest levels of x * by, times step. (g++ 12 warns of min and max without a mask.)
BITLAW_OWN __m512 nf4_values(__m512 x, __m512 by, __m512 step) {
  constexpr __mmask16 kAll = 0xffff;
  const __m512 v = _mm512_mul_ps(x, by);
  // The cell is in the lowest bits; NaN stays NaN, being the second operand.
  const __m512 within = _mm512_maskz_min_ps(kAll, _mm512_set1_ps(15.0f / 16),
                                            _mm512_maskz_max_ps(kAll, _mm512_set1_ps(-1.0f), v));
  const __m512 rounded = _mm512_fmadd_ps(within, _mm512_set1_ps(16.0f), _mm512_set1_ps(kRound));
  const __m512i cell = _mm512_castps_si512(rounded);
  const __mmask16 above = _mm512_cmp_ps_mask(v, nf4_entry(kNf4Cells.threshold, cell), _CMP_GT_OQ);
  const __m512 level =
      _mm512_mask_blend_ps(above, nf4_entry(kNf4Cells.low, cell), nf4_entry(kNf4Cells.high, cell));
  return _mm512_mul_ps(_mm512_fmadd_ps(rounded, _mm512_setzero_ps(), level), step);
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

template <Element kElement, bool kNearest, bool kFlags>
struct OwnForm<MapGroups<bfloat16, kElement, kNearest, kFlags>> : std::true_type {
  using Plain = MapGroups<bfloat16, kElement, kNearest, kFlags>;
  template <int kPairs, bool kNoOffset>
  BITLAW_OWN static void map_all(const bfloat16* x, bfloat16* y, int16_t* flags, const float* u,
                                 Factors m, int64_t groups, int64_t block, const bfloat16* ahead,
                                 const Common& c) {
    for (int64_t b = 0; b < groups; ++b) {
      const Factor f = factor_at<kElement>(m, b);
      for (int64_t i = b * block; i < (b + 1) * block; i += 2 * kPairs) {
        __builtin_prefetch(ahead + i, 0, 2);
        float v[2 * kPairs];
        if constexpr (kElement == Element::nf4 && kNearest && !kFlags) {
          widen_pairs<kPairs>(x + i, v, v + kPairs);
          const __m512 by = _mm512_set1_ps(f.by), step = _mm512_set1_ps(f.step);
          for (int j = 0; j < 2 * kPairs; j += 16)
            _mm512_storeu_ps(v + j, nf4_values(_mm512_loadu_ps(v + j), by, step));
        } else {
          map_pairs<kElement, kNearest, kFlags, kNoOffset, kPairs>(
              x + i, v, v + kPairs, flags + i, kNearest ? nullptr : u + i, f, c);
        }
        convert(v, y + i);
      }
    }
  }
  // A constant block lets the compiler unroll the group.
  template <int kPairs, bool kNoOffset>
  BITLAW_OWN static void map(const bfloat16* x, bfloat16* y, int16_t* flags, const float* u,
                             Factors m, int64_t groups, int64_t block, const bfloat16* ahead,
                             const Common& c) {
    if (block == 2 * kPairs)
      map_all<kPairs, kNoOffset>(x, y, flags, u, m, groups, 2 * kPairs, ahead, c);
    else
      map_all<kPairs, kNoOffset>(x, y, flags, u, m, groups, block, ahead, c);
  }
  BITLAW_OWN static void run(const bfloat16* x, bfloat16* y, int16_t* flags, const float* u,
                             Factors m, int64_t groups, int64_t block, const bfloat16* ahead,
                             Common c) {
    if (block % 16 || !no_subnormals<kElement>(m, groups, c.smallest))
      return Plain::run(x, y, flags, u, m, groups, block, ahead, c);
    constexpr bool uniform = kElement == Element::uniform || kElement == Element::affine;
    if constexpr (uniform && !kFlags)
      if (c.grid.offset() == 0.0f && block % 32 == 0)
        return map<16, true>(x, y, flags, u, m, groups, block, ahead, c);
    if (block % 32 == 0)
      map<16, false>(x, y, flags, u, m, groups, block, ahead, c);
    else
      map<8, false>(x, y, flags, u, m, groups, block, ahead, c);
  }
};

// Groups of four 16-bit elements where they lie, 32 elements at a time: a group is a word of 64
// bits, and turning it brings each element its rivals.
template <class T>
  requires(sizeof(T) == 2)
struct OwnForm<RankAlong<T, 4>> : std::true_type {
  using Plain = RankAlong<T, 4>;
  // Numbers of Span, which order magnitudes, with one for all NaN.
  BITLAW_OWN static __m512i key(const T* x) {
    constexpr int16_t kNan = Span<T>::kNan, kNumber = Span<T>::kNumbers - 1;
    const __m512i number =
        _mm512_and_si512(_mm512_add_epi16(_mm512_loadu_si512(x), _mm512_set1_epi16(kNan)),
                         _mm512_set1_epi16(kNumber));
    return _mm512_max_epu16(number, _mm512_set1_epi16(kNan - 1));
  }
  // A rival that comes later in its group has to be larger: by 1, which is added to the key.
  BITLAW_OWN static __m512i later(__m512i key, int64_t ones) {
    return _mm512_add_epi16(key, _mm512_set1_epi64(ones));
  }
  template <int n>
  BITLAW_OWN static void map(const T* x, uint8_t* bits, int64_t length) {
    for (int64_t i = 0; i < length; i += 32) {
      __builtin_prefetch(x + i + 4096, 0, 2);  // two pages on: what is read ahead ends with a page
      const __m512i k = key(x + i);
      // Whether the rival 1, 2 and 3 places before, around the group, is taken first. (Turned with
      // a mask of all, or g++ 12 warns.)
      const uint32_t a = _mm512_cmpge_epu16_mask(_mm512_maskz_rol_epi64(0xff, k, 16),
                                                 later(k, 0x0000000000000001));
      const uint32_t b = _mm512_cmpge_epu16_mask(_mm512_maskz_rol_epi64(0xff, k, 32),
                                                 later(k, 0x0000000000010001));
      const uint32_t c = _mm512_cmpge_epu16_mask(_mm512_maskz_rol_epi64(0xff, k, 48),
                                                 later(k, 0x0000000100010001));
      const uint32_t lost = n == 1 ? a | b | c : n == 2 ? (a & b) | (c & (a | b)) : a & b & c;
      const uint32_t code = ~lost;
      std::memcpy(bits + i / 8, &code, sizeof(code));
    }
  }
  BITLAW_OWN static void run(const T* x, uint8_t* bits, int64_t groups, int64_t n) {
    const int64_t length = 4 * groups, whole = n < 4 ? length / 32 * 32 : 0;
    if (n == 1) map<1>(x, bits, whole);
    if (n == 2) map<2>(x, bits, whole);
    if (n == 3) map<3>(x, bits, whole);
    Plain::run(x + whole, bits + whole / 8, (length - whole) / 4, n);
  }
};

}  // namespace bitlaw
#undef BITLAW_OWN
#endif
