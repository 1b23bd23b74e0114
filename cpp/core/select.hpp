// The k largest magnitudes, exactly: histograms of bit patterns, never a sort.
//
// A small sample says in which narrow range of keys (core/key.hpp) the k-th lies. The first read
// counts what is above the range and bins what is inside; the second writes the mask of what is
// above the k-th's bin and collects the few in that bin, which are then ranked by key and index.
// Where the sample misled or the bin is crowded, the range is counted again, over all keys or over
// that bin: a read more each. Memory does not grow with n, and the answer never depends on the
// sample.
#pragma once
#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>
#include <vector>

#include "core/key.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

// A bin of more is counted again rather than collected.
inline constexpr int64_t kCollected = 1 << 16;
// Up to here a copy of the keys is smaller than a histogram.
inline constexpr int64_t kCopied = 16 * 1024;
// From here a larger sample costs less than the elements that a wider range holds.
inline constexpr int64_t kWideSample = 1 << 24;

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
  const CountRange<T> count(scale, range, range.last_of(kBins - 1));
  std::vector<Histogram> parts;  // of threads, that none adds to now
  std::mutex mutex;
  const auto take = [&] {
    std::lock_guard lock(mutex);
    if (parts.empty()) return Histogram();
    Histogram part = std::move(parts.back());
    parts.pop_back();
    return part;
  };
  par(n, kSerial, [&](int64_t begin, int64_t end) {
    Histogram part = take();
    on_isa<CountRange<T>>(x + begin, end - begin, count, &part.above, part.bins.data());
    std::lock_guard lock(mutex);
    parts.push_back(std::move(part));
  });
  if (parts.empty()) return {};
  Histogram total = std::move(parts.back());  // sums of integers: any order gives the same
  parts.pop_back();
  for (const Histogram& part : parts) {
    total.above += part.above;
    for (int64_t b = 0; b < kBins; ++b) total.bins[b] += part.bins[b];
  }
  return total;
}

// The range that holds the keep-th largest of n keys, three standard errors to either side, if a
// sample may be trusted. No branch per element: those of a sort cost more than the reads.
template <class T>
Range sampled_range(const T* x, int64_t n, int64_t keep) {
  const int64_t size = n < kWideSample ? 8192 : 32768;
  std::vector<T> sample(size);
  uint64_t at = 0;  // golden-ratio steps: no period of the data is met
  for (T& one : sample) {
    one = x[(static_cast<unsigned __int128>(at) * n) >> 64];
    at += 0x9e3779b97f4a7c15ull;
  }
  const auto drawn = static_cast<double>(size);
  const double share = static_cast<double>(keep) / static_cast<double>(n);
  const auto margin = static_cast<int64_t>(3 * std::sqrt(drawn * share * (1 - share))) + 8;
  const auto rank = static_cast<int64_t>(share * drawn) + 1;
  // All keys, in which bins are coarse, then those of a few bins.
  Range range = kAllKeys;
  for (int pass = 0; pass < 2; ++pass) {
    const Histogram h = histogram(Parallel(), sample.data(), size, 1.0f, range);
    const auto bin_of = [&](int64_t r, int64_t beyond) {
      return r < 1 || r > size ? beyond : std::max<int64_t>(0, h.find(r));
    };
    const int64_t hi = bin_of(rank - margin, kBins - 1), middle = bin_of(rank, 0);
    int64_t lo = bin_of(rank + margin, 0);
    // Zeros are far below the rest: bins over both would be coarse. Half an octave is allowed for.
    if (pass == 0 && lo == 0 && middle > 0 && rank + margin <= size) {
      while (h.bins[++lo] == 0) {
      }
      lo = std::max<int64_t>(1, lo - 8);
    }
    range = range.inside(lo, hi);
  }
  return range;
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

// Keys of narrow types are kZeroKey and multiples of 2^this beyond it: bins need not be finer.
template <class T>
inline constexpr int kKeySpacing = 0;
template <>
inline constexpr int kKeySpacing<bfloat16> = 16;
template <>
inline constexpr int kKeySpacing<float16> = 13;

// The least key that a T may have and that is not less than this.
template <class T>
int32_t next_key(int32_t key) {
  constexpr int32_t kBetween = (1 << kKeySpacing<T>)-1;
  return key <= kZeroKey ? key : ((key - kZeroKey + kBetween) & ~kBetween) + kZeroKey;
}

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
  // Of one key: fine enough, and without NaN beside zero.
  const auto is_one = [&] {
    return range.shift == 0 || (range.shift <= kKeySpacing<T> && range.first_of(bin) > 0);
  };
  while (h.bins[bin] > crowd && !is_one()) {
    range = range.inside(bin, bin);
    h = histogram(par, x, n, 1.0f, range);
    bin = h.find(left = keep);
  }
  return {next_key<T>(range.first_of(bin)), range.last_of(bin), h.bins[bin], left};
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
  const Span<T> span(scale, last, last);
  mark(par, x, n, bits,
       [&](const T* part, int64_t m, uint8_t* out) { on_isa<MarkBeyond<T>>(part, m, span, out); });
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
  const Span<T> span(1.0f, bin.first, bin.last);
  mark(par, x, n, bits, [&](const T* part, int64_t m, uint8_t* out) {
    uint64_t within[kMarked / 64];
    int64_t found = 0;
    on_isa<MarkSpan<T>>(part, m, span, out, within, &found);
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
  const Span<T> span(scale, first, last);
  mark(par, x, n, bits, [&](const T* part, int64_t m, uint8_t* out) {
    uint64_t within[kMarked / 64];
    int64_t found = 0;
    on_isa<MarkSpan<T>>(part, m, span, out, within, &found);
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
