// The k largest magnitudes, exactly: histograms of bit patterns, never a sort.
//
// A key is the magnitude's bits plus one, and 0 for NaN, so NaN goes first and infinity stays. A
// small sample says in which narrow range of keys the k-th lies; the first pass counts what is
// above the range and bins what is inside, the second resolves one bin to single keys, the third
// writes the mask: three reads, and memory that does not grow with n. Where the sample misled, the
// first pass is made again over all keys, a fourth read: the answer never depends on the sample.
#pragma once
#include <algorithm>
#include <cmath>
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

inline constexpr int32_t kKeys = kInfinityBits + 2;  // keys are 0 to kInfinityBits + 1
inline constexpr int kBinBits = 16;
// Up to here a copy of the keys is smaller than a histogram.
inline constexpr int64_t kCopied = 16 * 1024;

// Keys lo + (b << shift) + 0 .. (1 << shift) - 1 belong to bin b of 2^kBinBits.
struct Range {
  int32_t lo;
  int shift;

  BITLAW_LEAF uint32_t bin(int32_t key) const { return static_cast<uint32_t>(key - lo) >> shift; }
};

// Adds to *above the keys beyond the range, to bins those inside.
template <class T>
struct CountRange {
  static constexpr int64_t kGroup = 64;

  BITLAW_LEAF static void run(const T* x, int64_t n, Range range, int64_t* above, uint32_t* bins) {
    constexpr uint32_t kBins = 1u << kBinBits;
    uint16_t bin[kGroup];
    uint8_t inside[kGroup], bits[kGroup / 8];
    int64_t i = 0, beyond = 0;
    for (; i + kGroup <= n; i += kGroup) {
      int32_t over = 0;
      for (int64_t j = 0; j < kGroup; ++j) {
        const int32_t key = selection_key(to_float(x[i + j]));
        const uint32_t b = range.bin(key);
        inside[j] = b < kBins;
        over += (key >= range.lo) & (b >= kBins);
        bin[j] = static_cast<uint16_t>(b);
      }
      beyond += over;
      // Few are inside a narrow range: visit the set bits.
      pack_flags(inside, bits, kGroup);
      uint64_t set;
      std::memcpy(&set, bits, 8);
      for (; set; set &= set - 1) ++bins[bin[__builtin_ctzll(set)]];
    }
    for (; i < n; ++i) {
      const int32_t key = selection_key(to_float(x[i]));
      const uint32_t b = range.bin(key);
      if (key >= range.lo && b >= kBins) ++beyond;
      if (b < kBins) ++bins[b];
    }
    *above += beyond;
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

struct Histogram {
  int64_t above = 0;
  std::vector<uint32_t> bins = std::vector<uint32_t>(size_t{1} << kBinBits);

  // The largest bin such that it and all above hold at least `keep` keys, or -1; `keep` becomes
  // what is to be taken from that bin.
  int64_t find(int64_t& keep) const {
    if (above >= keep) return -1;
    keep -= above;
    for (int64_t b = (int64_t{1} << kBinBits) - 1; b >= 0; --b) {
      if (static_cast<int64_t>(bins[b]) >= keep) return b;
      keep -= bins[b];
    }
    return -1;
  }
};

template <class T>
Histogram histogram(const Parallel& par, const T* x, int64_t n, Range range) {
  Histogram total;
  std::mutex mutex;
  const int64_t stretches = std::max<int64_t>(4, par.threads());
  par(n, (n + stretches - 1) / stretches, [&](int64_t begin, int64_t end) {
    Histogram part;
    on_isa<CountRange<T>>(x + begin, end - begin, range, &part.above, part.bins.data());
    std::lock_guard lock(mutex);  // sums of integers: any order gives the same total
    total.above += part.above;
    for (size_t b = 0; b < part.bins.size(); ++b) total.bins[b] += part.bins[b];
  });
  return total;
}

// The range that holds the keep-th largest of n keys, six standard errors to either side, if a
// sample may be trusted.
template <class T>
Range sampled_range(const T* x, int64_t n, int64_t keep) {
  constexpr int64_t kSample = 8192;
  std::vector<int32_t> keys(kSample);
  uint64_t at = 0;  // golden-ratio steps: no period of the data is met
  for (int32_t& key : keys) {
    key = selection_key(to_float(x[(static_cast<unsigned __int128>(at) * n) >> 64]));
    at += 0x9e3779b97f4a7c15ull;
  }
  const double share = static_cast<double>(keep) / static_cast<double>(n);
  const auto margin = static_cast<int64_t>(6 * std::sqrt(kSample * share * (1 - share))) + 8;
  const auto rank = static_cast<int64_t>(share * kSample);
  const auto key_at = [&](int64_t r, int32_t beyond) {
    if (r < 0 || r >= kSample) return beyond;
    std::nth_element(keys.begin(), keys.begin() + r, keys.end(), std::greater<>());
    return keys[r];
  };
  const int32_t lo = key_at(rank + margin, 0), hi = key_at(rank - margin, kKeys - 1);
  const auto width = static_cast<int>(std::bit_width(static_cast<uint32_t>(hi - lo)));
  return {lo, std::max(0, width - kBinBits)};
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
  Range range = sampled_range(x, n, keep);
  Histogram h = histogram(par, x, n, range);
  int64_t left = keep, bin = h.find(left);
  if (bin < 0) {  // not in the sample's range
    range = {0, 31 - kBinBits};
    h = histogram(par, x, n, range);
    bin = h.find(left = keep);
  }
  while (range.shift > 0) {
    range = {range.lo + static_cast<int32_t>(bin << range.shift),
             std::max(0, range.shift - kBinBits)};
    h = histogram(par, x, n, range);
    bin = h.find(left = keep);
  }
  return {range.lo + static_cast<int32_t>(bin), left, static_cast<int64_t>(h.bins[bin]) == left};
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
