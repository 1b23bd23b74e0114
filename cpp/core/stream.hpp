// Packing a stream: a fixed number of open rows, of which the fullest makes way.
#pragma once
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/parallel.hpp"

namespace bitlaw {

struct StreamAttrs {
  int64_t capacity, max_segments, align, rows;
  static constexpr auto fields() {
    return std::tuple{Field{"capacity", &StreamAttrs::capacity},
                      Field{"max_segments", &StreamAttrs::max_segments},
                      Field{"align", &StreamAttrs::align}, Field{"rows", &StreamAttrs::rows}};
  }
};

// Bins in the order of their room, the lowest first among equals.
class ByRoom {
 public:
  ByRoom(const int64_t* room, int64_t bins) {
    for (int64_t b = 0; b < bins; ++b) order_.push_back(key(room[b], b));
    std::sort(order_.begin(), order_.end());
  }

  // The place of the first with this room at least; bins where there is none.
  int64_t find(int64_t room) const {
    return std::lower_bound(order_.begin(), order_.end(), key(room, 0)) - order_.begin();
  }
  int64_t bin(int64_t place) const { return order_[place] & kBin; }
  int64_t room(int64_t place) const { return order_[place] >> 31; }

  // The bin's new place.
  int64_t set(int64_t place, int64_t room) {
    const int64_t changed = key(room, bin(place));
    const auto first = order_.begin(), at = first + place, last = order_.end();
    auto to = std::lower_bound(first, at, changed);
    if (to < at) {
      std::move_backward(to, at, at + 1);
    } else {
      to = std::lower_bound(at + 1, last, changed) - 1;
      std::move(at + 1, to + 1, at);
    }
    *to = changed;
    return to - first;
  }

 private:
  static constexpr int64_t kBin = (int64_t{1} << 31) - 1;
  static int64_t key(int64_t room, int64_t bin) { return room << 31 | bin; }
  std::vector<int64_t> order_;
};

// Each sequence into the open row with least room that has room, else into an empty bin, else into
// the bin of the fullest row, which is closed; a row without room is closed at once. `bin_room`,
// `bin_segments` and `bin_row` (-1 for none) go from state to state; closed rows are numbered in
// `closed`, -1 after the last.
inline void fit_stream(const Parallel&, View<const int64_t, 1> lengths,
                       View<const int64_t, 2> state, View<int64_t, 1> row, View<int64_t, 1> start,
                       View<int64_t, 1> closed, View<int64_t, 2> next, StreamAttrs a) {
  const int64_t bins = state.shape[1];
  require(bins >= 1 && bins < (int64_t{1} << 31) && state.shape[0] == 3, "state must be [3, bins]");
  require(a.capacity >= 1 && a.capacity < (int64_t{1} << 30) && a.align >= 1,
          "capacity and align out of range");
  int64_t *segments = next.item(1), *number = next.item(2);
  std::copy_n(state.item(1), 2 * bins, segments);
  for (int64_t b = 0; b < bins; ++b)
    require(state.data[b] >= 0 && state.data[b] <= a.capacity, "a bin's room is out of range");
  ByRoom order(state.data, bins);
  int64_t rows = a.rows, done = 0;
  const auto close = [&](int64_t place) {
    const int64_t b = order.bin(place);
    closed.data[done++] = std::exchange(number[b], -1);
    segments[b] = 0;
    return order.set(place, a.capacity);
  };
  for (int64_t i = 0; i < lengths.shape[0]; ++i) {
    const int64_t length = lengths.data[i];
    if (length < 1 || length > a.capacity)
      throw std::invalid_argument("lengths must be in [1, " + std::to_string(a.capacity) +
                                  "], got " + std::to_string(length) + " at " + std::to_string(i));
    int64_t place = order.find(length);
    if (place == bins) place = close(0);  // the fullest
    const int64_t b = order.bin(place), room = order.room(place);
    if (number[b] < 0) number[b] = rows++;
    row.data[i] = number[b];
    start.data[i] = a.capacity - room;
    const int64_t taken = (length + a.align - 1) / a.align * a.align;
    if (++segments[b] == a.max_segments || taken >= room)
      close(place);
    else
      order.set(place, room - taken);
  }
  std::fill(closed.data + done, closed.data + closed.shape[0], -1);
  for (int64_t place = 0; place < bins; ++place) next.data[order.bin(place)] = order.room(place);
}

}  // namespace bitlaw
