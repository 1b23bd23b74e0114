// Which slot of which expert every token goes to: a stable counting sort, O(tokens k + experts).
//
// The assignments of an item, token x choice, are counted per chunk and expert; running sums over
// the chunks, in the order of priority, give every chunk its first free places; the chunks are then
// filled independently. Chunks depend on the shape alone, so nothing depends on the threads. By
// gate, every expert's assignments of each choice are sorted besides.
#pragma once
#include <array>
#include <bit>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/parallel.hpp"

namespace bitlaw {

struct DispatchAttrs {
  int64_t experts, capacity;
  std::string priority;  // token, choice or gate
  static constexpr auto fields() {
    return std::tuple{Field{"experts", &DispatchAttrs::experts},
                      Field{"capacity", &DispatchAttrs::capacity},
                      Field{"priority", &DispatchAttrs::priority}};
  }
};
struct SortAttrs {
  int64_t experts;
  static constexpr auto fields() { return std::tuple{Field{"experts", &SortAttrs::experts}}; }
};

// Ordered like the gate, largest first; both zeros equal, NaN last.
BITLAW_LEAF uint32_t gate_key(float gate) {
  const uint32_t bits = std::bit_cast<uint32_t>(gate + 0.0f);  // -0 + 0 is +0
  if (gate != gate) return ~uint32_t{0};
  return ~(bits >> 31 ? ~bits : bits | 0x80000000u);
}

// Of a token, by its largest gate; NaN anywhere is last.
BITLAW_LEAF uint32_t token_key(const float* gate, int64_t k) {
  uint32_t best = ~uint32_t{0}, worst = 0;
  for (int64_t j = 0; j < k; ++j) {
    const uint32_t key = gate_key(gate[j]);
    best = std::min(best, key), worst = std::max(worst, key);
  }
  return worst == ~uint32_t{0} ? worst : best;
}

// Sorts distinct numbers whose low 32 bits already ascend, 11 bits at a time where that pays.
inline void sort_high(std::vector<uint64_t>& now, std::vector<uint64_t>& next) {
  if (now.size() < 512) return std::sort(now.begin(), now.end());
  constexpr int kBits = 11, kPasses = 3;
  constexpr uint64_t kDigit = (1 << kBits) - 1;
  const auto digit = [](uint64_t x, int pass) { return x >> (32 + kBits * pass) & kDigit; };
  std::array<std::array<uint32_t, kDigit + 2>, kPasses> begin{};
  for (const uint64_t x : now)
    for (int pass = 0; pass < kPasses; ++pass) ++begin[pass][digit(x, pass) + 1];
  next.resize(now.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    if (begin[pass][digit(now[0], pass) + 1] == now.size()) continue;  // one digit for all
    std::partial_sum(begin[pass].begin(), begin[pass].end(), begin[pass].begin());
    for (const uint64_t x : now) next[begin[pass][digit(x, pass)]++] = x;
    now.swap(next);
  }
}

// The counting sort behind both ops. Expert e of an item has `room` slots (all that it needs where
// room is negative, packed one expert after the other); assignments come token by token or, with
// `by_choice`, all first choices before any second.
class CountingSort {
 public:
  CountingSort(const Parallel& par, View<const int32_t, 3> expert, int64_t experts, int64_t room,
               bool by_choice)
      : par_(par),
        expert_(expert),
        experts_(experts),
        room_(room),
        tokens_(expert.shape[1]),
        k_(expert.shape[2]),
        phases_(by_choice ? k_ : 1),
        chunk_(std::max<int64_t>(1, std::max(kSerial / 2, 16 * phases_ * experts) / k_)),
        chunks_((tokens_ + chunk_ - 1) / chunk_) {}

  void run(View<int32_t, 3> slot, View<int32_t, 2> source, View<int32_t, 2> count) {
    const int64_t items = expert_.shape[0], units = items * chunks_;
    places_.assign(units * phases_ * experts_, 0);
    par_(units, items_per_unit(), [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u)
        each(u, [&](int64_t i, int32_t e, int32_t* place) {
          if (e < -1 || e >= experts_) refuse(e, i / k_);
          if (e >= 0) ++place[e];
        });
    });
    par_(items, items_per_chunk(chunks_ * phases_ * experts_ + source.shape[1]),
         [&](int64_t begin, int64_t end) {
           for (int64_t item = begin; item < end; ++item)
             place(item, source.item(item), source.shape[1], count.item(item));
         });
    par_(units, items_per_unit(), [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) {
        const int64_t item = u / std::max<int64_t>(chunks_, 1);
        int32_t *slots = slot.item(item), *sources = source.item(item);
        each(u, [&](int64_t i, int32_t e, int32_t* place) {
          const int32_t nth = e < 0 ? 0 : place[e]++;
          const bool fits = e >= 0 && (room_ < 0 || nth < (e + 1) * room_);
          slots[i] = fits ? nth : -1;
          if (fits) sources[nth] = static_cast<int32_t>(i);
        });
      }
    });
  }

 private:
  [[noreturn, gnu::noinline]] void refuse(int32_t expert, int64_t token) const {
    throw std::invalid_argument("expert must be in [-1, " + std::to_string(experts_) + "), got " +
                                std::to_string(expert) + " at token " + std::to_string(token));
  }

  int64_t items_per_unit() const {
    return items_per_chunk(2 * k_ * std::min(chunk_, std::max<int64_t>(tokens_, 1)));
  }

  // body(assignment, expert, the chunk's places of its phase) in the chunk's order.
  template <class Body>
  void each(int64_t unit, const Body& body) {
    const int64_t item = unit / chunks_, first = unit % chunks_ * chunk_;
    const int64_t last = std::min(tokens_, first + chunk_);
    const int32_t* expert = expert_.item(item);
    int32_t* places = &places_[unit * phases_ * experts_];
    for (int64_t t = first; t < last; ++t)
      for (int64_t j = 0; j < k_; ++j)
        body(t * k_ + j, expert[t * k_ + j], places + (phases_ > 1 ? j * experts_ : 0));
  }

  // Counts of an item's chunks into first places; the slots that stay empty are -1.
  void place(int64_t item, int32_t* source, int64_t slots, int32_t* count) {
    const int64_t width = phases_ * experts_;
    int32_t* places = places_.data() + item * chunks_ * width;
    int64_t packed = 0;
    for (int64_t e = 0; e < experts_; ++e) {
      int64_t at = room_ < 0 ? packed : e * room_;
      const int64_t first = at;
      for (int64_t p = 0; p < phases_; ++p)
        for (int64_t c = 0; c < chunks_; ++c) {
          int32_t& place = places[c * width + p * experts_ + e];
          at += std::exchange(place, static_cast<int32_t>(at));
        }
      count[e] = static_cast<int32_t>(at - first);
      packed = at;
      if (room_ >= 0 && at < first + room_) std::fill(source + at, source + first + room_, -1);
    }
    if (room_ < 0) std::fill(source + packed, source + slots, -1);
  }

  const Parallel& par_;
  View<const int32_t, 3> expert_;
  const int64_t experts_, room_, tokens_, k_, phases_, chunk_, chunks_;
  std::vector<int32_t> places_;  // [items, chunks, phases, experts]
};

// The plan by gate: assignments sorted by expert and choice, then each such run by its tokens' keys
// while it lies in a cache.
inline void plan_by_gate(const Parallel& par, View<const int32_t, 3> expert,
                         View<const float, 3> gate, View<int32_t, 3> slot, View<int32_t, 2> source,
                         View<int32_t, 2> count, const DispatchAttrs& a) {
  const int64_t items = expert.shape[0], tokens = expert.shape[1], k = expert.shape[2];
  const auto keys = std::make_unique_for_overwrite<uint32_t[]>(items * tokens);
  par(items * tokens, items_per_chunk(k), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) keys[t] = token_key(gate.data + t * k, k);
  });
  const auto all = std::make_unique_for_overwrite<int32_t[]>(items * tokens * k);
  const View<int32_t, 2> sorted{all.get(), {items, tokens * k}};
  CountingSort(par, expert, a.experts, -1, true).run(slot, sorted, count);
  const int64_t size = 4 * tokens * k / a.experts + a.capacity;
  par(items * a.experts, items_per_chunk(size), [&](int64_t from, int64_t to) {
    std::vector<uint64_t> run, spare;
    for (int64_t u = from; u < to; ++u) {
      const int64_t item = u / a.experts, e = u % a.experts;
      const int32_t *counts = count.item(item), *of = sorted.item(item);
      const uint32_t* key = &keys[item * tokens];
      int32_t *slots = slot.item(item), *sources = source.item(item) + e * a.capacity;
      const int64_t first = std::accumulate(counts, counts + e, int64_t{0});
      const auto narrow = static_cast<uint32_t>(k);  // divides several times faster
      int64_t nth = 0;
      for (const int32_t *at = of + first, *last = at + counts[e]; at < last;) {
        const uint32_t j = *at % narrow;
        const int32_t* end =
            std::partition_point(at, last, [&](int32_t i) { return i % narrow <= j; });
        run.resize(end - at);
        for (uint64_t& one : run) {
          const auto i = static_cast<uint32_t>(*at++);
          one = uint64_t{key[i / narrow]} << 32 | i;
        }
        sort_high(run, spare);
        for (const uint64_t one : run) {
          const auto i = static_cast<uint32_t>(one);
          slots[i] = nth < a.capacity ? static_cast<int32_t>(e * a.capacity + nth) : -1;
          if (nth < a.capacity) sources[nth] = static_cast<int32_t>(i);
          ++nth;
        }
      }
      if (nth < a.capacity) std::fill(sources + nth, sources + a.capacity, -1);
    }
  });
}

// slot[item, t, j] is the place of token t's choice j among experts x capacity slots, or -1;
// source[item, slot] is t k + j, or -1; count[item, e] is what expert e was assigned.
inline void dispatch_plan(const Parallel& par, View<const int32_t, 3> expert,
                          View<const float, 3> gate, View<int32_t, 3> slot, View<int32_t, 2> source,
                          View<int32_t, 2> count, DispatchAttrs a) {
  const int64_t tokens = expert.shape[1], k = expert.shape[2];
  require(a.experts >= 1 && a.capacity >= 1 && k >= 1, "experts, capacity and k must be positive");
  require(a.experts * a.capacity + tokens * k < (int64_t{1} << 31), "slots must be below 2^31");
  if (a.priority == "gate") return plan_by_gate(par, expert, gate, slot, source, count, a);
  CountingSort(par, expert, a.experts, a.capacity, a.priority == "choice").run(slot, source, count);
}

// The same without a capacity: the assignments sorted by expert, stably; expert -1 has no slot.
inline void dispatch_sort(const Parallel& par, View<const int32_t, 3> expert, View<int32_t, 3> slot,
                          View<int32_t, 2> source, View<int32_t, 2> count, SortAttrs a) {
  require(a.experts >= 1 && expert.shape[2] >= 1, "experts and k must be positive");
  require(expert.item_size() < (int64_t{1} << 31), "assignments must be below 2^31");
  CountingSort(par, expert, a.experts, -1, false).run(slot, source, count);
}

}  // namespace bitlaw
