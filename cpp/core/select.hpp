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
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "core/segments.hpp"

namespace bitlaw {

// A bin of more is counted again rather than collected.
inline constexpr int64_t kCollected = 1 << 16;
// Up to here a copy of the keys is smaller than a histogram.
inline constexpr int64_t kCopied = 16 * 1024;
// From here a larger sample costs less than the elements that a wider range holds.
inline constexpr int64_t kWideSample = 1 << 24;

// The range that holds the keep-th largest of all keys, three standard errors to either side, if a
// sample may be trusted. No branch per element: those of a sort cost more than the reads.
template <class T>
Range sampled_range(const Segments<T>& segments, int64_t keep) {
  const int64_t n = segments.n(), wanted = n < kWideSample ? 8192 : 32768;
  std::vector<Segment<T>> parts;  // of the sample, each segment's share
  int64_t size = 0, before = 0;
  for (const Segment<T>& segment : segments.each()) {
    before += segment.n;
    const auto end = static_cast<int64_t>(static_cast<unsigned __int128>(wanted) * before / n);
    parts.push_back({nullptr, end - size, segment.scale});
    size = end;
  }
  std::vector<T> sample(size);
  T* one = sample.data();
  uint64_t at = 0;  // golden-ratio steps: no period of the data is met
  for (size_t p = 0; p < parts.size(); ++p) {
    const Segment<T>& from = segments.each()[p];
    parts[p].x = one;
    for (int64_t i = 0; i < parts[p].n; ++i, at += 0x9e3779b97f4a7c15ull)
      *one++ = from.x[(static_cast<unsigned __int128>(at) * from.n) >> 64];
  }
  const Segments<T> sampled(parts);
  const auto drawn = static_cast<double>(size);
  const double share = static_cast<double>(keep) / static_cast<double>(n);
  const auto margin = static_cast<int64_t>(3 * std::sqrt(drawn * share * (1 - share))) + 8;
  const auto rank = static_cast<int64_t>(share * drawn) + 1;
  // All keys, in which bins are coarse, then those of a few bins.
  Range range = kAllKeys;
  for (int pass = 0; pass < 2; ++pass) {
    const Histogram h = histogram(Parallel(), sampled, range);
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
Bin small_bin(const Segments<T>& segments, int64_t keep) {
  static thread_local std::vector<int32_t> keys;
  keys.resize(segments.n());
  auto at = keys.begin();
  for (const Segment<T>& segment : segments.each())
    for (int64_t i = 0; i < segment.n; ++i) *at++ = scaled_key(segment.x[i], segment.scale);
  std::nth_element(keys.begin(), keys.begin() + (keep - 1), keys.end(), std::greater<>());
  const int32_t key = keys[keep - 1];
  const auto equal = [&](auto end) { return std::count(keys.begin(), end, key); };
  return {key, key, equal(keys.end()), equal(keys.begin() + keep)};
}

// Keys of narrow types are kZeroKey and multiples of 2^this beyond it: bins need not be finer.
template <class T>
inline constexpr int kKeySpacing = 0;
template <>
inline constexpr int kKeySpacing<bfloat16> = 16;
template <>
inline constexpr int kKeySpacing<float16> = 13;

// The least key that is not less than this, where they are so far apart.
inline int32_t next_key(int32_t key, int spacing) {
  const int32_t between = (1 << spacing) - 1;
  return key <= kZeroKey ? key : ((key - kZeroKey + between) & ~between) + kZeroKey;
}

// By histograms, until a bin of more than one key holds at most `crowd`; `keep` >= 1.
template <class T>
Bin histogram_bin(const Parallel& par, const Segments<T>& segments, int64_t keep, int64_t crowd) {
  Range range = sampled_range(segments, keep);
  Histogram h = histogram(par, segments, range);
  int64_t left = keep, bin = h.find(left);
  if (bin < 0) {  // not in the sample's range
    range = kAllKeys;
    h = histogram(par, segments, range);
    bin = h.find(left = keep);
  }
  const int spacing = segments.plain() ? kKeySpacing<T> : 0;
  // Of one key: fine enough, and without NaN beside zero.
  const auto is_one = [&] {
    return range.shift == 0 || (range.shift <= spacing && range.first_of(bin) > 0);
  };
  while (h.bins[bin] > crowd && !is_one()) {
    range = range.inside(bin, bin);
    h = histogram(par, segments, range);
    bin = h.find(left = keep);
  }
  return {next_key(range.first_of(bin), spacing), range.last_of(bin), h.bins[bin], left};
}

// Marks keys beyond `last`.
template <class T>
void mark_beyond(const Parallel& par, const Segments<T>& segments, int32_t last) {
  segments.walk(par, [&](const Slice<T>& s) {
    on_isa<MarkBeyond<T>>(s.x(), s.size(), Span<T>(s.segment.scale, last, last), s.bits());
  });
}

// body(slice, those within the bin, how many), after marking what is beyond it.
template <class T, class Body>
void mark_and_find(const Parallel& par, const Segments<T>& segments, const Bin& bin,
                   const Body& body) {
  segments.walk(par, [&](const Slice<T>& s) {
    uint64_t within[kSlice / 64];
    int64_t found = 0;
    on_isa<MarkSpan<T>>(s.x(), s.size(), Span<T>(s.segment.scale, bin.first, bin.last), s.bits(),
                        within, &found);
    body(s, within, found);
  });
}
inline void set_bit(uint8_t* bits, int64_t i) { bits[i / 8] |= static_cast<uint8_t>(1u << i % 8); }

// Marks what is beyond the bin, and of the bin the `take` largest, lowest index first among equals.
template <class T>
void mark_collecting(const Parallel& par, const Segments<T>& segments, const Bin& bin) {
  struct Found {
    int32_t key;
    int64_t slice, index;
    bool operator<(const Found& o) const {
      return std::tuple(-key, slice, index) < std::tuple(-o.key, o.slice, o.index);
    }
  };
  std::vector<Found> all;
  std::mutex mutex;
  mark_and_find(par, segments, bin, [&](const Slice<T>& s, const uint64_t* within, int64_t found) {
    if (!found) return;
    std::lock_guard lock(mutex);  // the order they are found in is lost below
    each_bit(within, s.size(), [&](int64_t i) {
      all.push_back({scaled_key(s.x()[i], s.segment.scale), s.number, i});
    });
  });
  std::nth_element(all.begin(), all.begin() + (bin.take - 1), all.end());
  for (int64_t i = 0; i < bin.take; ++i) set_bit(segments.slice(all[i].slice).bits(), all[i].index);
}

// Marks what is beyond the bin, and the first `take` in it. Slices are compared side by side and
// take theirs in turn: the one whose turn it is has begun, so waiting ends.
template <class T>
void mark_first(const Parallel& par, const Segments<T>& segments, const Bin& bin) {
  std::atomic<int64_t> turn{0};
  int64_t left = bin.take;
  mark_and_find(par, segments, bin, [&](const Slice<T>& s, const uint64_t* within, int64_t found) {
    while (turn.load(std::memory_order_acquire) != s.number) std::this_thread::yield();
    int64_t mine = std::min(left, found);
    left -= mine;
    turn.store(s.number + 1, std::memory_order_release);
    if (mine == 0) return;
    each_bit(within, s.size(), [&](int64_t i) {
      if (mine > 0) --mine, set_bit(s.bits(), i);
    });
  });
}

template <class T>
Bin bin_of_last(const Parallel& par, const Segments<T>& segments, int64_t keep, int64_t crowd) {
  if (keep <= 0) return {kKeys, kKeys, 0, 0};
  if (segments.n() <= kCopied) return small_bin(segments, keep);
  return histogram_bin(par, segments, keep, crowd);
}

// Marks the `keep` largest of all segments.
template <class T>
void mark_largest(const Parallel& par, const Segments<T>& segments, int64_t keep) {
  if (keep <= 0) {
    for (const Segment<T>& s : segments.each()) std::fill_n(s.bits, bytes_of_bits(s.n), uint8_t{0});
    return;
  }
  const Bin bin = bin_of_last(par, segments, keep, kCollected);
  if (bin.take == bin.count)
    mark_beyond(par, segments, bin.first - 1);
  else if (bin.count <= kCollected)
    mark_collecting(par, segments, bin);
  else  // one crowded key
    mark_first(par, segments, bin);
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
    Segment<T> one[]{{x.item(i), n, 1.0f, mask.item(i)}};
    mark_largest(threads, Segments<T>(one), keep.data[i]);
  });
}

// The same of several arrays together, the first first among equals: of item i the keep[i] largest
// |x| scale[i][array].
template <class T>
void joint_top_k_mask(const Parallel& par, View<const int32_t, 1> keep, View<const float, 2> scale,
                      Views<const T, 2> arrays, Views<uint8_t, 2> masks) {
  int64_t n = 0;
  for (const auto& x : arrays.each) n += x.shape[1];
  require_counts(keep, n);
  require(scale.shape[1] == static_cast<int64_t>(arrays.each.size()),
          "scale must have a column for each array");
  for (int64_t i = 0; i < scale.size(); ++i)
    require(scale.data[i] > 0 && std::isfinite(scale.data[i]),
            "scale must be positive and finite, got " + std::to_string(scale.data[i]));
  over_items(par, keep.shape[0], n, [&](const Parallel& threads, int64_t i) {
    std::vector<Segment<T>> segments;
    for (size_t p = 0; p < arrays.each.size(); ++p)
      segments.push_back({arrays.each[p].item(i), arrays.each[p].shape[1], scale.item(i)[p],
                          masks.each[p].item(i)});
    mark_largest(threads, Segments<T>(segments), keep.data[i]);
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
    Segment<T> one[]{{x.item(i), n}};
    const Bin bin = bin_of_last(threads, Segments<T>(one), keep.data[i], 0);
    key.data[i] = bin.first;
    take.data[i] = static_cast<int32_t>(bin.take);
  });
}

}  // namespace bitlaw
