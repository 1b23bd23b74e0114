// Scales from statistics.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

inline constexpr int kTeams = kThreads / kLanes;

// Sixteen threads per group, each the errors of its lane for all candidates.
template <class T, Element kElement>
__global__ void __launch_bounds__(kThreads)
    search(const T* x, int64_t groups, int64_t per_item, int64_t n, const float* grids,
           Scaling scaling, bool uniform, bool pruned, float* scale) {
  __shared__ int32_t maxima[kThreads];
  __shared__ float lanes[kCandidates][kThreads];
  const int team = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  for (int64_t first = int64_t{blockIdx.x} * kTeams; first < groups;
       first += int64_t{gridDim.x} * kTeams) {
    const int64_t group = first + team, end = group < groups ? n : 0;
    const T* of_group = x + group * n;
    const Grid g = grid_at(grids, (group < groups ? group : 0) / per_item);
    int32_t high = 0;
    for (int64_t j = lane; j < end; j += kLanes) {
      const int32_t m = magnitude_bits(to_float(of_group[j]));
      high = high > m ? high : m;
    }
    maxima[threadIdx.x] = high;
    __syncthreads();
    for (int l = 0; l < kLanes; ++l) {
      const int32_t other = maxima[team * kLanes + l];
      high = high > other ? high : other;
    }
    const float amax = float_of(high), unit = inverse_of(amax);
    float candidates[kCandidates], by[kCandidates], sum[kCandidates];
    for (int k = 0; k < kCandidates; ++k)
      candidates[k] = amax * (static_cast<float>(16 - k) / 16.0f);
    ScaleGroups::run(candidates, nullptr, candidates, nullptr, kCandidates, g, scaling, uniform);
    for (int k = 0; k < kCandidates; ++k) {
      by[k] = kElement == Element::divided ? divisor_of(candidates[k]) : inverse_of(candidates[k]);
      sum[k] = 0.0f;
    }
    for (int64_t j = lane; j < end; j += kLanes) {
      const float v = to_float(of_group[j]);
      for (int k = 0; k < kCandidates; ++k) {
        const float y =
            map_element<kElement>(v, by[k], 0.0f, g, NearestEven{}).level * candidates[k];
        const float d = (v - y) * unit;
        sum[k] += pruned && v == 0.0f ? 0.0f : d * d;
      }
    }
    for (int k = 0; k < kCandidates; ++k) lanes[k][threadIdx.x] = sum[k];
    __syncthreads();
    if (lane == 0 && group < groups) {
      float least = kInfinity, best = candidates[0];
      for (int k = 0; k < kCandidates; ++k) {
        float error = 0.0f;
        for (int l = 0; l < kLanes; ++l) error += lanes[k][threadIdx.x + l];
        best = error < least ? candidates[k] : best;
        least = error < least ? error : least;
      }
      scale[group] = best;
    }
    __syncthreads();
  }
}

}  // namespace

void store_scales(Stream stream, int64_t groups, int64_t per_item, const float* grid,
                  Scaling scaling, bool uniform, float* scale, float* zero) {
  for_each(stream, groups, "statistic_scale", [=] __device__(int64_t i) {
    float* const at = zero ? zero + i : nullptr;
    ScaleGroups::run(scale + i, at, scale + i, at, 1, grid_at(grid, i / per_item), scaling,
                     uniform);
  });
}

template <class T>
void search_scales(Stream stream, const Groups<T>& g, const float* grid, const Choices& c,
                   float* scale) {
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>((g.groups() + kTeams - 1) / kTeams, kMaxBlocks));
  with_element(element_of(c.kind, c.scaling), [&]<Element kElement>() {
    launch(stream, blocks, &search<T, kElement>, g.x, g.groups(), g.per_item(), g.length(), grid,
           c.scaling, c.kind == Kind::uniform, c.pruned, scale);
  });
  check_launch("mse_search");
}

template void search_scales(Stream, const Groups<float>&, const float*, const Choices&, float*);
template void search_scales(Stream, const Groups<bfloat16>&, const float*, const Choices&, float*);

void statistic_ratio(Stream stream, View<const float, 2> statistic, View<const float, 2> largest,
                     View<float, 2> ratio, View<float, 2> unit) {
  for_each(stream, statistic.size(), "statistic_ratio", [=] __device__(int64_t i) {
    unit.data[i] = power_of(largest.data[i]);
    ratio.data[i] = statistic.data[i] / unit.data[i];
  });
}

void statistic_scale(Stream stream, View<const float, 2> high, View<const float, 2> low,
                     View<const float, 2> unit, View<const float, 2> grid, View<float, 2> scale,
                     View<float, 2> zero, ScaleAttrs a) {
  const bool range = parse_kind(a.kind) == Kind::affine;
  for_each(stream, high.size(), "statistic_scale", [=] __device__(int64_t i) {
    scale.data[i] = high.data[i] * unit.data[i];
    if (range) zero.data[i] = low.data[i] * unit.data[i];
  });
  store_scales(stream, high.size(), high.shape[1], grid.data, parse_scaling(a.scaling),
               parse_kind(a.kind) == Kind::uniform, scale.data, range ? zero.data : nullptr);
}

void outer_scale(Stream stream, View<const float, 2> statistic, View<const float, 2> grid,
                 View<float, 2> outer) {
  const int64_t groups = statistic.shape[1];
  for_each(stream, statistic.size(), "outer_scale", [=] __device__(int64_t i) {
    outer.data[i] = outer_of(statistic.data[i], grid_at(grid.data, i / groups).span);
  });
}

}  // namespace bitlaw::cuda
