// Statistics of groups, in one read: b bytes per element of b bytes. Maxima are of integers, so
// atomics may come in any order; sums run in the order of core/sums.hpp, by sixteen threads
// for consecutive elements and one for columns.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

// Consecutive groups, in parts of `part` elements: `team` threads each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    flat_extremes(const T* x, int64_t groups, int64_t n, int64_t part, int team, bool whole,
                  bool range, int32_t* high, int32_t* low) {
  const int64_t parts = (n + part - 1) / part, per_block = kThreads / team;
  const int rank = static_cast<int>(threadIdx.x) % team;
  for (int64_t first = blockIdx.x * per_block; first < groups * parts;
       first += gridDim.x * per_block) {
    const int64_t unit = first + threadIdx.x / team;
    const bool here = unit < groups * parts;
    const int64_t group = here ? unit / parts : 0, from = (unit - group * parts) * part;
    const int64_t to = !here ? from : n - from < part ? n : from + part;
    Extreme e{0, 0};
    for (int64_t at = from + kChunk * rank; at < to; at += kChunk * team) {
      float v[kChunk];
      load(x + group * n + at, static_cast<int>(to - at < kChunk ? to - at : kChunk), whole, v);
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; ++j) e.see(v[j], range);
    }
    e.high = team_max(e.high, team);
    if (range) e.low = team_max(e.low, team);
    if (!here || rank != 0) continue;
    atomicMax(&high[group], e.high);
    if (range) atomicMax(&low[group], e.low);
  }
}

inline constexpr int64_t kPanel = 64;  // rows of a thread

// Columns: a thread goes down eight of them, a panel of rows.
template <class T>
void column_extremes(Stream stream, const Groups<T>& g, bool range, int32_t* high, int32_t* low) {
  const bool whole = aligned(g.x, g.cols);
  const int64_t panels = (g.rows + kPanel - 1) / kPanel;
  const int64_t chunks = g.items * panels * g.chunks_of_row();
  for_each(stream, chunks, "group_statistic", [=] __device__(int64_t i) {
    const Chunk c = chunk_at(g, i);  // of a panel
    const int64_t item = c.line / panels, from = (c.line - item * panels) * kPanel;
    const int64_t to = g.rows - from < kPanel ? g.rows : from + kPanel;
    Extreme of[kChunk] = {};
    for (int64_t row = from; row < to; ++row) {
      float v[kChunk];
      load(g.x + (item * g.rows + row) * g.cols + c.first, c.n, whole, v);
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; ++j) of[j].see(v[j], range);
    }
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (j >= c.n) continue;
      const int64_t group = item * g.per_item() + (c.first + j) / g.block;
      atomicMax(&high[group], of[j].high);
      if (range) atomicMax(&low[group], of[j].low);
    }
  });
}

template <class T>
void extremes(Stream stream, const Groups<T>& g, bool range, float* high, float* low) {
  auto* highs = reinterpret_cast<int32_t*>(high);
  auto* lows = reinterpret_cast<int32_t*>(low);
  for_each(stream, g.groups(), "group_statistic", [=] __device__(int64_t i) {
    highs[i] = 0;
    if (range) lows[i] = 0;
  });
  if (g.groups() == 0 || g.length() == 0) return;
  if (!g.flat) return column_extremes(stream, g, range, highs, lows);
  const int64_t n = g.length(), part = 8 * kChunk * kThreads;
  int team = 1;
  while (team < kThreads && team * kChunk < n) team *= 2;
  const int64_t units = g.groups() * ((n + part - 1) / part), per_block = kThreads / team;
  launch(stream, static_cast<unsigned>(std::min((units + per_block - 1) / per_block, kMaxBlocks)),
         &flat_extremes<T>, g.x, g.groups(), n, part, team, aligned(g.x, n), range, highs, lows);
  check_launch("group_statistic");
}

inline constexpr int kTile = kChunk * kThreads;  // elements a block holds at a time

// Consecutive groups, `count` whole ones or a tile of one at a time: thread l of sixteen sums the
// elements j of a stretch with j mod 16 = l.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rms_flat(const T* x, int64_t groups, int64_t n, int count, bool whole, bool pruned,
             float* high) {
  alignas(16) __shared__ float values[kTile];
  const int team = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  for (int64_t group = int64_t{blockIdx.x} * count; group < groups;
       group += int64_t{gridDim.x} * count) {
    const int here = static_cast<int>(groups - group < count ? groups - group : count);
    double total = 0, sum = 0;
    int64_t taking = n;
    int none = 0;
    for (int64_t at = 0; at < n; at += kTile) {
      const int m = static_cast<int>(n - at < kTile ? n - at : kTile);  // of each group
      const T* const from = x + group * n + at;
      if (whole) {
        const int first = kChunk * static_cast<int>(threadIdx.x);
        float v[kChunk];
        if (first < here * m) {
          load(from + first, kChunk, true, v);
          store(v, kChunk, true, values + first);
        }
      } else {
        for (int k = threadIdx.x; k < here * m; k += kThreads) values[k] = to_float(from[k]);
      }
      __syncthreads();
      const bool last = at + kTile >= n;
      for (int nth = team; nth - team < here; nth += kThreads / kLanes) {
        const bool mine = nth < here;
        for (int k = lane; mine && k < m; k += kLanes) {
          const double v = values[nth * m + k];
          sum += v * v;
          none += v == 0.0;
        }
        if (!last && (at + kTile) % kStretch) continue;
        total += sum_of_team(sum);
        if (pruned) taking -= sum_of_team(none);
        sum = 0, none = 0;
        if (!last) continue;
        if (lane == 0 && mine)
          high[group + nth] = statistic_of({0, 0, total, taking}, Statistic::rms);
        total = 0, taking = n;
      }
      __syncthreads();
    }
  }
}

// Columns: panels of 64 rows column by column, then panels and columns in order.
template <class T>
void rms_columns(Stream stream, const Groups<T>& g, bool pruned, float* high) {
  for_each(stream, g.groups(), "group_statistic", [=] __device__(int64_t i) {
    const int64_t item = i / g.per_item(), column = (i - item * g.per_item()) * g.block;
    const T* of_item = g.x + item * g.rows * g.cols;
    double total = 0;
    int64_t count = g.length();
    for (int64_t panel = 0; panel < g.rows; panel += kPanel) {
      const int64_t last = panel + kPanel < g.rows ? panel + kPanel : g.rows;
      for (int64_t c = column; c < column + g.block; ++c) {
        double sum = 0;
        for (int64_t r = panel; r < last; ++r) {
          const double v = to_float(of_item[r * g.cols + c]);
          sum += v * v;
          count -= pruned && v == 0.0;
        }
        total += sum;
      }
    }
    high[i] = statistic_of({0, 0, total, count}, Statistic::rms);
  });
}

}  // namespace

template <class T>
void statistics(Stream stream, const Groups<T>& g, Statistic statistic, bool pruned, float* high,
                float* low) {
  if (statistic != Statistic::rms || g.length() == 0)
    return extremes(stream, g, statistic == Statistic::range, high, low);
  if (!g.flat) return rms_columns(stream, g, pruned, high);
  const int64_t n = g.length();
  if (g.groups() == 0) return;
  const int count = static_cast<int>(std::max<int64_t>(1, kTile / n));
  const int64_t blocks = (g.groups() + count - 1) / count;
  launch(stream, static_cast<unsigned>(std::min<int64_t>(blocks, kMaxBlocks)), &rms_flat<T>, g.x,
         g.groups(), n, count, aligned(g.x, n), pruned, high);
  check_launch("group_statistic");
}

template void statistics(Stream, const Groups<float>&, Statistic, bool, float*, float*);
template void statistics(Stream, const Groups<bfloat16>&, Statistic, bool, float*, float*);

int64_t rotated_bytes(int64_t elements, int64_t hadamard) { return hadamard ? 4 * elements : 0; }

template <class T>
void group_statistic(Stream stream, View<const T, 3> x, View<float, 2> high, View<float, 2> low,
                     View<uint8_t, 2> workspace, StatisticAttrs a) {
  check(x, a.block, a.hadamard);
  const Statistic statistic = parse_statistic(a.statistic);
  require(statistic != Statistic::mse_search, "statistic must not be mse_search");
  if (a.hadamard == 0 || x.size() == 0)
    return statistics(stream, Groups<T>(x, a.block), statistic, a.pruned, high.data, low.data);
  auto* rotated = reinterpret_cast<float*>(workspace.data);
  rotate(stream, x.data, nullptr, rotated, x.shape[0], x.shape[1], x.shape[2], a.hadamard, false);
  const View<const float, 3> floats{rotated, {x.shape[0], x.shape[1], x.shape[2]}};
  statistics(stream, Groups<float>(floats, a.block), statistic, a.pruned, high.data, low.data);
}

template void group_statistic(Stream, View<const float, 3>, View<float, 2>, View<float, 2>,
                              View<uint8_t, 2>, StatisticAttrs);
template void group_statistic(Stream, View<const bfloat16, 3>, View<float, 2>, View<float, 2>,
                              View<uint8_t, 2>, StatisticAttrs);

}  // namespace bitlaw::cuda
