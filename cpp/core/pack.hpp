// Placing sequences in rows, from their lengths alone.
#pragma once
#include <bit>
#include <numeric>
#include <tuple>
#include <vector>

#include "core/parallel.hpp"

namespace bitlaw {

struct PackAttrs {
  int64_t capacity;
  static constexpr auto fields() { return std::tuple{Field{"capacity", &PackAttrs::capacity}}; }
};

// A maximum tree over the room left in each row: finds the first row with enough room in O(log n).
class FirstFit {
 public:
  FirstFit(int64_t rows, int64_t capacity)
      : leaves_(
            static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(rows, 1))))),
        room_(2 * leaves_, capacity) {}

  // Takes `length` from the first row that has it; returns the row and the room before.
  std::pair<int64_t, int64_t> take(int64_t length) {
    int64_t node = 1;
    while (node < leaves_) node = 2 * node + (room_[2 * node] < length);
    const int64_t before = room_[node];
    room_[node] -= length;
    const int64_t row = node - leaves_;
    while (node /= 2) room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
    return {row, before};
  }

 private:
  int64_t leaves_;
  std::vector<int64_t> room_;
};

// First-fit decreasing: longest first (equal lengths in their given order), each into the first row
// with room. row[i] and start[i] say where sequence i lies.
inline void first_fit_decreasing(const Parallel&, View<const int64_t, 1> lengths,
                                 View<int64_t, 1> row, View<int64_t, 1> start, PackAttrs a) {
  const int64_t n = lengths.shape[0], capacity = a.capacity;
  for (int64_t i = 0; i < n; ++i)
    require(lengths.data[i] >= 1 && lengths.data[i] <= capacity,
            "lengths must be in [1, " + std::to_string(capacity) + "], got " +
                std::to_string(lengths.data[i]) + " at " + std::to_string(i));
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return lengths.data[i] > lengths.data[j]; });
  FirstFit rows(n, capacity);
  for (int64_t i : order) {
    const auto [r, before] = rows.take(lengths.data[i]);
    row.data[i] = r;
    start.data[i] = capacity - before;
  }
}

}  // namespace bitlaw
