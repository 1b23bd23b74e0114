// The k largest magnitudes, exactly: histograms of bit patterns, never a sort.
//
// A key is the magnitude's bits plus one, and 0 for NaN, so NaN goes first and infinity stays. A
// small sample says in which narrow range of keys the k-th lies. The first read counts what is
// above the range and bins what is inside; the second writes the mask of what is above the k-th's
// bin and collects the few in that bin, which are then ranked by key and index. Where the sample
// misled or the bin is crowded, the range is counted again, over all keys or over that bin: a read
// more each. Memory does not grow with n, and the answer never depends on the sample.
#pragma once
#include <algorithm>
#include <cmath>
#include <thread>
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

inline constexpr int32_t kZeroKey = 1;
inline constexpr int32_t kKeys = kInfinityBits + 2;  // keys are 0 to kInfinityBits + 1
inline constexpr int kBinBits = 12;                  // tables that stay in the first-level cache
inline constexpr int64_t kBins = int64_t{1} << kBinBits;
// A bin of more is counted again rather than collected.
inline constexpr int64_t kCollected = 1 << 16;
// Up to here a copy of the keys is smaller than a histogram.
inline constexpr int64_t kCopied = 16 * 1024;
// From here a larger sample costs less than the elements that a wider range holds.
inline constexpr int64_t kWideSample = 1 << 24;

// Keys lo + (b << shift) + 0 .. (1 << shift) - 1 belong to bin b of kBins.
struct Range {
  int32_t lo;
  int shift;

  BITLAW_LEAF uint32_t bin(int32_t key) const { return static_cast<uint32_t>(key - lo) >> shift; }
  int32_t last_of(int64_t bin) const {
    return static_cast<int32_t>(std::min<int64_t>(kKeys, lo + ((bin + 1) << shift)) - 1);
  }
  // The range of one bin, in finer bins.
  Range inside(int64_t bin) const {
    return {lo + static_cast<int32_t>(bin << shift), std::max(0, shift - kBinBits)};
  }
};
inline constexpr Range kAllKeys{0, 31 - kBinBits};

// Packs n <= kCompared flags into whole words, spare bits 0; returns how many are set.
BITLAW_LEAF int64_t packed_count(const uint8_t* flags, int64_t n, uint64_t* bits) {
  for (int64_t w = n / 64; w < (n + 63) / 64; ++w) bits[w] = 0;
  pack_flags(flags, reinterpret_cast<uint8_t*>(bits), n);
  int64_t count = 0;
  for (int64_t w = 0; w < (n + 63) / 64; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

// Key of |x| times a positive scale.
template <class T>
BITLAW_LEAF int32_t scaled_key(T x, float scale) {
  return selection_key(to_float(x) * scale);
}

// body(i) for every bit i that is set among the first n.
template <class Body>
BITLAW_LEAF void each_bit(const uint64_t* bits, int64_t n, const Body& body) {
  for (int64_t w = 0; w < (n + 63) / 64; ++w)
    for (uint64_t set = bits[w]; set; set &= set - 1) body(64 * w + __builtin_ctzll(set));
}

// At most this many keys are compared at a time; the loops below vectorise, unless conditions join.
inline constexpr int64_t kCompared = 512;
inline constexpr int64_t kComparedWords = kCompared / 64;

// bits[i] = key > last, for n <= kCompared; returns how many.
template <class T>
BITLAW_LEAF int64_t bits_beyond(const T* x, int64_t n, float scale, int32_t last, uint64_t* bits) {
  uint8_t flags[kCompared];
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i) flags[i] = scaled_key(x[i], scale) > last;
  return packed_count(flags, n, bits);
}

// bits[i] = first <= key <= last, for n <= kCompared; returns how many.
template <class T>
BITLAW_LEAF int64_t bits_within(const T* x, int64_t n, float scale, int32_t first, int32_t last,
                                uint64_t* bits) {
  uint8_t flags[kCompared];
  const auto width = static_cast<uint32_t>(last - first);
  BITLAW_LOOP
  for (int64_t i = 0; i < n; ++i)
    flags[i] = static_cast<uint32_t>(scaled_key(x[i], scale) - first) <= width;
  return packed_count(flags, n, bits);
}

// Adds to *above the keys beyond the range, to bins those inside.
template <class T>
struct CountRange {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, Range range, int32_t last,
                              int64_t* above, int32_t* bins) {
    uint64_t bits[kComparedWords];
    // Pruned weights are many, and all in one bin, as NaN would be: those are not visited.
    const int32_t first = range.lo > kZeroKey ? range.lo : kZeroKey + 1;
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      *above += bits_beyond(x + i, m, scale, last, bits);
      for (int32_t key = range.lo; key < first && key <= last; ++key)
        bins[range.bin(key)] += static_cast<int32_t>(bits_within(x + i, m, scale, key, key, bits));
      if (first > last || !bits_within(x + i, m, scale, first, last, bits)) continue;
      // Few are inside a narrow range: visit the set bits.
      each_bit(bits, m, [&](int64_t j) { ++bins[range.bin(scaled_key(x[i + j], scale))]; });
    }
  }
};

// beyond[i] = key > last; within[i] = first <= key <= last, in whole words; adds those to *found.
template <class T>
struct MarkRange {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, int32_t first, int32_t last,
                              uint8_t* beyond, uint64_t* within, int64_t* found) {
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      bits_beyond(x + i, m, scale, last, bits);
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
      *found += bits_within(x + i, m, scale, first, last, within + i / 64);
    }
  }
};

// bits[i] = key > last
template <class T>
struct MarkBeyond {
  BITLAW_LEAF static void run(const T* x, int64_t n, float scale, int32_t last, uint8_t* beyond) {
    for (int64_t i = 0; i < n; i += kCompared) {
      const int64_t m = n - i < kCompared ? n - i : kCompared;
      uint64_t bits[kComparedWords];
      bits_beyond(x + i, m, scale, last, bits);
      std::memcpy(beyond + i / 8, bits, bytes_of_bits(m));
    }
  }
};

struct Histogram {
  int64_t above = 0;
  std::vector<int32_t> bins = std::vector<int32_t>(kBins);

  // The largest bin such that it and all above hold at least `keep` keys, or -1; `keep` becomes
  // what is to be taken from that bin.
  int64_t find(int64_t& keep) const {
    if (above >= keep) return -1;
    keep -= above;
    for (int64_t b = kBins - 1; b >= 0; --b) {
      if (bins[b] >= keep) return b;
      keep -= bins[b];
    }
    return -1;
  }
};

template <class T>
Histogram histogram(const Parallel& par, const T* x, int64_t n, float scale, Range range) {
  Histogram total;
  std::mutex mutex;
  const int64_t stretches = n <= kSerial ? 1 : std::max<int64_t>(4, par.threads());
  par(n, (n + stretches - 1) / stretches, [&](int64_t begin, int64_t end) {
    Histogram part;
    on_isa<CountRange<T>>(x + begin, end - begin, scale, range, range.last_of(kBins - 1),
                          &part.above, part.bins.data());
    std::lock_guard lock(mutex);  // sums of integers: any order gives the same total
    total.above += part.above;
    for (int64_t b = 0; b < kBins; ++b) total.bins[b] += part.bins[b];
  });
  return total;
}

// The range that holds the keep-th largest of n keys, five standard errors to either side, if a
// sample may be trusted.
template <class T>
Range sampled_range(const T* x, int64_t n, int64_t keep) {
  const int64_t sample = n < kWideSample ? 8192 : 32768;
  std::vector<int32_t> keys(sample);
  uint64_t at = 0;  // golden-ratio steps: no period of the data is met
  for (int32_t& key : keys) {
    key = selection_key(to_float(x[(static_cast<unsigned __int128>(at) * n) >> 64]));
    at += 0x9e3779b97f4a7c15ull;
  }
  const auto drawn = static_cast<double>(sample);
  const double share = static_cast<double>(keep) / static_cast<double>(n);
  const auto margin = static_cast<int64_t>(5 * std::sqrt(drawn * share * (1 - share))) + 8;
  const auto rank = static_cast<int64_t>(share * drawn);
  int64_t sorted = 0;  // the largest so many are before the others
  const auto key_at = [&](int64_t r, int32_t beyond) {
    if (r < 0 || r >= sample) return beyond;
    std::nth_element(keys.begin() + sorted, keys.begin() + r, keys.end(), std::greater<>());
    sorted = r;
    return keys[r];
  };
  const int32_t hi = key_at(rank - margin, kKeys - 1), middle = key_at(rank, 0);
  int32_t lo = key_at(rank + margin, 0);
  // Zeros are far below the rest: bins over both would be coarse. Half an octave is allowed for.
  if (lo == kZeroKey && middle > kZeroKey) {
    for (const int32_t key : keys) lo = key > kZeroKey && (lo == kZeroKey || key < lo) ? key : lo;
    lo = std::max(kZeroKey + 1, lo - (1 << 22));
  }
  const auto width = static_cast<int>(std::bit_width(static_cast<uint32_t>(hi - lo)));
  return {lo, std::max(0, width - kBinBits)};
}

// Where the smallest element taken lies: keys first to last, `count` elements, of which `take`.
struct Bin {
  int32_t first, last;
  int64_t count, take;
};

// By a copy of the keys, a bin of one key; `keep` >= 1.
template <class T>
Bin small_bin(const T* x, int64_t n, int64_t keep) {
  static thread_local std::vector<int32_t> keys;
  keys.resize(n);
  for (int64_t i = 0; i < n; ++i) keys[i] = selection_key(to_float(x[i]));
  std::nth_element(keys.begin(), keys.begin() + (keep - 1), keys.end(), std::greater<>());
  const int32_t key = keys[keep - 1];
  const auto equal = [&](int64_t begin, int64_t end) {
    return std::count(keys.begin() + begin, keys.begin() + end, key);
  };
  return {key, key, equal(0, n), equal(0, keep)};
}

// Keys of narrow types are 2^this apart, or more: bins need not be finer.
template <class T>
inline constexpr int kKeySpacing = 0;
template <>
inline constexpr int kKeySpacing<bfloat16> = 16;
template <>
inline constexpr int kKeySpacing<float16> = 13;

// By histograms, until a bin of more than one key holds at most `crowd`; `keep` >= 1.
template <class T>
Bin histogram_bin(const Parallel& par, const T* x, int64_t n, int64_t keep, int64_t crowd) {
  Range range = sampled_range(x, n, keep);
  Histogram h = histogram(par, x, n, 1.0f, range);
  int64_t left = keep, bin = h.find(left);
  if (bin < 0) {  // not in the sample's range
    range = kAllKeys;
    h = histogram(par, x, n, 1.0f, range);
    bin = h.find(left = keep);
  }
  while (range.shift > kKeySpacing<T> && h.bins[bin] > crowd) {
    range = range.inside(bin);
    h = histogram(par, x, n, 1.0f, range);
    bin = h.find(left = keep);
  }
  return {range.lo + static_cast<int32_t>(bin << range.shift), range.last_of(bin), h.bins[bin],
          left};
}

// leaf(first element, how many, bytes of the mask) for stretches of x, handed out in order.
inline constexpr int64_t kMarked = 8192;  // a multiple of 64: threads write different bytes
template <class T, class Leaf>
void mark(const Parallel& par, const T* x, int64_t n, uint8_t* mask, const Leaf& leaf) {
  par((n + kMarked - 1) / kMarked, kSerial / kMarked, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u)
      leaf(x + u * kMarked, std::min(kMarked, n - u * kMarked), mask + u * (kMarked / 8));
  });
}

// Marks keys beyond `last`.
template <class T>
void mark_beyond(const Parallel& par, const T* x, int64_t n, float scale, int32_t last,
                 uint8_t* bits) {
  mark(par, x, n, bits, [&](const T* part, int64_t m, uint8_t* out) {
    on_isa<MarkBeyond<T>>(part, m, scale, last, out);
  });
}

// Marks what is beyond the bin, and of the bin the `take` largest, lowest index first among equals.
template <class T>
void mark_collecting(const Parallel& par, const T* x, int64_t n, const Bin& bin, uint8_t* bits) {
  struct Found {
    int32_t key;
    int64_t index;
    bool operator<(const Found& o) const { return key != o.key ? key > o.key : index < o.index; }
  };
  std::vector<Found> all;
  std::mutex mutex;
  mark(par, x, n, bits, [&](const T* part, int64_t m, uint8_t* out) {
    uint64_t within[kMarked / 64];
    int64_t found = 0;
    on_isa<MarkRange<T>>(part, m, 1.0f, bin.first, bin.last, out, within, &found);
    if (!found) return;
    std::lock_guard lock(mutex);  // the order they are found in is lost below
    each_bit(within, m,
             [&](int64_t i) { all.push_back({selection_key(to_float(part[i])), part - x + i}); });
  });
  std::nth_element(all.begin(), all.begin() + (bin.take - 1), all.end());
  for (int64_t i = 0; i < bin.take; ++i)
    bits[all[i].index / 8] |= static_cast<uint8_t>(1u << (all[i].index % 8));
}

// Marks keys beyond `last`, and the first `ties` of keys first to last. Stretches are compared side
// by side and take their ties in turn: the one whose turn it is has begun, so waiting ends.
template <class T>
void mark_first(const Parallel& par, const T* x, int64_t n, float scale, int32_t first,
                int32_t last, int64_t ties, uint8_t* bits) {
  std::atomic<int64_t> turn{0};
  mark(par, x, n, bits, [&](const T* part, int64_t m, uint8_t* out) {
    uint64_t within[kMarked / 64];
    int64_t found = 0;
    on_isa<MarkRange<T>>(part, m, scale, first, last, out, within, &found);
    const int64_t me = (part - x) / kMarked;
    while (turn.load(std::memory_order_acquire) != me) std::this_thread::yield();
    int64_t mine = std::min(ties, found);
    ties -= mine;
    turn.store(me + 1, std::memory_order_release);
    if (mine == 0) return;
    each_bit(within, m, [&](int64_t i) {
      if (mine > 0) --mine, out[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    });
  });
}

template <class T>
void top_k_mask_item(const Parallel& par, const T* x, int64_t n, int64_t keep, uint8_t* bits) {
  if (keep <= 0) {
    std::fill_n(bits, bytes_of_bits(n), uint8_t{0});
    return;
  }
  const Bin bin = n <= kCopied ? small_bin(x, n, keep) : histogram_bin(par, x, n, keep, kCollected);
  if (bin.take == bin.count)
    mark_beyond(par, x, n, 1.0f, bin.first - 1, bits);
  else if (bin.count <= kCollected)
    mark_collecting(par, x, n, bin, bits);
  else  // one crowded key
    mark_first(par, x, n, 1.0f, bin.first, bin.last, bin.take, bits);
}

inline void require_counts(View<const int32_t, 1> keep, int64_t n) {
  for (int64_t i = 0; i < keep.shape[0]; ++i)
    require(keep.data[i] >= 0 && keep.data[i] <= n,
            "keep must be in [0, " + std::to_string(n) + "], got " + std::to_string(keep.data[i]));
}

// body(parallel, item): large items one by one on all threads, small ones side by side.
template <class Body>
void over_items(const Parallel& par, int64_t items, int64_t n, const Body& body) {
  if (n > kSerial) {
    for (int64_t i = 0; i < items; ++i) body(par, i);
    return;
  }
  par(items, items_per_chunk(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(Parallel(), i);
  });
}

// mask[item] has exactly keep[item] ones: the largest |x|, lowest index first among equals.
template <class T>
void top_k_mask(const Parallel& par, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask) {
  const int64_t n = x.shape[1];
  require_counts(keep, n);
  over_items(par, x.shape[0], n, [&](const Parallel& threads, int64_t i) {
    top_k_mask_item(threads, x.item(i), n, keep.data[i], mask.item(i));
  });
}

// The key of the keep-th largest |x| of each item, and how many with that key are taken; for keep
// 0 a key beyond all.
template <class T>
void select_threshold(const Parallel& par, View<const T, 2> x, View<const int32_t, 1> keep,
                      View<int32_t, 1> key, View<int32_t, 1> take) {
  const int64_t n = x.shape[1];
  require_counts(keep, n);
  over_items(par, x.shape[0], n, [&](const Parallel& threads, int64_t i) {
    Bin bin{kKeys, kKeys, 0, 0};
    if (keep.data[i] > 0)
      bin = n <= kCopied ? small_bin(x.item(i), n, keep.data[i])
                         : histogram_bin(threads, x.item(i), n, keep.data[i], 0);
    key.data[i] = bin.first;
    take.data[i] = static_cast<int32_t>(bin.take);
  });
}

}  // namespace bitlaw
