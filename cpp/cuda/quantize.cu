// Quantization, to values or to codes. Where a group fits into the registers of a block its
// statistic, scale and map are one pass over memory; else the statistic is one and the map another.
//
// Bytes per element of b bytes: one pass b + b, else 2 b + b; codes of k bits: k / 8 for the last
// b. A mask adds 1 / 8; a rotation 4 + b before and after.
#include "cuda/map.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

// The map, all scales known.
template <class T, Element kElement, bool kNearest>
void map_all(Stream stream, const Groups<T>& g, T* y, const Operands& o) {
  const bool whole = aligned(g.x, g.cols) && (!y || aligned(y, g.cols));
  const bool one = g.block % kChunk == 0 || g.block == g.cols;  // a chunk is in one group
  for_each(stream, g.chunks(), "quantize", [=] __device__(int64_t i) {
    const Chunk c = chunk_at(g, i);
    const int64_t item = g.rows == 1 ? c.line : c.line / g.rows;
    const int64_t row = c.line - item * g.rows, group = item * g.per_item();
    float v[kChunk];
    load(g.x + c.line * g.cols + c.first, c.n, whole, v);
    const Steps steps(kNearest ? kElement : o.element, o.scale + group,
                      o.zero ? o.zero + group : nullptr, c.first, g.block, one);
    const MappedChunk m =
        map_chunk<kElement, kNearest>(v, c.n, item, row, c.first, grid_at(o.grid, item), steps, o);
    store_chunk(v, m, c, g.cols, whole, y, o);
  });
}

inline constexpr int kMaxEach = 4;  // chunks a thread holds at most

// Groups of `team` threads with up to kEach chunks each, read once, held in registers, written
// once.
template <class T, Element kElement, bool kNearest, int kEach>
__global__ void __launch_bounds__(kThreads)
    in_registers(Groups<T> g, T* y, float* scale, float* zero, Operands o, Scaling scaling,
                 int team) {
  const int64_t groups = g.items * g.per_item(), per_block = kThreads / team;
  const int rank = static_cast<int>(threadIdx.x) % team,
            chunks = static_cast<int>(g.block / kChunk);
  const Element element = kNearest ? kElement : o.element;
  const bool range = element == Element::affine, uniform = o.kind == Kind::uniform;
  for (int64_t first = blockIdx.x * per_block; first < groups; first += gridDim.x * per_block) {
    const int64_t group = first + threadIdx.x / team;
    const int mine = group < groups ? chunks : 0;
    const int64_t item = mine ? group / g.per_item() : 0, base = group * g.block;
    float v[kEach][kChunk];
    Extreme e{0, 0};
    BITLAW_UNROLL
    for (int k = 0; k < kEach; ++k) {
      if (k * team + rank >= mine) continue;
      load(g.x + base + (k * team + rank) * kChunk, kChunk, true, v[k]);
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; ++j) e.see(v[k][j], range);
    }
    const float high = float_of(team_max(e.high, team));
    const float low = range ? float_of(team_max(e.low, team)) : 0.0f;
    if (!mine) continue;
    const Grid grid = grid_at(o.grid, item);
    float size = 0.0f, shift = 0.0f;
    ScaleGroups::run(&high, range ? &low : nullptr, &size, &shift, 1, grid, scaling, uniform);
    if (rank == 0) {
      scale[group] = size;
      if (range) zero[group] = shift;
    }
    const Steps steps(step_of(element, size, shift));
    BITLAW_UNROLL
    for (int k = 0; k < kEach; ++k) {
      if (k * team + rank >= mine) continue;
      const int64_t column = base - item * g.cols + (k * team + rank) * kChunk;
      const MappedChunk m =
          map_chunk<kElement, kNearest>(v[k], kChunk, item, 0, column, grid, steps, o);
      store_chunk(v[k], m, {item, column, kChunk}, g.cols, true, y, o);
    }
  }
}

// Threads per group, a power of two, if `each` chunks a thread hold it; else 0.
int team_of(int64_t block, int each) {
  const int64_t chunks = block / kChunk;
  if (block % kChunk || chunks > each * kThreads) return 0;
  int team = 1;
  while (team < chunks && team < kThreads) team *= 2;
  return team;
}

// Statistic, scale and map in one pass, where choices and layout allow it.
template <class T>
bool one_pass(Stream stream, const Groups<T>& g, T* y, float* scale, float* zero, const Operands& o,
              const Choices& c) {
  const bool nearest = c.rounding == Rounding::nearest, few = team_of(g.block, 1) > 0;
  const int team = team_of(g.block, nearest ? kMaxEach : 1);
  if (g.rows != 1 || team == 0 ||
      (c.statistic != Statistic::absmax && c.statistic != Statistic::range) ||
      !aligned(g.x, g.cols) || (y && !aligned(y, g.cols)))
    return false;
  const int64_t per_block = kThreads / team, blocks = (g.groups() + per_block - 1) / per_block;
  const auto run = [&](auto kernel) {
    launch(stream, static_cast<unsigned>(std::min<int64_t>(blocks, kMaxBlocks)), kernel, g, y,
           scale, zero, o, c.scaling, team);
  };
  if (!nearest)
    run(&in_registers<T, Element::uniform, false, 1>);
  else
    with_element(o.element, [&]<Element kElement>() {
      run(few ? &in_registers<T, kElement, true, 1> : &in_registers<T, kElement, true, kMaxEach>);
    });
  check_launch("quantize");
  return true;
}

template <class T>
void scale_arrays(Stream stream, const Groups<T>& g, float* scale, float* zero, const Operands& o,
                  const Choices& c) {
  statistics(stream, g, c.statistic, c.pruned, scale, zero);
  store_scales(stream, g.groups(), g.per_item(), o.grid, c.scaling, c.kind == Kind::uniform, scale,
               c.kind == Kind::affine ? zero : nullptr);
}

// `scale` and `zero` are written unless they are given.
template <class T>
void in_passes(Stream stream, View<const T, 3> x, T* y, float* scale, float* zero, bool given,
               const Operands& o, const Choices& c) {
  const Groups<T> g(x, c.block);
  if (!given) {
    if (one_pass(stream, g, y, scale, zero, o, c)) return;
    if (c.statistic == Statistic::mse_search) {
      search_scales(stream, g, o.grid, c, scale);
    } else {
      scale_arrays(stream, g, scale, zero, o, c);
    }
  }
  if (c.rounding != Rounding::nearest) return map_all<T, Element::uniform, false>(stream, g, y, o);
  with_element(o.element, [&]<Element kElement>() { map_all<T, kElement, true>(stream, g, y, o); });
}

}  // namespace

template <class T>
void quantize_array(Stream stream, View<const T, 3> x, T* y, float* scale, float* zero, bool given,
                    const Operands& o, uint8_t* workspace, const Choices& c) {
  if (x.size() == 0) {  // no elements, but perhaps the scales of empty groups
    if (!given) scale_arrays(stream, Groups<T>(x, c.block), scale, zero, o, c);
    return;
  }
  if (c.hadamard == 0) return in_passes<T>(stream, x, y, scale, zero, given, o, c);
  auto* rotated = reinterpret_cast<float*>(workspace);
  const int64_t items = x.shape[0], rows = x.shape[1], cols = x.shape[2];
  rotate(stream, x.data, nullptr, rotated, items, rows, cols, c.hadamard, false);
  in_passes<float>(stream, {rotated, {items, rows, cols}}, o.codes ? nullptr : rotated, scale, zero,
                   given, o, c);
  if (!o.codes) rotate(stream, rotated, nullptr, y, items, rows, cols, c.hadamard, false);
}

template void quantize_array(Stream, View<const float, 3>, float*, float*, float*, bool,
                             const Operands&, uint8_t*, const Choices&);
template void quantize_array(Stream, View<const bfloat16, 3>, bfloat16*, float*, float*, bool,
                             const Operands&, uint8_t*, const Choices&);

template <class T>
void fake_quantize(Stream stream, View<const T, 3> x, View<const float, 2> grid,
                   View<const uint32_t, 2> noise, View<T, 3> y, View<float, 2> scale,
                   View<float, 2> zero, View<uint8_t, 3> mask, View<uint8_t, 2> workspace,
                   QuantizeAttrs a) {
  const Choices c = choices_of(x, a, a.statistic);
  const Operands o(c, x.shape[2], grid.data, scale.data, zero.data, noise.data, mask.data, nullptr);
  quantize_array<T>(stream, x, y.data, scale.data, c.kind == Kind::affine ? zero.data : nullptr,
                    false, o, workspace.data, c);
}

template <class T>
void fake_quantize_scaled(Stream stream, View<const T, 3> x, View<const float, 2> scale,
                          View<const float, 2> zero, View<const float, 2> grid,
                          View<const uint32_t, 2> noise, View<T, 3> y, View<uint8_t, 3> mask,
                          View<uint8_t, 2> workspace, ScaledAttrs a) {
  const Choices c = choices_of(x, a, Statistic::absmax);
  const Operands o(c, x.shape[2], grid.data, scale.data, zero.data, noise.data, mask.data, nullptr);
  quantize_array<T>(stream, x, y.data, nullptr, nullptr, true, o, workspace.data, c);
}

template void fake_quantize(Stream, View<const float, 3>, View<const float, 2>,
                            View<const uint32_t, 2>, View<float, 3>, View<float, 2>, View<float, 2>,
                            View<uint8_t, 3>, View<uint8_t, 2>, QuantizeAttrs);
template void fake_quantize(Stream, View<const bfloat16, 3>, View<const float, 2>,
                            View<const uint32_t, 2>, View<bfloat16, 3>, View<float, 2>,
                            View<float, 2>, View<uint8_t, 3>, View<uint8_t, 2>, QuantizeAttrs);
template void fake_quantize_scaled(Stream, View<const float, 3>, View<const float, 2>,
                                   View<const float, 2>, View<const float, 2>,
                                   View<const uint32_t, 2>, View<float, 3>, View<uint8_t, 3>,
                                   View<uint8_t, 2>, ScaledAttrs);
template void fake_quantize_scaled(Stream, View<const bfloat16, 3>, View<const float, 2>,
                                   View<const float, 2>, View<const float, 2>,
                                   View<const uint32_t, 2>, View<bfloat16, 3>, View<uint8_t, 3>,
                                   View<uint8_t, 2>, ScaledAttrs);

}  // namespace bitlaw::cuda
