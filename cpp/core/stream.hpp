// Packing a stream: a fixed number of open rows, of which the fullest makes way.
#pragma once
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "core/isa.hpp"
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

// The least room that is `length` at least, or the largest number there is.
struct LeastRoom {
  BITLAW_LEAF static void run(const int32_t* room, int64_t bins, int32_t length, int32_t* least) {
    int32_t found = std::numeric_limits<int32_t>::max();
    for (int64_t b = 0; b < bins; ++b) {
      const int32_t fits = room[b] >= length ? room[b] : std::numeric_limits<int32_t>::max();
      found = fits < found ? fits : found;
    }
    *least = found;
  }
};

// Each sequence into the open row with least room that has room, else into an empty bin, else into
// the bin of the fullest row, which is closed; a row without room is closed at once. `bin_room`,
// `bin_segments` and `bin_row` (-1 for none) go from state to state; closed rows are numbered in
// `closed`, -1 after the last.
inline void fit_stream(const Parallel&, View<const int64_t, 1> lengths,
                       View<const int64_t, 2> state, View<int64_t, 1> row, View<int64_t, 1> start,
                       View<int64_t, 1> closed, View<int64_t, 2> next, StreamAttrs a) {
  const int64_t bins = state.shape[1];
  require(bins >= 1 && state.shape[0] == 3, "state must be [3, bins]");
  require(a.capacity >= 1 && a.capacity < std::numeric_limits<int32_t>::max() && a.align >= 1,
          "capacity and align out of range");
  std::vector<int32_t> room(bins);
  int64_t *segments = next.item(1), *number = next.item(2);
  std::copy_n(state.item(1), 2 * bins, segments);
  for (int64_t b = 0; b < bins; ++b) {
    require(state.data[b] >= 0 && state.data[b] <= a.capacity, "a bin's room is out of range");
    room[b] = static_cast<int32_t>(state.data[b]);
  }
  int64_t rows = a.rows, done = 0;
  const auto close = [&](int64_t b) {
    closed.data[done++] = number[b];
    room[b] = static_cast<int32_t>(a.capacity);
    segments[b] = 0;
    number[b] = -1;
  };
  for (int64_t i = 0; i < lengths.shape[0]; ++i) {
    const int64_t length = lengths.data[i];
    if (length < 1 || length > a.capacity)
      throw std::invalid_argument("lengths must be in [1, " + std::to_string(a.capacity) +
                                  "], got " + std::to_string(length) + " at " + std::to_string(i));
    int32_t least;
    on_isa<LeastRoom>(static_cast<const int32_t*>(room.data()), bins, static_cast<int32_t>(length),
                      &least);
    int64_t b;
    if (least <= a.capacity) {
      b = std::find(room.begin(), room.end(), least) - room.begin();
    } else {
      b = std::min_element(room.begin(), room.end()) - room.begin();
      close(b);
    }
    if (number[b] < 0) number[b] = rows++;
    row.data[i] = number[b];
    start.data[i] = a.capacity - room[b];
    const int64_t taken = (length + a.align - 1) / a.align * a.align;
    room[b] = static_cast<int32_t>(std::max<int64_t>(room[b] - taken, 0));
    if (++segments[b] == a.max_segments || !room[b]) close(b);
  }
  std::fill(closed.data + done, closed.data + closed.shape[0], -1);
  std::copy(room.begin(), room.end(), next.data);
}

}  // namespace bitlaw
