// The transform with vectors of 16: a stride inside a vector is one permutation and one fused
// multiply-add by 1 and -1, which rounds as the sum and the difference do. The same bits as the
// passes of hadamard.hpp, for which it stands in, but for the sign of a NaN that meets another.
#pragma once
#include "core/hadamard.hpp"

// (clang: see avx512.hpp.)
#if defined(__x86_64__) && !defined(__CUDACC__) && !defined(__clang__)
#include <immintrin.h>

#define BITLAW_OWN BITLAW_AVX512BF16 BITLAW_LEAF

namespace bitlaw {

// 1 in the lanes without the bit `stride`, which get the sum; -1 in the others.
template <int stride>
BITLAW_OWN __m512 butterfly_signs() {
  constexpr int minus = stride == 1 ? 0xaaaa : stride == 2 ? 0xcccc : stride == 4 ? 0xf0f0 : 0xff00;
  return _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
}
// x with lanes i and i ^ stride in each other's place. (g++ 12 warns of these without a mask.)
template <int stride>
BITLAW_OWN __m512 partners(__m512 x) {
  constexpr __mmask16 kAll = 0xffff;
  if constexpr (stride == 1) return _mm512_maskz_permute_ps(kAll, x, 0xb1);
  if constexpr (stride == 2) return _mm512_maskz_permute_ps(kAll, x, 0x4e);
  if constexpr (stride == 4) return _mm512_maskz_shuffle_f32x4(kAll, x, x, 0xb1);
  return _mm512_maskz_shuffle_f32x4(kAll, x, x, 0x4e);
}

inline constexpr int kVectors = kRun / 16;

template <int stride>
BITLAW_OWN void lane_pass(__m512 (&v)[kVectors]) {
  const __m512 signs = butterfly_signs<stride>();
  BITLAW_UNROLL
  for (int k = 0; k < kVectors; ++k) v[k] = _mm512_fmadd_ps(v[k], signs, partners<stride>(v[k]));
}
template <int stride>  // of vectors
BITLAW_OWN void vector_pass(__m512 (&v)[kVectors]) {
  BITLAW_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    if (k & stride) continue;
    const __m512 a = v[k], b = v[k + stride];
    v[k] = _mm512_add_ps(a, b);
    v[k + stride] = _mm512_sub_ps(a, b);
  }
}

// As hadamard_run.
template <int strides>
BITLAW_OWN void hadamard_vectors(const float* x, float* y, float factor) {
  __m512 v[kVectors];
  BITLAW_UNROLL
  for (int k = 0; k < kVectors; ++k) v[k] = _mm512_loadu_ps(x + 16 * k);
  lane_pass<1>(v), lane_pass<2>(v), lane_pass<4>(v), lane_pass<8>(v);
  if constexpr (strides > 4) vector_pass<1>(v);
  if constexpr (strides > 5) vector_pass<2>(v);
  if constexpr (strides > 6) vector_pass<4>(v);
  BITLAW_UNROLL
  for (int k = 0; k < kVectors; ++k)
    _mm512_storeu_ps(y + 16 * k, _mm512_mul_ps(v[k], _mm512_set1_ps(factor)));
}

template <>
struct OwnForm<HadamardColumns<float>> : std::true_type {
  template <int strides>
  BITLAW_OWN static void runs(const float* x, float* y, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i += kRun) hadamard_vectors<strides>(x + i, y + i, factor);
  }
  BITLAW_OWN static void run(const float* x, const uint8_t* signs, float* y, int64_t n,
                             int64_t block, float factor, bool inverse) {
    if (signs || n % kRun)
      return HadamardColumns<float>::run(x, signs, y, n, block, factor, inverse);
    switch (block) {
      case 16:
        return runs<4>(x, y, n, factor);
      case 32:
        return runs<5>(x, y, n, factor);
      case 64:
        return runs<6>(x, y, n, factor);
      case 128:
        return runs<7>(x, y, n, factor);
    }
    runs<7>(x, y, n, 1.0f);
    long_strides(y, n, block, factor);
  }
};

}  // namespace bitlaw
#undef BITLAW_OWN
#endif
