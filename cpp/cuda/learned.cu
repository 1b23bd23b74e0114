// Gradients of learned scales, in one pass: 3 b bytes per element of b bytes. The order of the sums
// is the core's: sixteen lanes of consecutive elements, added up in halves, then parts in order;
// for columns, panels of rows, then panels and columns in order.
#include "cuda/groups.cuh"
#include "cuda/learned.hpp"

namespace bitlaw::cuda {
namespace {

// Elements a block holds the terms of at a time: whole groups, or a stretch of one.
inline constexpr int kTile = kChunk * kThreads;

template <class T>
struct Call {
  const T *g, *x;
  T* dx;
  const float *scale, *zero, *grid;  // zero: null where there is none
  float* sums;
  LearnedSums* parts;
  int64_t items, rows, cols, block, grid_row;
  bool zeros;  // whether there are two sums

  BITLAW_LEAF int64_t groups() const { return cols / block; }
  BITLAW_LEAF LearnedGrid grid_of(int64_t item) const {
    const float* g = grid + item * grid_row;
    return {g[0], g[1], g[2]};
  }
  BITLAW_LEAF CodeRange range(int64_t group, int64_t item) const {
    const float s = scale[group];
    return range_of(s, inverse_of(s), zero ? zero[group] : 0.0f, grid_of(item));
  }
  BITLAW_LEAF void write(int64_t group, LearnedSums s) const {
    const int64_t item = group / groups();
    float* out = sums + item * groups() * (zeros ? 2 : 1) + (group - item * groups());
    *out = static_cast<float>(s.scale);
    if (zeros) out[groups()] = zero_gradient(scale[group], s.zero);
  }
};

// The terms of n elements of one group: dx is written, the others go to shared memory.
template <class T, Learned kEstimator, bool kPruned>
BITLAW_LEAF void chunk_terms(const Call<T>& c, int64_t at, int n, bool whole, CodeRange range,
                             float* scale_terms, float* zero_terms) {
  float g[kChunk], x[kChunk];
  load(c.g + at, n, whole, g);
  load(c.x + at, n, whole, x);
  BITLAW_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (j >= n) break;
    const Terms t = learned_terms<kEstimator, kPruned>(g[j], x[j], range);
    g[j] = t.dx;
    scale_terms[j] = t.scale;
    if (kEstimator == Learned::lsq_plus) zero_terms[j] = t.zero;
  }
  store(g, n, whole, c.dx + at);
}

// Items of one row. A unit is `count` whole groups of at most kTile elements, or a part of one.
template <class T, Learned kEstimator, bool kPruned>
__global__ void __launch_bounds__(kThreads)
    learned_rows(Call<T> c, int64_t units, int64_t parts, int count, bool whole) {
  constexpr bool kZero = kEstimator == Learned::lsq_plus;
  alignas(16) __shared__ float scale_terms[kTile], zero_terms[kZero ? kTile : 1];
  const int64_t n = c.block, all = c.items * c.groups();
  const int team = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t group = parts > 1 ? unit / parts : unit * count;
    const int64_t first = parts > 1 ? unit % parts * kLearnedPart : 0;
    const int64_t last = n - first < kLearnedPart ? n : first + kLearnedPart;  // of a group
    const int here = static_cast<int>(all - group < count ? all - group : count);
    double scale_lane = 0, zero_lane = 0;
    for (int64_t at = first; at < last; at += kTile) {
      const int m = static_cast<int>(last - at < kTile ? last - at : kTile);  // of each group
      const int64_t base = group * n + at;
      if (whole) {
        const int i = kChunk * static_cast<int>(threadIdx.x), nth = i / m;
        if (nth < here)
          chunk_terms<T, kEstimator, kPruned>(c, base + i, kChunk, true,
                                              c.range(group + nth, (group + nth) / c.groups()),
                                              scale_terms + i, zero_terms + (kZero ? i : 0));
      } else {
        for (int i = threadIdx.x; i < here * m; i += kThreads) {
          const int64_t of = group + i / m;
          chunk_terms<T, kEstimator, kPruned>(c, base + i, 1, false, c.range(of, of / c.groups()),
                                              scale_terms + i, zero_terms + (kZero ? i : 0));
        }
      }
      __syncthreads();
      // Teams add up a group each; where there is only one group, the first team goes on with it.
      for (int round = 0; round < here; round += kThreads / kLanes) {
        const int nth = round + team;
        const bool mine = nth < here;
        if (count > 1) scale_lane = zero_lane = 0;
        for (int i = lane; mine && i < m; i += kLanes) {
          scale_lane += static_cast<double>(scale_terms[nth * m + i]);
          if (kZero) zero_lane += static_cast<double>(zero_terms[nth * m + i]);
        }
        if (at + kTile < last) continue;
        const LearnedSums s{sum_of_team(scale_lane), kZero ? sum_of_team(zero_lane) : 0.0};
        if (!mine || lane != 0) continue;
        if (parts > 1)
          c.parts[unit] = s;
        else
          c.write(group + nth, s);
      }
      __syncthreads();
    }
  }
}

// A panel of rows, column by column. Two blocks at least: left alone, ptxas spills for more.
template <class T, Learned kEstimator, bool kPruned>
__global__ void __launch_bounds__(kThreads, 2) learned_columns(Call<T> c, int64_t panels) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < c.items * panels * c.cols; i += stride) {
    const int64_t line = i / c.cols, column = i - line * c.cols;
    const int64_t item = line / panels, panel = line - item * panels;
    const int64_t first = panel * kLearnedPanel;
    const int64_t last = c.rows - first < kLearnedPanel ? c.rows : first + kLearnedPanel;
    const CodeRange range = c.range(item * c.groups() + column / c.block, item);
    LearnedSums s;
    for (int64_t r = first; r < last; ++r) {
      const int64_t at = (item * c.rows + r) * c.cols + column;
      const Terms t =
          learned_terms<kEstimator, kPruned>(to_float(c.g[at]), to_float(c.x[at]), range);
      c.dx[at] = Narrow<T>::from(t.dx);
      s.scale += static_cast<double>(t.scale);
      if (kEstimator == Learned::lsq_plus) s.zero += static_cast<double>(t.zero);
    }
    c.parts[i] = s;
  }
}

// Sums of parts, in order: `lines` lines of parts per item, `each` consecutive ones for a group.
template <class T>
void add_parts(Stream stream, const Call<T>& c, int64_t lines, int64_t each) {
  const int64_t groups = c.groups(), width = groups * each;
  for_each(stream, c.items * groups, "learned_gradient", [=] __device__(int64_t i) {
    const int64_t item = i / groups, group = i - item * groups;
    const LearnedSums* of = c.parts + item * lines * width + group * each;
    LearnedSums s;
    for (int64_t line = 0; line < lines; ++line, of += width)
      for (int64_t p = 0; p < each; ++p) s.scale += of[p].scale, s.zero += of[p].zero;
    c.write(i, s);
  });
}

// run.template operator()<estimator, pruned>()
template <class Run>
void with_variant(Learned estimator, bool pruned, const Run& run) {
  const auto with = [&]<Learned kEstimator>() {
    pruned ? run.template operator()<kEstimator, true>()
           : run.template operator()<kEstimator, false>();
  };
  if (estimator == Learned::lsq) return with.template operator()<Learned::lsq>();
  if (estimator == Learned::lsq_plus) return with.template operator()<Learned::lsq_plus>();
  with.template operator()<Learned::pact>();
}

int64_t parts_of(int64_t block) { return (block + kLearnedPart - 1) / kLearnedPart; }
int64_t panels_of(int64_t rows) { return (rows + kLearnedPanel - 1) / kLearnedPanel; }

}  // namespace

int64_t learned_workspace(int64_t rows, int64_t cols, int64_t block) {
  const int64_t parts = rows == 1 ? parts_of(block) : panels_of(rows) * block;
  return rows == 1 && parts == 1 ? 0 : parts * (cols / block) * int64_t{sizeof(LearnedSums)};
}

template <class T>
void learned_gradient(Stream stream, View<const T, 3> g, View<const T, 3> x,
                      View<const float, 2> scale, View<const float, 2> zero,
                      View<const float, 2> grid, View<T, 3> dx, View<float, 3> sums,
                      View<uint8_t, 2> workspace, LearnedAttrs a) {
  require(a.block > 0 && x.shape[2] % a.block == 0, "block must divide the columns of x");
  const Learned estimator = parse_learned(a.estimator);
  const Call<T> c{g.data,
                  x.data,
                  dx.data,
                  scale.data,
                  zero.shape[1] ? zero.data : nullptr,
                  grid.data,
                  sums.data,
                  reinterpret_cast<LearnedSums*>(workspace.data),
                  x.shape[0],
                  x.shape[1],
                  x.shape[2],
                  a.block,
                  grid.shape[1],
                  estimator == Learned::lsq_plus};
  if (x.size() == 0)
    return for_each(stream, sums.size(), "learned_gradient",
                    [=] __device__(int64_t i) { c.sums[i] = 0.0f; });
  const bool rows = c.rows == 1;
  const int64_t parts = parts_of(c.block), panels = panels_of(c.rows);
  const int count = static_cast<int>(std::max<int64_t>(1, kTile / c.block));
  const int64_t groups = c.items * c.groups();
  const int64_t units = parts > 1 ? groups * parts : (groups + count - 1) / count;
  const int64_t blocks = rows ? units : (c.items * panels * c.cols + kThreads - 1) / kThreads;
  const auto grid_of = static_cast<unsigned>(std::min(blocks, kMaxBlocks));
  const bool whole = aligned(c.g, c.block) && aligned(c.x, c.block) && aligned(c.dx, c.block);
  with_variant(estimator, a.pruned, [&]<Learned kEstimator, bool kPruned>() {
    if (rows)
      launch(stream, grid_of, &learned_rows<T, kEstimator, kPruned>, c, units, parts, count, whole);
    else
      launch(stream, grid_of, &learned_columns<T, kEstimator, kPruned>, c, panels);
  });
  check_launch("learned_gradient");
  if (!rows)
    add_parts(stream, c, panels, c.block);
  else if (parts > 1)
    add_parts(stream, c, 1, parts);
}

template void learned_gradient(Stream, View<const float, 3>, View<const float, 3>,
                               View<const float, 2>, View<const float, 2>, View<const float, 2>,
                               View<float, 3>, View<float, 3>, View<uint8_t, 2>, LearnedAttrs);
template void learned_gradient(Stream, View<const bfloat16, 3>, View<const bfloat16, 3>,
                               View<const float, 2>, View<const float, 2>, View<const float, 2>,
                               View<bfloat16, 3>, View<float, 3>, View<uint8_t, 2>, LearnedAttrs);

}  // namespace bitlaw::cuda
