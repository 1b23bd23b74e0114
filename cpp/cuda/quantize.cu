// Fake quantization: a thread maps eight elements, one byte of the mask. Where a group fits into
// the registers of a block its statistic, scale and map are one pass; else there are three.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

// What the map of a chunk needs besides the chunk.
struct Operands {
  const float *grid, *scale, *zero;  // zero: null unless affine
  const uint32_t* noise;             // null unless stochastic
  uint8_t* mask;                     // null with the identity
  float least;                       // see Above
  float threshold;                   // of the other directed roundings
  Kind kind;
  Element element;
  Estimator estimator;
  bool pruned;

  Operands(const Choices& c, const float* grid, const float* scale, const float* zero,
           const uint32_t* noise, uint8_t* mask)
      : grid(grid),
        scale(scale),
        zero(c.kind == Kind::affine ? zero : nullptr),
        noise(c.rounding == Rounding::stochastic ? noise : nullptr),
        mask(c.estimator == Estimator::identity ? nullptr : mask),
        least(c.rounding == Rounding::toward_zero ? 0.0f : -1.0f),
        threshold(c.rounding == Rounding::away ? 0.0f : 1.0f),
        kind(c.kind),
        element(element_of(c.kind, c.scaling)),
        estimator(c.estimator),
        pruned(c.pruned) {}
};

// The threshold of one column; see core/random.hpp.
BITLAW_LEAF float uniform_at(Noise noise, int64_t column) {
  constexpr int64_t half = kRandomRun / 2;
  uint32_t a = noise.row;
  auto b = static_cast<uint32_t>(column / kRandomRun * half + column % half);
  threefry(noise.key0, noise.key1, a, b);
  return uniform_of(column / half % 2 ? b : a);
}

// The map of the other roundings is chosen at run time: they compute much per byte anyway.
BITLAW_LEAF Mapped map_above(Element element, float x, float by, float zero, const Grid& g,
                             Above rule) {
  switch (element) {
    case Element::uniform:
      return map_element<Element::uniform>(x, by, zero, g, rule);
    case Element::affine:
      return map_element<Element::affine>(x, by, zero, g, rule);
    case Element::floating:
      return map_element<Element::floating>(x, by, zero, g, rule);
    case Element::divided:
      return map_element<Element::divided>(x, by, zero, g, rule);
    default:
      return map_element<Element::nf4>(x, by, zero, g, rule);
  }
}

// v onto the grid; returns the bits of the mask. kElement is for nearest rounding only.
template <Element kElement, bool kNearest>
BITLAW_LEAF unsigned map_chunk(float* v, const Chunk& c, int64_t item, int64_t row, const Grid& g,
                               const float* scale, const float* zero, int64_t block,
                               const Operands& o) {
  const Element element = kNearest ? kElement : o.element;
  const Pass pass = pass_of(o.estimator, o.kind, g);
  Noise noise{};
  if (!kNearest && o.noise)
    noise = {o.noise[3 * item], o.noise[3 * item + 1],
             o.noise[3 * item + 2] + static_cast<uint32_t>(row)};
  unsigned bits = 0;
  for (int j = 0; j < c.n; ++j) {
    const int64_t column = c.first + j, group = block == 1 ? column : column / block;
    const float step = scale[group], shift = element == Element::affine ? zero[group] : 0.0f;
    const float by = element == Element::divided ? divisor_of(step) : inverse_of(step);
    Mapped m;
    if constexpr (kNearest) {
      m = map_element<kElement>(v[j], by, shift, g, NearestEven{});
    } else {
      const float u = o.noise ? uniform_at(noise, column) : o.threshold;
      m = map_above(element, v[j], by, shift, g, Above{u, o.least});
    }
    v[j] = o.pruned && v[j] == 0.0f ? 0.0f : m.level * step;
    bits |= static_cast<unsigned>(passes(m, pass, shift)) << j;
  }
  return bits;
}

// The map, all scales known.
template <class T, Element kElement, bool kNearest>
void map_all(Stream stream, const Groups<T>& g, T* y, const Operands& o) {
  const bool whole = aligned(g.x, g.cols) && aligned(y, g.cols);
  for_each(stream, g.chunks(), "fake_quantize", [=] __device__(auto i) {
    const Chunk c = chunk_at(g, i);
    const int64_t item = c.line / g.rows, row = c.line - item * g.rows;
    const int64_t at = c.line * g.cols + c.first, group = item * g.per_item();
    float v[kChunk];
    load(g.x + at, c.n, whole, v);
    const unsigned bits =
        map_chunk<kElement, kNearest>(v, c, item, row, grid_at(o.grid, item), o.scale + group,
                                      o.zero ? o.zero + group : nullptr, g.block, o);
    store(v, c.n, whole, y + at);
    if (o.mask) o.mask[i] = static_cast<uint8_t>(bits);
  });
}

inline constexpr int kMaxEach = 4;  // chunks a thread holds

// The largest value of `team` neighbouring threads of the block, a power of two.
__device__ int32_t team_max(int32_t v, int team) {
  __shared__ int32_t of_warp[kThreads / 32];
  for (int offset = 1; offset < 32 && offset < team; offset *= 2) {
    const int32_t other = __shfl_xor_sync(0xffffffffu, v, offset);
    v = v > other ? v : other;
  }
  if (team <= 32) return v;
  const int warp = threadIdx.x / 32, warps = team / 32;
  if (threadIdx.x % 32 == 0) of_warp[warp] = v;
  __syncthreads();
  for (int w = 0; w < warps; ++w) {
    const int32_t other = of_warp[warp / warps * warps + w];
    v = v > other ? v : other;
  }
  __syncthreads();
  return v;
}

// Groups of `team` threads with `each` chunks each, read once, held in registers, written once.
template <class T, Element kElement>
__global__ void __launch_bounds__(kThreads)
    in_registers(Groups<T> g, T* y, float* scale, float* zero, Operands o, Scaling scaling,
                 int team, int each) {
  const int64_t groups = g.items * g.per_item(), per_block = kThreads / team;
  const int rank = static_cast<int>(threadIdx.x) % team;
  const bool range = kElement == Element::affine, uniform = o.kind == Kind::uniform;
  for (int64_t first = blockIdx.x * per_block; first < groups; first += gridDim.x * per_block) {
    const int64_t group = first + threadIdx.x / team;
    const bool here = group < groups;
    const int64_t item = here ? group / g.per_item() : 0, base = group * g.block;
    float v[kMaxEach][kChunk];
    Extreme e{0, 0};
    BITLAW_UNROLL
    for (int k = 0; k < kMaxEach; ++k) {
      if (k >= each || !here) continue;
      load(g.x + base + (k * team + rank) * kChunk, kChunk, true, v[k]);
      for (int j = 0; j < kChunk; ++j) e.see(v[k][j], range);
    }
    const float high = float_of(team_max(e.high, team));
    const float low = range ? float_of(team_max(e.low, team)) : 0.0f;
    if (!here) continue;
    const Grid grid = grid_at(o.grid, item);
    float step, shift = 0.0f;
    ScaleGroups::run(&high, range ? &low : nullptr, &step, &shift, 1, grid, scaling, uniform);
    if (rank == 0) {
      scale[group] = step;
      if (range) zero[group] = shift;
    }
    BITLAW_UNROLL
    for (int k = 0; k < kMaxEach; ++k) {
      if (k >= each) continue;
      const int64_t column = (group - item * g.per_item()) * g.block + (k * team + rank) * kChunk;
      const unsigned bits = map_chunk<kElement, true>(v[k], {item, column, kChunk}, item, 0, grid,
                                                      &step - column / g.block,
                                                      &shift - column / g.block, g.block, o);
      store(v[k], kChunk, true, y + item * g.cols + column);
      if (o.mask) o.mask[(item * g.cols + column) / kChunk] = static_cast<uint8_t>(bits);
    }
  }
}

// Threads per group if it is held in registers, `each` chunks a thread; 0 if it is not.
int team_of(int64_t block, int* each) {
  for (*each = 1; *each <= kMaxEach; *each *= 2) {
    const int64_t team = block / (kChunk * *each);
    if (block % (kChunk * *each) == 0 && team > 0 && (team & (team - 1)) == 0 && team <= kThreads)
      return static_cast<int>(team);
  }
  return 0;
}

// Statistic, scale and map in one pass, where choices and layout allow it.
template <class T>
bool one_pass(Stream stream, const Groups<T>& g, T* y, float* scale, float* zero, const Operands& o,
              const Choices& c) {
  int each = 1;
  const int team = team_of(g.block, &each);
  if (g.rows != 1 || team == 0 || c.rounding != Rounding::nearest ||
      (c.statistic != Statistic::absmax && c.statistic != Statistic::range) ||
      !aligned(g.x, g.cols) || !aligned(y, g.cols))
    return false;
  const int64_t per_block = kThreads / team, blocks = (g.groups() + per_block - 1) / per_block;
  with_element(o.element, [&]<Element kElement>() {
    launch(stream, static_cast<unsigned>(std::min<int64_t>(blocks, kMaxBlocks)),
           &in_registers<T, kElement>, g, y, scale, zero, o, c.scaling, team, each);
  });
  check_launch("fake_quantize");
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
void quantize(Stream stream, View<const T, 3> x, T* y, float* scale, float* zero, bool given,
              Operands o, const Choices& c) {
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

template <class T>
void maybe_rotated(Stream stream, View<const T, 3> x, View<T, 3> y, float* scale, float* zero,
                   bool given, const Operands& o, View<uint8_t, 2> workspace, const Choices& c) {
  if (x.size() == 0) {  // no elements, but perhaps the scales of empty groups
    if (!given) scale_arrays(stream, Groups<T>(x, c.block), scale, zero, o, c);
    return;
  }
  if (c.hadamard == 0) return quantize<T>(stream, x, y.data, scale, zero, given, o, c);
  auto* rotated = reinterpret_cast<float*>(workspace.data);
  const int64_t items = x.shape[0], rows = x.shape[1], cols = x.shape[2];
  rotate(stream, x.data, nullptr, rotated, items, rows, cols, c.hadamard, false);
  quantize<float>(stream, {rotated, {items, rows, cols}}, rotated, scale, zero, given, o, c);
  rotate(stream, rotated, nullptr, y.data, items, rows, cols, c.hadamard, false);
}

}  // namespace

template <class T>
void fake_quantize(Stream stream, View<const T, 3> x, View<const float, 2> grid,
                   View<const uint32_t, 2> noise, View<T, 3> y, View<float, 2> scale,
                   View<float, 2> zero, View<uint8_t, 3> mask, View<uint8_t, 2> workspace,
                   QuantizeAttrs a) {
  const Choices c = choices_of(x, a, parse_statistic(a.statistic));
  const bool affine = c.kind == Kind::affine;
  require(affine == (c.statistic == Statistic::range), "affine formats take the statistic range");
  const Operands o(c, grid.data, scale.data, zero.data, noise.data, mask.data);
  maybe_rotated<T>(stream, x, y, scale.data, affine ? zero.data : nullptr, false, o, workspace, c);
}

template <class T>
void fake_quantize_scaled(Stream stream, View<const T, 3> x, View<const float, 2> scale,
                          View<const float, 2> zero, View<const float, 2> grid,
                          View<const uint32_t, 2> noise, View<T, 3> y, View<uint8_t, 3> mask,
                          View<uint8_t, 2> workspace, ScaledAttrs a) {
  const Choices c = choices_of(x, a, Statistic::absmax);
  const Operands o(c, grid.data, scale.data, zero.data, noise.data, mask.data);
  maybe_rotated<T>(stream, x, y, nullptr, nullptr, true, o, workspace, c);
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
