// Flags (bytes 0 or 1) into bits and back: bit i of byte b is flag 8 b + i, little-endian.
#pragma once
#include <cstring>

#include "core/isa.hpp"

namespace bitlaw {

inline constexpr int64_t bytes_of_bits(int64_t n) { return (n + 7) / 8; }

// Packs n flags; spare bits of the last byte are 0.
BITLAW_LEAF void pack_flags(const uint8_t* flags, uint8_t* bits, int64_t n) {
  const int64_t whole = n / 8;
  BITLAW_LOOP
  for (int64_t b = 0; b < whole; ++b) {
    uint64_t eight;
    std::memcpy(&eight, flags + 8 * b, 8);
    bits[b] = static_cast<uint8_t>((eight * 0x0102040810204080ull) >> 56);
  }
  if (whole * 8 < n) {
    uint8_t last = 0;
    for (int64_t i = whole * 8; i < n; ++i) last |= static_cast<uint8_t>(flags[i] << (i % 8));
    bits[whole] = last;
  }
}

struct PackFlags {
  BITLAW_LEAF static void run(const uint8_t* flags, uint8_t* bits, int64_t n) {
    pack_flags(flags, bits, n);
  }
};

}  // namespace bitlaw
