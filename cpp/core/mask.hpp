// Masks of n:m sparsity, and the application of a packed mask.
#pragma once
#include <numeric>
#include <tuple>

#include "core/avx512.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

struct NmAttrs {
  int64_t n, m;
  bool along_rows;  // groups of m consecutive rows of a column; else consecutive columns of a row
  static constexpr auto fields() {
    return std::tuple{Field{"n", &NmAttrs::n}, Field{"m", &NmAttrs::m},
                      Field{"along_rows", &NmAttrs::along_rows}};
  }
};

// Bits of `length` consecutive elements, whole groups; flags is scratch of that size.
template <class T>
void nm_bits(const T* x, uint8_t* flags, uint8_t* bits, int64_t length, int64_t cols, NmAttrs a) {
  const auto fixed = [&]<int kM>() {
    if (!a.along_rows) return on_isa<RankAlong<T, kM>>(x, bits, length / kM, a.n);
    for (int64_t at = 0; at < length; at += kM * cols)
      on_isa<RankDown<T, kM>>(x + at, bits + at / 8, cols, a.n);
  };
  const bool bytes = !a.along_rows || cols % 8 == 0;  // what is written begins on a byte
  if (bytes && a.m == 4) return fixed.template operator()<4>();
  if (bytes && a.m == 8) return fixed.template operator()<8>();
  if (!a.along_rows) on_isa<RankAny<T, true>>(x, flags, length / a.m, cols, a.n, a.m);
  for (int64_t at = 0; a.along_rows && at < length; at += a.m * cols)
    on_isa<RankAny<T, false>>(x + at, flags + at, cols, cols, a.n, a.m);
  on_isa<PackFlags>(static_cast<const uint8_t*>(flags), bits, length);
}

template <class T>
void check_nm(View<const T, 3> x, NmAttrs a) {
  require(a.m >= 1 && a.m <= kMaxGroup, "m must be in [1, 64], got " + std::to_string(a.m));
  require(a.n >= 1 && a.n <= a.m, "n must be in [1, m], got " + std::to_string(a.n));
  require(x.shape[a.along_rows ? 1 : 2] % a.m == 0, "m must divide the axis of x");
}

// mask[item] has n ones in every m consecutive elements: the largest |x|, lowest index first among
// equals, NaN last. Bits are those of the item's elements in memory order.
template <class T>
void nm_mask(const Parallel& par, View<const T, 3> x, View<uint8_t, 2> mask, NmAttrs a) {
  const int64_t cols = x.shape[2], length = x.item_size();
  check_nm(x, a);
  if (x.size() == 0) return;
  // A unit holds whole groups and starts on a byte of the mask.
  const int64_t group = a.along_rows ? a.m * cols : a.m;
  const int64_t step = std::lcm<int64_t>(group, 8);
  const int64_t unit = std::min(length, std::max(step, int64_t{8192} / step * step));
  const int64_t units = (length + unit - 1) / unit;
  par(x.shape[0] * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    const auto flags = std::make_unique_for_overwrite<uint8_t[]>(unit);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t first = u % units * unit, n = std::min(unit, length - first);
      nm_bits(x.item(u / units) + first, flags.get(), mask.item(u / units) + first / 8, n, cols, a);
    }
  });
}

// Where a bit of the mask is 1 the element's bits, else zero, at most kPruneUnit elements.
inline constexpr int64_t kPruneUnit = 4096;
template <class T>
struct PruneStretch {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  BITLAW_LEAF static void run(const T* x, const uint8_t* mask, T* y, int64_t n) {
    // Byte l of the product keeps bit l only: eight flags, zero or not, at once.
    uint8_t flags[kPruneUnit + 7];
    for (int64_t b = 0; b < bytes_of_bits(n); ++b) {
      const uint64_t eight = (mask[b] * 0x0101010101010101ull) & 0x8040201008040201ull;
      std::memcpy(flags + 8 * b, &eight, 8);
    }
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) {
      const Bits bits = std::bit_cast<Bits>(x[i]);
      y[i] = std::bit_cast<T>(static_cast<Bits>(flags[i] ? bits : Bits{0}));
    }
  }
};

// y = x where the mask's bit is 1, else 0.
template <class T>
void prune(const Parallel& par, View<const T, 2> x, View<const uint8_t, 2> mask, View<T, 2> y) {
  const int64_t n = x.shape[1], unit = std::min<int64_t>(n, kPruneUnit);
  if (x.size() == 0) return;
  const int64_t units = (n + unit - 1) / unit;
  par(x.shape[0] * units, items_per_chunk(unit), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t item = u / units, first = u % units * unit;
      on_isa<PruneStretch<T>>(x.item(item) + first, mask.item(item) + first / 8,
                              y.item(item) + first, std::min(unit, n - first));
    }
  });
}

}  // namespace bitlaw
