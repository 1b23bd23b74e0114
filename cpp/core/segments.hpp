// Several arrays walked as one, and counts of their keys: what a selection over them reads.
#pragma once
#include <algorithm>
#include <mutex>
#include <span>
#include <vector>

#include "core/key.hpp"
#include "core/parallel.hpp"

namespace bitlaw {

// An array, what its magnitudes are multiplied by, and where its mask goes.
template <class T>
struct Segment {
  const T* x;
  int64_t n;
  float scale = 1.0f;
  uint8_t* bits = nullptr;
  int64_t first = 0;  // the number of its first slice, which Segments sets
};

// Elements that are handed out together: a multiple of 64, so that threads write different bytes.
inline constexpr int64_t kSlice = kSerial;

// Elements [begin, end) of a segment, at most kSlice; slices are numbered over all segments.
template <class T>
struct Slice {
  const Segment<T>& segment;
  int64_t number, begin, end;

  const T* x() const { return segment.x + begin; }
  int64_t size() const { return end - begin; }
  uint8_t* bits() const { return segment.bits + begin / 8; }
};

// Segments in their order, of memory that outlives this. Allocates nothing: items may be tiny.
template <class T>
class Segments {
 public:
  explicit Segments(std::span<Segment<T>> each) : each_(each) {
    for (Segment<T>& segment : each) {
      segment.first = slices_;
      slices_ += (segment.n + kSlice - 1) / kSlice;
      n_ += segment.n;
      plain_ = plain_ && segment.scale == 1.0f;
    }
  }
  int64_t n() const { return n_; }
  bool plain() const { return plain_; }  // nothing is scaled
  std::span<const Segment<T>> each() const { return each_; }

  Slice<T> slice(int64_t number) const {
    const Segment<T>& segment = each_[segment_of(number)];
    const int64_t begin = (number - segment.first) * kSlice;
    return {segment, number, begin, std::min(segment.n, begin + kSlice)};
  }
  int64_t segment_of(int64_t number) const {
    const auto before = [](int64_t n, const Segment<T>& segment) { return n < segment.first; };
    return std::upper_bound(each_.begin(), each_.end(), number, before) - each_.begin() - 1;
  }
  // body(slice) for all, handed out in order.
  template <class Body>
  void walk(const Parallel& par, const Body& body) const {
    par(slices_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) body(slice(s));
    });
  }

 private:
  std::span<const Segment<T>> each_;
  int64_t slices_ = 0, n_ = 0;
  bool plain_ = true;
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
Histogram histogram(const Parallel& par, const Segments<T>& segments, Range range) {
  std::vector<CountRange<T>> counts;
  for (const Segment<T>& segment : segments.each())
    counts.emplace_back(segment.scale, range, range.last_of(kBins - 1));
  std::vector<Histogram> parts;  // of threads, that none adds to now
  std::mutex mutex;
  const auto take = [&] {
    std::lock_guard lock(mutex);
    if (parts.empty()) return Histogram();
    Histogram part = std::move(parts.back());
    parts.pop_back();
    return part;
  };
  segments.walk(par, [&](const Slice<T>& s) {
    Histogram part = take();
    on_isa<CountRange<T>>(s.x(), s.size(), counts[segments.segment_of(s.number)], &part.above,
                          part.bins.data());
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

}  // namespace bitlaw
