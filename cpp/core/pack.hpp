// Placing sequences in rows, from their lengths alone.
#pragma once
#include <numeric>
#include <string>
#include <tuple>

#include "core/parallel.hpp"
#include "core/rooms.hpp"

namespace bitlaw {

struct FitAttrs {
  std::string algorithm;  // next_fit, first_fit, best_fit, the two with _decreasing, or wrap
  int64_t max_segments;   // of a row; 0 for no limit
  int64_t align;          // every sequence starts at a multiple of this
  static constexpr auto fields() {
    return std::tuple{Field{"algorithm", &FitAttrs::algorithm},
                      Field{"max_segments", &FitAttrs::max_segments},
                      Field{"align", &FitAttrs::align}};
  }
};

// Rooms are 32-bit, and best fit keeps a list for every room there can be.
inline constexpr int64_t kMostRoom = int64_t{1} << 30, kMostBestRoom = int64_t{1} << 24;

// Longest first, in the given order among equals; of several features, the largest share of its
// capacity counts.
inline std::vector<int32_t> by_length(View<const int64_t, 2> lengths, const int64_t* capacity) {
  const int64_t n = lengths.shape[0], features = lengths.shape[1];
  std::vector<int32_t> order(n);
  if (features == 1 && capacity[0] <= 4 * n + (1 << 16)) {  // a counting sort
    std::vector<int32_t> begin(capacity[0] + 2);
    for (int64_t i = 0; i < n; ++i) ++begin[capacity[0] - lengths.data[i] + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    for (int64_t i = 0; i < n; ++i)
      order[begin[capacity[0] - lengths.data[i]]++] = static_cast<int32_t>(i);
    return order;
  }
  std::vector<double> share(n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t f = 0; f < features; ++f)
      share[i] = std::max(share[i], static_cast<double>(lengths.data[i * features + f]) /
                                        static_cast<double>(capacity[f]));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t i, int32_t j) { return share[i] > share[j]; });
  return order;
}

// The rows as they fill: what is common to all algorithms.
class Fit {
 public:
  Fit(View<const int64_t, 2> lengths, View<const int64_t, 1> capacity, View<int64_t, 1> row,
      View<int64_t, 2> start, const FitAttrs& a)
      : lengths_(lengths),
        capacity_(capacity.data),
        row_(row.data),
        start_(start.data),
        a_(a),
        features_(capacity.shape[0]) {}

  const int64_t* length(int64_t i) const { return lengths_.data + i * features_; }

  void next_fit(int64_t i) {
    if (!rows_ || !fits(rows_ - 1, i)) open();
    place(i, rows_ - 1);
  }

  // Equal lengths that follow each other: no row before the last one's has room.
  void first_fit(int64_t i) {
    const bool equal = last_ >= 0 && std::equal(length(i), length(i) + features_, length(last_));
    int64_t row = equal ? row_[last_] : 0;
    for (int64_t f = 0, agreed = 0; agreed < features_; f = (f + 1) % features_) {
      const int64_t found = first_[f].find(row, static_cast<int32_t>(length(i)[f]));
      agreed = found == row ? agreed + 1 : 1;
      row = found;
    }
    if (row == rows_) {
      open();
      for (int64_t f = 0; f < features_; ++f) first_[f].open(static_cast<int32_t>(capacity_[f]));
    }
    place(i, row);
    for (int64_t f = 0; f < features_; ++f) first_[f].set(row, room_[row * features_ + f]);
    last_ = i;
  }

  void best_fit(int64_t i, BestRoom& best) {
    int64_t row = best.take(static_cast<int32_t>(length(i)[0]),
                            [&](int64_t r) { return features_ == 1 || fits(r, i); });
    if (row < 0) row = open();
    place(i, row);
    if (room_[row * features_] > 0) best.put(row, room_[row * features_]);
  }

  void track_first() { first_.resize(features_); }

 private:
  int64_t open() {
    for (int64_t f = 0; f < features_; ++f) room_.push_back(static_cast<int32_t>(capacity_[f]));
    if (a_.max_segments) segments_.push_back(0);
    return rows_++;
  }
  bool fits(int64_t row, int64_t i) const {
    for (int64_t f = 0; f < features_; ++f)
      if (room_[row * features_ + f] < length(i)[f]) return false;
    return true;
  }
  void place(int64_t i, int64_t row) {
    row_[i] = row;
    const bool last = a_.max_segments && ++segments_[row] == a_.max_segments;
    for (int64_t f = 0; f < features_; ++f) {
      int32_t& room = room_[row * features_ + f];
      start_[i * features_ + f] = capacity_[f] - room;
      const int64_t taken = (length(i)[f] + a_.align - 1) / a_.align * a_.align;
      room = last ? -1 : static_cast<int32_t>(std::max<int64_t>(room - taken, -1));
    }
  }

  View<const int64_t, 2> lengths_;
  const int64_t* capacity_;
  int64_t *row_, *start_;
  const FitAttrs& a_;
  const int64_t features_;
  int64_t rows_ = 0, last_ = -1;
  std::vector<int32_t> room_, segments_;  // [rows, features], [rows]
  std::vector<FirstRoom> first_;          // one per feature
};

// One stream of sequences, cut where rows end. row and start are of a sequence's first token.
inline void wrap(View<const int64_t, 2> lengths, int64_t capacity, int64_t* row, int64_t* start,
                 const FitAttrs& a) {
  int64_t at = 0, r = 0, segments = 0;
  for (int64_t i = 0; i < lengths.shape[0]; ++i) {
    if (at >= capacity || (a.max_segments && segments == a.max_segments)) {
      ++r;
      at = segments = 0;
    }
    row[i] = r;
    start[i] = at;
    const int64_t end = at + lengths.data[i], over = (end - 1) / capacity;
    segments = over ? 1 : segments + 1;
    r += over;
    at = (end - over * capacity + a.align - 1) / a.align * a.align;
  }
}

// row[i] and start[i, feature] say where sequence i lies.
inline void fit_rows(const Parallel&, View<const int64_t, 2> lengths,
                     View<const int64_t, 1> capacity, View<int64_t, 1> row, View<int64_t, 2> start,
                     FitAttrs a) {
  const int64_t n = lengths.shape[0], features = lengths.shape[1];
  const std::string_view name = a.algorithm;
  require(features == capacity.shape[0] && features >= 1, "a capacity for every feature");
  require(a.align >= 1 && a.max_segments >= 0, "align must be positive, max_segments not negative");
  for (int64_t f = 0; f < features; ++f)
    require(capacity.data[f] >= 1 && capacity.data[f] < kMostRoom, "capacity out of range");
  const bool wraps = name == "wrap", best = name.starts_with("best_fit");
  for (int64_t i = 0; i < n; ++i)
    for (int64_t f = 0; f < features; ++f) {
      const int64_t length = lengths.data[i * features + f];
      if (length < 1 || (length > capacity.data[f] && !wraps))
        throw std::invalid_argument("lengths must be in [1, " + std::to_string(capacity.data[f]) +
                                    "], got " + std::to_string(length) + " at " +
                                    std::to_string(i));
    }
  if (wraps) return wrap(lengths, capacity.data[0], row.data, start.data, a);

  std::vector<int32_t> order;
  if (name.ends_with("_decreasing")) order = by_length(lengths, capacity.data);
  const auto each = [&](const auto& put) {
    for (int64_t m = 0; m < n; ++m) put(order.empty() ? m : order[m]);
  };
  Fit fit(lengths, capacity, row, start, a);
  if (best) {
    require(capacity.data[0] <= kMostBestRoom, "best fit takes capacities up to 2^24");
    BestRoom rooms(capacity.data[0]);
    each([&](int64_t i) { fit.best_fit(i, rooms); });
  } else if (name == "next_fit") {
    each([&](int64_t i) { fit.next_fit(i); });
  } else {
    require(name.starts_with("first_fit"), "unknown algorithm " + a.algorithm);
    fit.track_first();
    each([&](int64_t i) { fit.first_fit(i); });
  }
}

}  // namespace bitlaw
