// A stable counting sort. A warp takes a tile of consecutive elements, 32 at a time in their order,
// and counts them by bin; running sums over the tiles give each tile its first places; the warps
// then hand them out. Matching lanes rank each other, so there are no atomics. By gate, tokens are
// first sorted by their keys, eight bits at a time, by the same sort.
//
// Bytes per assignment: 8 for the experts, read twice, 4 for slots, 8 for sources; by gate 4 for
// the gate and about 80 per token.
#include <cub/block/block_scan.cuh>

#include "cuda/dispatch.hpp"
#include "cuda/launch.cuh"

namespace bitlaw::cuda {
namespace {

inline constexpr int kWarps = kThreads / 32;
inline constexpr int kSharedBins = 512;  // of a warp; more are counted in global memory
inline constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

// How the elements of an item fall into tiles. Tiles depend on the sizes alone, and there are at
// most a few thousand; counts need no more memory than the elements.
struct Tiling {
  int64_t items, n, bins, tile, tiles;

  Tiling(int64_t items, int64_t n, int64_t bins)
      : items(items),
        n(n),
        bins(bins),
        tile(std::max<int64_t>({1024, (bins + 31) / 32 * 32, (n / 2048 + 31) / 32 * 32})),
        tiles((n + tile - 1) / tile) {}
  int64_t words() const { return (tiles + 2) * bins; }  // per item: counts, firsts, totals
};

// The assignments in the order of their priority: choice by choice if `tokens` is not zero, tokens
// in the given order if there is one.
struct Assignments {
  const int32_t *expert, *order;
  int64_t n, tokens, k;
  int32_t experts;

  BITLAW_LEAF int32_t index(int64_t item, int64_t m) const {
    if (tokens == 0) return static_cast<int32_t>(m);
    const int64_t choice = m / tokens, t = m - choice * tokens;
    const int64_t token = order ? order[item * tokens + t] : t;
    return static_cast<int32_t>(token * k + choice);
  }
  BITLAW_LEAF int32_t bin(int64_t item, int32_t index) const {
    const int32_t e = expert[item * n + index];
    return e < experts ? e : -1;
  }
};

// Tokens in an order, binned by a digit of their keys.
struct Digits {
  const uint32_t* key;
  const int32_t* order;  // null: by number
  int64_t n;
  int shift;

  BITLAW_LEAF int32_t index(int64_t item, int64_t m) const {
    return order ? order[item * n + m] : static_cast<int32_t>(m);
  }
  BITLAW_LEAF int32_t bin(int64_t item, int32_t index) const {
    return static_cast<int32_t>(key[item * n + index] >> shift & (kDigits - 1));
  }
};

// Where an element goes: the slots of a plan (room for each bin) or of a sort (room < 0).
struct Slots {
  int32_t *slot, *source;
  const uint32_t* first;  // of each bin; null where bins have room
  int64_t n, slots, bins, room;

  BITLAW_LEAF void operator()(int64_t item, int32_t index, int32_t bin, uint32_t nth) const {
    const bool fits = bin >= 0 && (room < 0 || nth < room);
    const int64_t at = fits ? (first ? first[item * bins + bin] : bin * room) + nth : -1;
    slot[item * n + index] = static_cast<int32_t>(at);
    if (fits) source[item * slots + at] = index;
  }
};
struct Order {
  int32_t* next;
  const uint32_t* first;
  int64_t n, bins;

  BITLAW_LEAF void operator()(int64_t item, int32_t index, int32_t bin, uint32_t nth) const {
    next[item * n + first[item * bins + bin] + nth] = index;
  }
};

// body(item, index, bin, the lanes with the same bin, counter) for the elements of every tile;
// `counters` of a tile are read before, or else zero, and written after where they were zero.
template <class Sequence, class Body>
__device__ void over_tiles(const Sequence& s, const Tiling& t, uint32_t* counts, bool zero,
                           const Body& body) {
  __shared__ uint32_t shared[kWarps][kSharedBins];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool small = t.bins <= kSharedBins;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp; unit < t.items * t.tiles;
       unit += stride) {
    const int64_t item = unit / t.tiles, from = (unit - item * t.tiles) * t.tile;
    const int64_t to = t.n - from < t.tile ? t.n : from + t.tile;
    uint32_t* const of_tile = counts + unit * t.bins;
    uint32_t* const counter = small ? shared[warp] : of_tile;
    for (int64_t b = lane; b < t.bins; b += 32)
      if (small || zero) counter[b] = zero ? 0 : of_tile[b];
    __syncwarp();
    for (int64_t first = from; first < to; first += 32) {
      const bool here = first + lane < to;
      const int32_t index = here ? s.index(item, first + lane) : 0;
      const int32_t bin = here ? s.bin(item, index) : -2;
      const unsigned same = __match_any_sync(0xffffffffu, bin);
      const uint32_t before = bin >= 0 ? counter[bin] : 0;
      __syncwarp();
      if (bin >= 0 && lane == __ffs(same) - 1)
        counter[bin] = before + static_cast<uint32_t>(__popc(same));
      __syncwarp();
      if (here)
        body(item, index, bin, before + static_cast<uint32_t>(__popc(same & ((1u << lane) - 1))));
    }
    if (small && zero)
      for (int64_t b = lane; b < t.bins; b += 32) of_tile[b] = counter[b];
    __syncwarp();
  }
}

template <class Sequence>
__global__ void __launch_bounds__(kThreads) count_bins(Sequence s, Tiling t, uint32_t* counts) {
  over_tiles(s, t, counts, true, [](int64_t, int32_t, int32_t, uint32_t) {});
}

template <class Sequence, class Sink>
__global__ void __launch_bounds__(kThreads, 2)
    hand_out(Sequence s, Tiling t, uint32_t* counts, Sink sink) {
  over_tiles(s, t, counts, false, sink);
}

// Counts of the tiles, in order, to first places within each bin, and the bin's total.
__global__ void __launch_bounds__(kThreads)
    scan_tiles(Tiling t, uint32_t* counts, uint32_t* totals, int32_t* count) {
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  for (int64_t i = blockIdx.x; i < t.items * t.bins; i += gridDim.x) {
    const int64_t item = i / t.bins, bin = i - item * t.bins;
    uint32_t total = 0;
    for (int64_t first = 0; first < t.tiles; first += kThreads) {
      const int64_t tile = first + threadIdx.x;
      uint32_t* const at = counts + (item * t.tiles + tile) * t.bins + bin;
      uint32_t before, sum;
      Scan(storage).ExclusiveSum(tile < t.tiles ? *at : 0u, before, sum);
      if (tile < t.tiles) *at = total + before;
      total += sum;
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      totals[i] = total;
      if (count) count[i] = static_cast<int32_t>(total);
    }
  }
}

// The first place of each bin, where bins lie one after the other.
__global__ void __launch_bounds__(kThreads)
    scan_bins(Tiling t, const uint32_t* totals, uint32_t* firsts) {
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.x; item < t.items; item += gridDim.x) {
    uint32_t total = 0;
    for (int64_t first = 0; first < t.bins; first += kThreads) {
      const int64_t bin = first + threadIdx.x;
      uint32_t before, sum;
      Scan(storage).ExclusiveSum(bin < t.bins ? totals[item * t.bins + bin] : 0u, before, sum);
      if (bin < t.bins) firsts[item * t.bins + bin] = total + before;
      total += sum;
      __syncthreads();
    }
  }
}

unsigned blocks_of(int64_t n) {
  return static_cast<unsigned>(std::min(std::max<int64_t>(n, 1), kMaxBlocks));
}

// The arrays of one sort in the workspace.
struct Space {
  uint32_t *counts, *firsts, *totals;

  Space(const Tiling& t, uint32_t* words)
      : counts(words),
        firsts(words + t.items * t.tiles * t.bins),
        totals(firsts + t.items * t.bins) {}
};

template <class Sequence, class Sink>
void counting_sort(Stream stream, const Sequence& s, const Tiling& t, const Space& space,
                   int32_t* count, const Sink& sink) {
  const unsigned tiles = blocks_of((t.items * t.tiles + kWarps - 1) / kWarps);
  launch(stream, tiles, &count_bins<Sequence>, s, t, space.counts);
  launch(stream, blocks_of(t.items * t.bins), &scan_tiles, t, space.counts, space.totals, count);
  if (sink.first) launch(stream, blocks_of(t.items), &scan_bins, t, space.totals, space.firsts);
  launch(stream, tiles, &hand_out<Sequence, Sink>, s, t, space.counts, sink);
}

// Tokens by their keys, ascending, equal ones by number: an array in the workspace.
const int32_t* sorted_tokens(Stream stream, View<const float, 3> gate, uint32_t* words) {
  const int64_t items = gate.shape[0], tokens = gate.shape[1], k = gate.shape[2];
  const Tiling t(items, tokens, kDigits);
  auto* const key = words;
  auto* now = reinterpret_cast<int32_t*>(words + items * tokens);
  auto* next = now + items * tokens;
  const Space space(t, words + 3 * items * tokens);
  const float* gates = gate.data;
  for_each(stream, items * tokens, "dispatch_plan",
           [=] __device__(int64_t i) { key[i] = token_key(gates + i * k, k); });
  for (int shift = 0; shift < 32; shift += kDigitBits) {
    const Digits digits{key, shift ? now : nullptr, tokens, shift};
    counting_sort(stream, digits, t, space, nullptr, Order{next, space.firsts, tokens, kDigits});
    std::swap(now, next);
  }
  return now;
}

void assign(Stream stream, View<const int32_t, 3> expert, const int32_t* order, int64_t tokens,
            int64_t experts, int64_t room, View<int32_t, 3> slot, View<int32_t, 2> source,
            View<int32_t, 2> count, uint32_t* words, const char* what) {
  const int64_t n = expert.item_size(), slots = source.shape[1];
  const Tiling t(expert.shape[0], n, experts);
  const Space space(t, words);
  int32_t* const sources = source.data;
  for_each(stream, source.size(), what, [=] __device__(int64_t i) { sources[i] = -1; });
  if (t.items == 0) return;
  const Assignments all{expert.data, order,           n,
                        tokens,      expert.shape[2], static_cast<int32_t>(experts)};
  counting_sort(
      stream, all, t, space, count.data,
      Slots{slot.data, sources, room < 0 ? space.firsts : nullptr, n, slots, experts, room});
  check_launch(what);
}

}  // namespace

int64_t dispatch_workspace(int64_t tokens, int64_t k, int64_t experts, bool by_gate) {
  const int64_t words = Tiling(1, tokens * k, experts).words();
  return 4 * (by_gate ? words + 3 * tokens + Tiling(1, tokens, kDigits).words() : words);
}

void dispatch_plan(Stream stream, View<const int32_t, 3> expert, View<const float, 3> gate,
                   View<int32_t, 3> slot, View<int32_t, 2> source, View<int32_t, 2> count,
                   View<uint8_t, 2> workspace, DispatchAttrs a) {
  const int64_t tokens = expert.shape[1], k = expert.shape[2];
  require(a.experts >= 1 && a.capacity >= 1 && k >= 1, "experts, capacity and k must be positive");
  require(a.experts * a.capacity + tokens * k < (int64_t{1} << 31), "slots must be below 2^31");
  const bool by_gate = a.priority == "gate";
  auto* words = reinterpret_cast<uint32_t*>(workspace.data);
  const int32_t* order = nullptr;
  if (by_gate && gate.size()) order = sorted_tokens(stream, gate, words);
  if (by_gate) words += gate.shape[0] * (3 * tokens + Tiling(1, tokens, kDigits).words());
  assign(stream, expert, order, by_gate || a.priority == "choice" ? tokens : 0, a.experts,
         a.capacity, slot, source, count, words, "dispatch_plan");
}

void dispatch_sort(Stream stream, View<const int32_t, 3> expert, View<int32_t, 3> slot,
                   View<int32_t, 2> source, View<int32_t, 2> count, View<uint8_t, 2> workspace,
                   SortAttrs a) {
  require(a.experts >= 1 && expert.shape[2] >= 1, "experts and k must be positive");
  require(expert.item_size() < (int64_t{1} << 31), "assignments must be below 2^31");
  assign(stream, expert, nullptr, 0, a.experts, -1, slot, source, count,
         reinterpret_cast<uint32_t*>(workspace.data), "dispatch_sort");
}

}  // namespace bitlaw::cuda
