// Statistics of groups side by side: one alone ends in a chain of shuffles, two share each of
// theirs. The same bits as in sums.hpp, for whose leaf this stands in.
#pragma once
#include "core/sums.hpp"

// (clang: see avx512.hpp.)
#if defined(__x86_64__) && !defined(__CUDACC__) && !defined(__clang__)
#include <immintrin.h>

#define BITLAW_OWN BITLAW_AVX512BF16 BITLAW_LEAF

namespace bitlaw {

// ---- maxima ----------------------------------------------------------------------------------

// What is compared: |x|, x, or -x, as integers.
enum class Side { magnitude, above, below };

// Of words, or of both halves of words where T has 16 bits. (g++ 12 warns of some without a mask.)
template <class T>
BITLAW_OWN __m512i maximum(__m512i a, __m512i b) {
  return sizeof(T) == 2 ? _mm512_max_epi16(a, b) : _mm512_maskz_max_epi32(0xffff, a, b);
}

template <class T, Side kSide>
BITLAW_OWN __m512i larger_of(__m512i most, __m512i x) {
  const __m512i sign = sizeof(T) == 2 ? _mm512_set1_epi16(-0x8000) : _mm512_set1_epi32(1 << 31);
  if constexpr (kSide == Side::magnitude) x = _mm512_maskz_andnot_epi32(0xffff, sign, x);
  if constexpr (kSide == Side::below) x = _mm512_xor_si512(x, sign);
  return maximum<T>(most, x);
}

// A group of `block` elements, whole vectors of them, as 16 words; of two groups in half a vector
// each; of four in a quarter; of eight in an eighth. All are read in the order of memory.
template <class T, Side kSide>
BITLAW_OWN __m512i words_of(const T* x, int64_t block) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < block; i += 64 / sizeof(T))
    most = larger_of<T, kSide>(most, _mm512_loadu_si512(x + i));
  return most;
}
template <class T, Side kSide>
BITLAW_OWN __m512i halves_of(const T* x, int64_t block) {
  const __m512i a = words_of<T, kSide>(x, block), b = words_of<T, kSide>(x + block, block);
  return maximum<T>(_mm512_maskz_shuffle_i64x2(0xff, a, b, 0x44),
                    _mm512_maskz_shuffle_i64x2(0xff, a, b, 0xee));
}
template <class T, Side kSide>
BITLAW_OWN __m512i quarters_of(const T* x, int64_t block) {
  const __m512i a = halves_of<T, kSide>(x, block), b = halves_of<T, kSide>(x + 2 * block, block);
  return maximum<T>(_mm512_maskz_shuffle_i64x2(0xff, a, b, 0x88),
                    _mm512_maskz_shuffle_i64x2(0xff, a, b, 0xdd));
}
template <class T, Side kSide>
BITLAW_OWN __m512 eighths_of(const T* x, int64_t block) {
  const __m512i a = quarters_of<T, kSide>(x, block),
                b = quarters_of<T, kSide>(x + 4 * block, block);
  return _mm512_castsi512_ps(
      maximum<T>(_mm512_maskz_unpacklo_epi64(0xff, a, b), _mm512_maskz_unpackhi_epi64(0xff, a, b)));
}

// The largest of sixteen groups, as bits of floats.
template <class T, Side kSide>
BITLAW_OWN __m512i maxima_of(const T* x, int64_t block) {
  const __m512 a = eighths_of<T, kSide>(x, block), b = eighths_of<T, kSide>(x + 8 * block, block);
  __m512i most = maximum<T>(_mm512_castps_si512(_mm512_maskz_shuffle_ps(0xffff, a, b, 0x88)),
                            _mm512_castps_si512(_mm512_maskz_shuffle_ps(0xffff, a, b, 0xdd)));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  most = _mm512_maskz_permutexvar_epi32(0xffff, order, most);  // group 4 t + q was word 4 q + t
  if (sizeof(T) == 4) return most;
  most = maximum<T>(most, _mm512_maskz_slli_epi32(0xffff, most, 16));
  return _mm512_maskz_andnot_epi32(0xffff, _mm512_set1_epi32(0xffff), most);
}

// ---- sums of squares -------------------------------------------------------------------------

BITLAW_OWN __m512d eight(const float* x) { return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(x)); }
BITLAW_OWN __m512d eight(const bfloat16* x) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)x));
  return _mm512_maskz_cvtps_pd(0xff, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
}

// The first halving of the lanes of a group. A square of floats is exact, so it may be fused.
template <class T>
BITLAW_OWN __m512d lanes_of(const T* x, int64_t block) {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  for (int64_t i = 0; i < block; i += kLanes) {
    const __m512d a = eight(x + i), b = eight(x + i + 8);
    low = _mm512_fmadd_pd(a, a, low);
    high = _mm512_fmadd_pd(b, b, high);
  }
  return low + high;
}

// The second halving, of two groups; the third, of four; the sums of eight groups.
template <class T>
BITLAW_OWN __m512d fourths_of(const T* x, int64_t block) {
  const __m512d a = lanes_of(x, block), b = lanes_of(x + block, block);
  return _mm512_maskz_shuffle_f64x2(0xff, a, b, 0x44) +
         _mm512_maskz_shuffle_f64x2(0xff, a, b, 0xee);
}
template <class T>
BITLAW_OWN __m512d pairs_of(const T* x, int64_t block) {
  const __m512d a = fourths_of(x, block), b = fourths_of(x + 2 * block, block);
  return _mm512_maskz_shuffle_f64x2(0xff, a, b, 0x88) +
         _mm512_maskz_shuffle_f64x2(0xff, a, b, 0xdd);
}
template <class T>
BITLAW_OWN __m512d squares_of(const T* x, int64_t block) {
  const __m512d a = pairs_of(x, block), b = pairs_of(x + 4 * block, block);
  const __m512d sums = _mm512_maskz_unpacklo_pd(0xff, a, b) + _mm512_maskz_unpackhi_pd(0xff, a, b);
  const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
  return _mm512_maskz_permutexvar_pd(0xff, order, sums);  // group 4 s + q was number 2 q + s
}

// The sum of one long group.
BITLAW_OWN double square_of(const float* x, int64_t n) {
  double lane[kLanes / 2];
  _mm512_storeu_pd(lane, lanes_of(x, n));
  return sum_of_lanes<kLanes / 2>(lane);
}
// In pairs, the halves of 32-bit words, which no element leaves: lanes with even numbers, and odd.
BITLAW_OWN double square_of(const bfloat16* x, int64_t n) {
  __m512d even = _mm512_setzero_pd(), odd = _mm512_setzero_pd();
  const __m256i upper = _mm256_set1_epi32(-0x10000);
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m256i pair = _mm256_loadu_si256((const __m256i*)(x + i));
    const __m512d a = _mm512_maskz_cvtps_pd(0xff, _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)));
    const __m512d b =
        _mm512_maskz_cvtps_pd(0xff, _mm256_castsi256_ps(_mm256_and_si256(pair, upper)));
    even = _mm512_fmadd_pd(a, a, even);
    odd = _mm512_fmadd_pd(b, b, odd);
  }
  double of_even[kLanes / 2], of_odd[kLanes / 2];
  _mm512_storeu_pd(of_even, even);
  _mm512_storeu_pd(of_odd, odd);
  return sum_of_lanes<kLanes / 2>(of_even) + sum_of_lanes<kLanes / 2>(of_odd);
}

template <class T>
struct OwnForm<SumStretch<T>> : std::true_type {
  BITLAW_OWN static void run(const T* x, int64_t n, Statistic statistic, bool pruned, Sums* out) {
    if (statistic != Statistic::rms || pruned || n % kLanes)
      return SumStretch<T>::run(x, n, statistic, pruned, out);
    *out = {0, 0, square_of(x, n), n};
  }
};

template <class T>
struct OwnForm<GroupStatistics<T>> : std::true_type {
  using Plain = GroupStatistics<T>;
  static constexpr int kGroups = 16;  // at a time
  BITLAW_OWN static void rms(const T* x, int64_t block, float* high) {
    const __m512d count = _mm512_set1_pd(static_cast<double>(block));
    for (int k = 0; k < kGroups; k += 8) {
      const __m512d root = _mm512_maskz_sqrt_pd(0xff, squares_of(x + k * block, block) / count);
      _mm256_storeu_ps(high + k, _mm512_maskz_cvtpd_ps(0xff, root));
    }
  }
  // A constant block lets the compiler unroll the group.
  template <Statistic kStatistic, int64_t kBlock>
  BITLAW_OWN static int64_t blocks(const T* x, int64_t groups, int64_t any, float* high,
                                   float* low) {
    const int64_t block = kBlock ? kBlock : any;
    int64_t b = 0;
    for (; b + kGroups <= groups; b += kGroups) {
      const T* from = x + b * block;
      if constexpr (kStatistic == Statistic::rms) {
        rms(from, block, high + b);
      } else if constexpr (kStatistic == Statistic::range) {
        _mm512_storeu_si512(high + b, maxima_of<T, Side::above>(from, block));
        _mm512_storeu_si512(low + b, maxima_of<T, Side::below>(from, block));
      } else {
        _mm512_storeu_si512(high + b, maxima_of<T, Side::magnitude>(from, block));
      }
    }
    return b;
  }
  template <Statistic kStatistic>
  BITLAW_OWN static int64_t of(const T* x, int64_t groups, int64_t block, float* high, float* low) {
    if (block == 16) return blocks<kStatistic, 16>(x, groups, block, high, low);
    if (block == 32) return blocks<kStatistic, 32>(x, groups, block, high, low);
    return blocks<kStatistic, 0>(x, groups, block, high, low);
  }
  BITLAW_OWN static void run(const T* x, int64_t groups, int64_t block, Statistic statistic,
                             bool pruned, float* high, float* low) {
    const bool squares = statistic == Statistic::rms;
    const int64_t step = squares ? kLanes : 64 / sizeof(T);
    int64_t b = 0;
    if (block % step == 0 && !(squares && pruned)) {
      if (!squares || block <= kStretch)
        b = squares                         ? of<Statistic::rms>(x, groups, block, high, low)
            : statistic == Statistic::range ? of<Statistic::range>(x, groups, block, high, low)
                                            : of<Statistic::absmax>(x, groups, block, high, low);
      for (; squares && b < groups; ++b) {
        Sums sums{0, 0, 0, block};
        for (int64_t i = 0; i < block; i += kStretch)
          sums.square += square_of(x + b * block + i, block - i < kStretch ? block - i : kStretch);
        high[b] = statistic_of(sums, statistic);
      }
    }
    Plain::run(x + b * block, groups - b, block, statistic, pruned, high + b,
               low ? low + b : nullptr);
  }
};

}  // namespace bitlaw
#undef BITLAW_OWN
#endif
