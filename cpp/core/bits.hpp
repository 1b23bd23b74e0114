// Codes of 1 to 8 bits into bytes and back, little-endian: code i of a row occupies its bits
// i k .. i k + k - 1, and bit j of byte b is bit 8 b + j.
#pragma once
#include <algorithm>
#include <cstring>
#include <tuple>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

inline constexpr int64_t bytes_of_bits(int64_t n) { return (n + 7) / 8; }

// `wide` bits at the bottom of each of the `fields` equal fields of a word.
constexpr uint64_t low_bits(int fields, int wide) {
  uint64_t mask = 0;
  for (int f = 0; f < fields; ++f) mask |= (~0ull >> (64 - wide)) << (64 / fields * f);
  return mask;
}

// Each pair of fields of 64 / (2 pairs) bits, `wide` bits at the bottom of each, becomes one field
// with twice as many; and back.
template <int pairs, int wide>
BITLAW_LEAF uint64_t join_pairs(uint64_t w) {
  constexpr uint64_t low = low_bits(pairs, wide), gap = 32 / pairs - wide;
  return (w & low) | ((w >> gap) & (low << wide));
}
template <int pairs, int wide>
BITLAW_LEAF uint64_t split_pairs(uint64_t w) {
  constexpr uint64_t low = low_bits(pairs, wide), gap = 32 / pairs - wide;
  return (w & low) | ((w & (low << wide)) << gap);
}

// Eight bytes, a code of k bits at the bottom of each, to 8 k bits in a row; and back.
template <int k>
BITLAW_LEAF uint64_t join_codes(uint64_t w) {
  return join_pairs<1, 4 * k>(join_pairs<2, 2 * k>(join_pairs<4, k>(w)));
}
template <int k>
BITLAW_LEAF uint64_t split_codes(uint64_t w) {
  return split_pairs<4, k>(split_pairs<2, 2 * k>(split_pairs<1, 4 * k>(w)));
}

// Widths that are no power of two go through words in two steps, so that one of them vectorises.
inline constexpr int64_t kWords = 64;

// How many of m words of k bytes may be moved eight bytes at a time, if `left` words remain.
template <int k>
BITLAW_LEAF int64_t wide_moves(int64_t m, int64_t left) {
  const int64_t safe = left - (8 + k - 1) / k + 1;
  return safe < 0 ? 0 : safe < m ? safe : m;
}

// An unsigned type of k bytes, if there is one.
template <int k>
using WordOf = std::conditional_t<
    k == 1, uint8_t,
    std::conditional_t<k == 2, uint16_t, std::conditional_t<k == 4, uint32_t, uint64_t>>>;

// Packs the low k bits of n bytes; spare bits of the last byte are 0.
template <int k>
BITLAW_LEAF void pack_codes(const uint8_t* codes, uint8_t* packed, int64_t n) {
  const int64_t whole = n / 8;
  const auto word = [&](int64_t i) BITLAW_INLINE {
    uint64_t w;
    std::memcpy(&w, codes + 8 * i, 8);
    return join_codes<k>(w);
  };
  if constexpr (sizeof(WordOf<k>) == k) {
    BITLAW_LOOP
    for (int64_t i = 0; i < whole; ++i) {
      const auto w = static_cast<WordOf<k>>(word(i));
      std::memcpy(packed + k * i, &w, k);
    }
  } else {
    uint64_t words[kWords];
    for (int64_t at = 0; at < whole; at += kWords) {
      const int64_t m = whole - at < kWords ? whole - at : kWords;
      for (int64_t i = 0; i < m; ++i) words[i] = word(at + i);
      const int64_t wide = wide_moves<k>(m, whole - at);  // the next overwrites the excess
      uint8_t* out = packed + k * at;
      for (int64_t i = 0; i < wide; ++i) std::memcpy(out + k * i, &words[i], 8);
      for (int64_t i = wide; i < m; ++i) std::memcpy(out + k * i, &words[i], k);
    }
  }
  if (whole * 8 < n) {
    uint64_t w = 0;
    for (int64_t i = whole * 8; i < n; ++i) w |= uint64_t{codes[i]} << (8 * (i - whole * 8));
    w = join_codes<k>(w);
    std::memcpy(packed + k * whole, &w, bytes_of_bits((n - whole * 8) * k));
  }
}

// n codes of k bits, one to a byte.
template <int k>
BITLAW_LEAF void unpack_codes(const uint8_t* packed, uint8_t* codes, int64_t n) {
  const int64_t whole = n / 8;
  const auto store = [&](int64_t i, uint64_t w) BITLAW_INLINE {
    w = split_codes<k>(w);
    std::memcpy(codes + 8 * i, &w, 8);
  };
  if constexpr (sizeof(WordOf<k>) == k) {
    BITLAW_LOOP
    for (int64_t i = 0; i < whole; ++i) {
      WordOf<k> w;
      std::memcpy(&w, packed + k * i, k);
      store(i, w);
    }
  } else {
    uint64_t words[kWords];
    for (int64_t at = 0; at < whole; at += kWords) {
      const int64_t m = whole - at < kWords ? whole - at : kWords;
      const int64_t wide = wide_moves<k>(m, whole - at);
      const uint8_t* in = packed + k * at;
      for (int64_t i = 0; i < wide; ++i) std::memcpy(&words[i], in + k * i, 8);
      for (int64_t i = wide; i < m; ++i) std::memcpy(&words[i], in + k * i, k);
      BITLAW_LOOP
      for (int64_t i = 0; i < m; ++i) store(at + i, words[i]);
    }
  }
  if (whole * 8 < n) {
    uint64_t w = 0;
    std::memcpy(&w, packed + k * whole, bytes_of_bits((n - whole * 8) * k));
    w = split_codes<k>(w);
    std::memcpy(codes + 8 * whole, &w, n - whole * 8);
  }
}

// Flags are codes of one bit.
BITLAW_LEAF void pack_flags(const uint8_t* flags, uint8_t* bits, int64_t n) {
  pack_codes<1>(flags, bits, n);
}

// ---- the ops ---------------------------------------------------------------------------------

// Calls run.template operator()<bits>().
template <class Run>
void with_bits(int64_t bits, const Run& run) {
  require(bits >= 1 && bits <= 8, "bits must be 1 to 8, got " + std::to_string(bits));
  [&]<int... k>(std::integer_sequence<int, k...>) {
    ((bits == k + 1 ? run.template operator()<k + 1>() : void()), ...);
  }(std::make_integer_sequence<int, 8>());
}

struct BitsAttrs {
  int64_t bits;
  static constexpr auto fields() { return std::tuple{Field{"bits", &BitsAttrs::bits}}; }
};

template <int k>
struct PackCodes {
  BITLAW_LEAF static void run(const uint8_t* codes, uint8_t* packed, int64_t n) {
    pack_codes<k>(codes, packed, n);
  }
};
template <int k>
struct UnpackCodes {
  BITLAW_LEAF static void run(const uint8_t* packed, uint8_t* codes, int64_t n) {
    unpack_codes<k>(packed, codes, n);
  }
};

// Calls body(item, first, n) for stretches of codes that start on a byte.
template <class Body>
void for_stretches(const Parallel& par, int64_t items, int64_t cols, const Body& body) {
  constexpr int64_t kCodes = 32 * 1024;
  const int64_t parts = (cols + kCodes - 1) / kCodes;
  par(items * parts, items_per_chunk(std::min(cols, kCodes)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % parts * kCodes;
      body(i / parts, first, std::min(kCodes, cols - first));
    }
  });
}

inline void pack_bits(const Parallel& par, View<const uint8_t, 2> codes, View<uint8_t, 2> packed,
                      BitsAttrs a) {
  with_bits(a.bits, [&]<int k>() {
    for_stretches(par, codes.shape[0], codes.shape[1], [&](int64_t i, int64_t first, int64_t n) {
      on_isa<PackCodes<k>>(codes.item(i) + first, packed.item(i) + first / 8 * k, n);
    });
  });
}

inline void unpack_bits(const Parallel& par, View<const uint8_t, 2> packed, View<uint8_t, 2> codes,
                        BitsAttrs a) {
  with_bits(a.bits, [&]<int k>() {
    for_stretches(par, codes.shape[0], codes.shape[1], [&](int64_t i, int64_t first, int64_t n) {
      on_isa<UnpackCodes<k>>(packed.item(i) + first / 8 * k, codes.item(i) + first, n);
    });
  });
}

struct PackFlags {
  BITLAW_LEAF static void run(const uint8_t* flags, uint8_t* bits, int64_t n) {
    pack_flags(flags, bits, n);
  }
};

}  // namespace bitlaw
