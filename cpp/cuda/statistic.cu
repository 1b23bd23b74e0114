// Statistics of groups. Maxima are of integers, so atomics may come in any order; sums run in the
// order of core/statistic.hpp, by sixteen threads for consecutive elements and one for columns.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

template <class T>
void extremes(Stream stream, const Groups<T>& g, bool range, float* high, float* low) {
  auto* highs = reinterpret_cast<int32_t*>(high);
  auto* lows = reinterpret_cast<int32_t*>(low);
  for_each(stream, g.groups(), "group_statistic", [=] __device__(auto i) {
    highs[i] = 0;
    if (range) lows[i] = 0;
  });
  const bool whole = aligned(g.x, g.cols), one = g.block % kChunk == 0;
  for_each(stream, g.chunks(), "group_statistic", [=] __device__(auto i) {
    const Chunk c = chunk_at(g, i);
    float v[kChunk];
    load(g.x + c.line * g.cols + c.first, c.n, whole, v);
    const int64_t base = c.line / g.rows * g.per_item();
    Extreme e{0, 0};
    for (int j = 0; j < c.n; ++j) {
      e.see(v[j], range);
      if (one && j + 1 < c.n) continue;
      const int64_t group = base + (g.block == 1 ? c.first + j : (c.first + j) / g.block);
      atomicMax(&highs[group], e.high);
      if (range) atomicMax(&lows[group], e.low);
      e = {0, 0};
    }
  });
}

inline constexpr int kTeams = kThreads / kLanes;

// Consecutive groups: thread l of sixteen sums the elements j of a stretch with j mod 16 = l.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rms_flat(const T* x, int64_t groups, int64_t n, bool pruned, float* high) {
  __shared__ double squares[kThreads];
  __shared__ int zeros[kThreads];
  const int team = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  for (int64_t first = int64_t{blockIdx.x} * kTeams; first < groups;
       first += int64_t{gridDim.x} * kTeams) {
    const int64_t group = first + team, end = group < groups ? n : 0;
    const T* of_group = x + group * n;
    double total = 0;
    int64_t count = n;
    for (int64_t stretch = 0; stretch < n; stretch += kStretch) {
      const int64_t last = stretch + kStretch < end ? stretch + kStretch : end;
      double sum = 0;
      int none = 0;
      for (int64_t j = stretch + lane; j < last; j += kLanes) {
        const double v = to_float(of_group[j]);
        sum += v * v;
        none += v == 0.0;
      }
      squares[threadIdx.x] = sum;
      zeros[threadIdx.x] = none;
      __syncthreads();
      if (lane == 0) {
        double of_stretch = 0;
        for (int l = 0; l < kLanes; ++l) of_stretch += squares[threadIdx.x + l];
        for (int l = 0; l < kLanes && pruned; ++l) count -= zeros[threadIdx.x + l];
        total += of_stretch;
      }
      __syncthreads();
    }
    if (lane == 0 && group < groups)
      high[group] = statistic_of({0, 0, total, count}, Statistic::rms);
  }
}

// Columns: panels of 64 rows column by column, then panels and columns in order.
template <class T>
void rms_columns(Stream stream, const Groups<T>& g, bool pruned, float* high) {
  for_each(stream, g.groups(), "group_statistic", [=] __device__(auto i) {
    constexpr int64_t kPanel = 64;
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
  if (statistic != Statistic::rms)
    return extremes(stream, g, statistic == Statistic::range, high, low);
  if (!g.flat) return rms_columns(stream, g, pruned, high);
  const int64_t blocks = (g.groups() + kTeams - 1) / kTeams;
  launch(stream, static_cast<unsigned>(std::min<int64_t>(blocks, kMaxBlocks)), &rms_flat<T>, g.x,
         g.groups(), g.length(), pruned, high);
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
