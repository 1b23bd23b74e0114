// Counter-based random bits: Threefry2x32 (Salmon et al., SC 2011) with 13 rounds, the fewest
// without a known flaw by the documentation of its library, Random123. (jax.random does 20.) A bit
// depends on key, row and column only: never on thread, block or shard.
#pragma once
#include <tuple>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

// Columns served by one run of 16 counters: the first words, then the second words.
inline constexpr int64_t kRandomRun = 32;

// Key and number of a row, as they come in the operand u32[items, 3].
struct Noise {
  uint32_t key0, key1, row;
};

struct Counter {
  uint32_t a, b;
};

template <int r, class... C>
BITLAW_LEAF void threefry_round(C&... c) {
  ((c.a += c.b), ...);
  ((c.b = ((c.b << r) | (c.b >> (32 - r))) ^ c.a), ...);
}
template <class... C>
BITLAW_LEAF void threefry_key(uint32_t first, uint32_t second, C&... c) {
  ((c.a += first, c.b += second), ...);
}

// The two words of each counter, in place: several side by side, since a round waits for the last.
template <class... C>
BITLAW_LEAF void threefry_rounds(uint32_t key0, uint32_t key1, C&... c) {
  const uint32_t key2 = key0 ^ key1 ^ 0x1bd11bdau;
  const auto even = [&]() BITLAW_INLINE {
    threefry_round<13>(c...), threefry_round<15>(c...);
    threefry_round<26>(c...), threefry_round<6>(c...);
  };
  const auto odd = [&]() BITLAW_INLINE {
    threefry_round<17>(c...), threefry_round<29>(c...);
    threefry_round<16>(c...), threefry_round<24>(c...);
  };
  threefry_key(key0, key1, c...);
  even(), threefry_key(key1, key2 + 1, c...);
  odd(), threefry_key(key2, key0 + 2, c...);
  even(), threefry_key(key0, key1 + 3, c...);
  threefry_round<17>(c...);
}
BITLAW_LEAF void threefry(uint32_t key0, uint32_t key1, uint32_t& a, uint32_t& b) {
  Counter c{a, b};
  threefry_rounds(key0, key1, c);
  a = c.a, b = c.b;
}

// The upper 24 bits of a word as a number in [0, 1).
BITLAW_LEAF float uniform_of(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
}

// Thresholds of the columns of runs run + k: of several side by side, since a round waits for the
// last (four take 14 % less time than two).
template <int... k>
BITLAW_LEAF void uniform_runs(float* u, int64_t run, Noise noise) {
  constexpr int half = kRandomRun / 2;
  const auto first = static_cast<uint32_t>(run * half);
  BITLAW_CHUNK
  for (int i = 0; i < half; ++i) {
    Counter c[] = {{noise.row, first + static_cast<uint32_t>(k * half + i)}...};
    threefry_rounds(noise.key0, noise.key1, c[k]...);
    ((u[2 * k * half + i] = uniform_of(c[k].a)), ...);
    ((u[(2 * k + 1) * half + i] = uniform_of(c[k].b)), ...);
  }
}

// u[0 .. end - begin): thresholds in [0, 1) of columns [begin, end) of a row; fastest where both
// are multiples of 128.
BITLAW_LEAF void uniform_columns(float* u, int64_t begin, int64_t end, Noise noise) {
  const auto part = [&](int64_t from, int64_t to) BITLAW_INLINE {  // within one run
    float whole[kRandomRun];
    uniform_runs<0>(whole, from / kRandomRun, noise);
    for (int64_t c = from; c < to; ++c) u[c - begin] = whole[c % kRandomRun];
  };
  const int64_t first = (begin + kRandomRun - 1) / kRandomRun, last = end / kRandomRun;
  if (first > last) return part(begin, end);
  if (begin < first * kRandomRun) part(begin, first * kRandomRun);
  int64_t run = first;
  for (; run + 4 <= last; run += 4)
    uniform_runs<0, 1, 2, 3>(u + run * kRandomRun - begin, run, noise);
  for (; run < last; ++run) uniform_runs<0>(u + run * kRandomRun - begin, run, noise);
  if (last * kRandomRun < end) part(last * kRandomRun, end);
}

// ---- the op ----------------------------------------------------------------------------------

struct UniformAttrs {
  int64_t rows, cols;
  static constexpr auto fields() {
    return std::tuple{Field{"rows", &UniformAttrs::rows}, Field{"cols", &UniformAttrs::cols}};
  }
};

struct UniformColumns {
  BITLAW_LEAF static void run(float* u, int64_t begin, int64_t end, Noise noise) {
    uniform_columns(u, begin, end, noise);
  }
};

inline void uniform(const Parallel& par, View<const uint32_t, 2> noise, View<float, 3> u,
                    UniformAttrs a) {
  constexpr int64_t kPart = 8192;  // columns at a time
  const int64_t parts = (a.cols + kPart - 1) / kPart, rows = noise.shape[0] * a.rows;
  par(rows * parts, items_per_chunk(std::min(kPart, a.cols)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / parts, from = i % parts * kPart;
      const uint32_t* n = noise.data + 3 * (row / a.rows);
      on_isa<UniformColumns>(u.data + row * a.cols + from, from, std::min(a.cols, from + kPart),
                             Noise{n[0], n[1], n[2] + static_cast<uint32_t>(row % a.rows)});
    }
  });
}

}  // namespace bitlaw
