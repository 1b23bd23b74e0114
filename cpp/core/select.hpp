// The k largest magnitudes, exactly: a histogram select on bit patterns, never a sort.
//
// A key is the magnitude's bits plus one, and 0 for NaN, so NaN goes first and infinity stays. The
// first pass counts the upper 15 bits, the second the lower 16 of the keys at the upper threshold,
// the third writes the mask: three reads, and memory that does not grow with n.
#pragma once
#include <algorithm>
#include <tuple>
#include <vector>

#include "core/bits.hpp"
#include "core/minifloat.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

// Ordered like |x|, NaN lowest; at most 0x7f800001, so 31 bits.
BITLAW_LEAF int32_t selection_key(float x) {
  const int32_t m = magnitude_bits(x);
  return m > kInfinityBits ? 0 : m + 1;
}

inline constexpr int kLowBits = 16;
inline constexpr int64_t kUpperBins = int64_t{1} << 15, kLowerBins = int64_t{1} << 16;
inline constexpr int kTables = 4;
// Up to here a copy of the keys is smaller than a histogram.
inline constexpr int64_t kCopied = 16 * 1024;

template <class T>
struct CountUpper {
  // Bins are found by a vectorised loop first. Neighbours often fall into one bin: four tables keep
  // their increments independent.
  BITLAW_LEAF static void run(const T* x, int64_t n, uint32_t* bins) {
    constexpr int64_t kGroup = 1024;
    uint16_t bin[kGroup];
    for (int64_t i = 0; i < n; i += kGroup) {
      const int64_t m = n - i < kGroup ? n - i : kGroup;
      for (int64_t j = 0; j < m; ++j)
        bin[j] = static_cast<uint16_t>(selection_key(to_float(x[i + j])) >> kLowBits);
      const int64_t whole = m / kTables * kTables;
      for (int64_t j = 0; j < whole; j += kTables)
        for (int t = 0; t < kTables; ++t) ++bins[t * kUpperBins + bin[j + t]];
      for (int64_t j = whole; j < m; ++j) ++bins[bin[j]];
    }
  }
};
template <class T>
struct CountLower {
  // Few keys match, so whole groups of 64 are passed over by one vectorised test.
  BITLAW_LEAF static void run(const T* x, int64_t n, int32_t upper, uint32_t* bins) {
    constexpr int64_t kGroup = 64;
    for (int64_t i = 0; i < n; i += kGroup) {
      const int64_t m = n - i < kGroup ? n - i : kGroup;
      int32_t any = 0;
      for (int64_t j = 0; j < m; ++j) any |= (selection_key(to_float(x[i + j])) >> kLowBits) == upper;
      if (!any) continue;
      for (int64_t j = 0; j < m; ++j) {
        const int32_t key = selection_key(to_float(x[i + j]));
        if ((key >> kLowBits) == upper) ++bins[key & ((1 << kLowBits) - 1)];
      }
    }
  }
};

// flags[i] = key >= threshold
template <class T>
struct MarkFrom {
  BITLAW_LEAF static void run(const T* x, int64_t n, int32_t threshold, uint8_t* flags,
                              uint8_t* bits) {
    BITLAW_LOOP
    for (int64_t i = 0; i < n; ++i) flags[i] = selection_key(to_float(x[i])) >= threshold;
    pack_flags(flags, bits, n);
  }
};

// The same, but of the keys equal to the threshold only the first *ties, which is counted down.
template <class T>
struct MarkWithTies {
  BITLAW_LEAF static void run(const T* x, int64_t n, int32_t threshold, int64_t* ties,
                              uint8_t* flags, uint8_t* bits) {
    int64_t equal = 0;
    for (int64_t i = 0; i < n; ++i) equal += selection_key(to_float(x[i])) == threshold;
    if (*ties == 0) return MarkFrom<T>::run(x, n, threshold + 1, flags, bits);
    if (equal <= *ties) {
      *ties -= equal;
      return MarkFrom<T>::run(x, n, threshold, flags, bits);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int32_t key = selection_key(to_float(x[i]));
      const bool tie = (key == threshold) & (*ties > 0);
      *ties -= tie;
      flags[i] = (key > threshold) | tie;
    }
    pack_flags(flags, bits, n);
  }
};

// The largest bin such that it and all above hold at least `keep` keys; `keep` becomes what is
// still to be taken from that bin.
inline int64_t threshold_bin(const uint32_t* bins, int64_t count, int64_t& keep) {
  int64_t b = count - 1;
  for (; b > 0 && static_cast<int64_t>(bins[b]) < keep; --b) keep -= bins[b];
  return b;
}

// Counts the keys of a few long stretches of x, each in tables of its own, into one table.
template <class Count>
std::vector<uint32_t> histogram(const Parallel& par, int64_t n, int64_t bins, int64_t tables,
                                const Count& count) {
  std::vector<uint32_t> total(bins);
  std::mutex mutex;
  par(n, (n + 3) / 4, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> part(tables * bins);
    count(begin, end, part.data());
    std::lock_guard lock(mutex);  // sums of integers: any order gives the same total
    for (int64_t t = 0; t < tables; ++t)
      for (int64_t b = 0; b < bins; ++b) total[b] += part[t * bins + b];
  });
  return total;
}

struct Threshold {
  int32_t key;    // of the smallest element taken
  int64_t take;   // how many elements with that key are taken
  bool all_ties;  // whether that is all of them
};

// By a copy of the keys; `keep` >= 1.
template <class T>
Threshold small_threshold(const T* x, int64_t n, int64_t keep) {
  static thread_local std::vector<int32_t> keys;
  keys.resize(n);
  for (int64_t i = 0; i < n; ++i) keys[i] = selection_key(to_float(x[i]));
  std::nth_element(keys.begin(), keys.begin() + (keep - 1), keys.end(), std::greater<>());
  const int32_t key = keys[keep - 1];
  const auto equal = [&](int64_t begin, int64_t end) {
    return std::count(keys.begin() + begin, keys.begin() + end, key);
  };
  return {key, equal(0, keep), equal(keep, n) == 0};
}

// By histograms; `keep` >= 1.
template <class T>
Threshold histogram_threshold(const Parallel& par, const T* x, int64_t n, int64_t keep) {
  const auto upper_bins =
      histogram(par, n, kUpperBins, kTables, [&](int64_t begin, int64_t end, uint32_t* bins) {
        on_isa<CountUpper<T>>(x + begin, end - begin, bins);
      });
  const auto upper = static_cast<int32_t>(threshold_bin(upper_bins.data(), kUpperBins, keep));
  // All bfloat16 keys of a bin are one key, but for NaN and zero in the first.
  if (std::is_same_v<T, bfloat16> && upper > 0)
    return {upper << kLowBits | 1, keep, static_cast<int64_t>(upper_bins[upper]) == keep};
  const auto lower_bins =
      histogram(par, n, kLowerBins, 1, [&](int64_t begin, int64_t end, uint32_t* bins) {
        on_isa<CountLower<T>>(x + begin, end - begin, upper, bins);
      });
  const int64_t lower = threshold_bin(lower_bins.data(), kLowerBins, keep);
  return {upper << kLowBits | static_cast<int32_t>(lower), keep, lower_bins[lower] == keep};
}

template <class T>
void top_k_mask_item(const Parallel& par, const T* x, int64_t n, int64_t keep, uint8_t* mask) {
  constexpr int64_t kUnit = 8192;  // a multiple of 8, so that threads write different bytes
  const auto mark = [&](const Parallel& threads, const auto& leaf) {
    threads((n + kUnit - 1) / kUnit, kSerial / kUnit, [&](int64_t begin, int64_t end) {
      uint8_t flags[kUnit];
      for (int64_t u = begin; u < end; ++u)
        leaf(x + u * kUnit, std::min(kUnit, n - u * kUnit), flags, mask + u * (kUnit / 8));
    });
  };
  if (keep <= 0) {
    std::fill_n(mask, bytes_of_bits(n), uint8_t{0});
    return;
  }
  Threshold t = n <= kCopied ? small_threshold(x, n, keep) : histogram_threshold(par, x, n, keep);
  if (t.all_ties) {
    mark(par, [&](const T* part, int64_t m, uint8_t* flags, uint8_t* bits) {
      on_isa<MarkFrom<T>>(part, m, t.key, flags, bits);
    });
  } else {  // the lowest indices are taken, so in order, on one thread
    mark(Parallel(), [&](const T* part, int64_t m, uint8_t* flags, uint8_t* bits) {
      on_isa<MarkWithTies<T>>(part, m, t.key, &t.take, flags, bits);
    });
  }
}

// mask[item] has exactly keep[item] ones: the largest |x|, lowest index first among equals.
template <class T>
void top_k_mask(const Parallel& par, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask) {
  const int64_t n = x.shape[1];
  for (int64_t i = 0; i < x.shape[0]; ++i)
    require(keep.data[i] >= 0 && keep.data[i] <= n,
            "keep must be in [0, " + std::to_string(n) + "], got " + std::to_string(keep.data[i]));
  if (n > kSerial) {
    for (int64_t i = 0; i < x.shape[0]; ++i)
      top_k_mask_item(par, x.item(i), n, keep.data[i], mask.item(i));
    return;
  }
  par(x.shape[0], items_per_chunk(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      top_k_mask_item(Parallel(), x.item(i), n, keep.data[i], mask.item(i));
  });
}

}  // namespace bitlaw
