// Quantization to packed codes and back. Bytes per element: quantize as in quantize.cu; dequantize
// k / 8 for codes of k bits and what a value has, 8 more with a rotation.
#include "cuda/codes.hpp"
#include "cuda/map.cuh"

namespace bitlaw::cuda {
namespace {

// The codes of a chunk, one per byte.
template <int k>
BITLAW_LEAF uint64_t load_codes(const uint8_t* from, int n) {
  using Unit = WordOf<(k % 8 == 0 ? 8 : k % 4 == 0 ? 4 : k % 2 == 0 ? 2 : 1)>;
  uint64_t joined = 0;
  if (n == kChunk && reinterpret_cast<uintptr_t>(from) % sizeof(Unit) == 0) {
    BITLAW_UNROLL
    for (int i = 0; i < k / static_cast<int>(sizeof(Unit)); ++i)
      joined |= uint64_t{reinterpret_cast<const Unit*>(from)[i]} << (8 * sizeof(Unit) * i);
  } else {
    for (int i = 0; i < bytes_of_bits(n * k); ++i) joined |= uint64_t{from[i]} << (8 * i);
  }
  return split_codes<k>(joined);
}

BITLAW_LEAF uint64_t load_codes(const uint8_t* from, int n, int bits) {
  switch (bits) {
    case 1:
      return load_codes<1>(from, n);
    case 2:
      return load_codes<2>(from, n);
    case 3:
      return load_codes<3>(from, n);
    case 4:
      return load_codes<4>(from, n);
    case 5:
      return load_codes<5>(from, n);
    case 6:
      return load_codes<6>(from, n);
    case 7:
      return load_codes<7>(from, n);
    default:
      return load_codes<8>(from, n);
  }
}

// y = the values of all codes, not rotated.
template <class T>
void decode_all(Stream stream, View<const uint8_t, 3> codes, View<const float, 2> scale,
                const float* zero, const float* grid, T* y, int64_t cols, int64_t block, Kind kind,
                int bits) {
  const Groups<T> g({y, {codes.shape[0], codes.shape[1], cols}}, block);
  const bool whole = aligned(y, cols), one = block % kChunk == 0 || block == cols;
  const int64_t bytes = codes.shape[2];
  const uint8_t* in = codes.data;
  const float* scales = scale.data;
  for_each(stream, g.chunks(), "dequantize", [=] __device__(int64_t i) {
    const Chunk c = chunk_at(g, i);
    const int64_t item = g.rows == 1 ? c.line : c.line / g.rows, group = item * g.per_item();
    const uint64_t all = load_codes(in + c.line * bytes + c.first / kChunk * bits, c.n, bits);
    const Grid of_item = grid_at(grid, item);
    Steps steps(Element::uniform, scales + group, zero ? zero + group : nullptr, c.first, block,
                one);
    float v[kChunk];
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (j < c.n) steps.next(Element::uniform);
      const float level =
          level_of_code(kind, bits, of_item, static_cast<int>(all >> (8 * j) & 0xff));
      v[j] = (zero ? level - steps.step.shift : level) * steps.step.size;
    }
    store(v, c.n, whole, y + c.line * cols + c.first);
  });
}

}  // namespace

template <class T>
void quantize(Stream stream, View<const T, 3> x, View<const float, 2> grid,
              View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<float, 2> scale,
              View<float, 2> zero, View<uint8_t, 3> mask, View<uint8_t, 2> workspace,
              CodesAttrs a) {
  Choices c = choices_of(x, a, a.statistic);
  check_bits(a.bits, c.kind);
  c.bits = a.bits;
  const Operands o(c, x.shape[2], grid.data, scale.data, zero.data, noise.data, mask.data,
                   codes.data);
  quantize_array<T>(stream, x, nullptr, scale.data, c.kind == Kind::affine ? zero.data : nullptr,
                    false, o, workspace.data, c);
}

template <class T>
void quantize_scaled(Stream stream, View<const T, 3> x, View<const float, 2> scale,
                     View<const float, 2> zero, View<const float, 2> grid,
                     View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<uint8_t, 3> mask,
                     View<uint8_t, 2> workspace, ScaledCodesAttrs a) {
  Choices c = choices_of(x, a, Statistic::absmax);
  check_bits(a.bits, c.kind);
  c.bits = a.bits;
  const Operands o(c, x.shape[2], grid.data, scale.data, zero.data, noise.data, mask.data,
                   codes.data);
  quantize_array<T>(stream, x, nullptr, nullptr, nullptr, true, o, workspace.data, c);
}

template <class T>
void dequantize(Stream stream, View<const uint8_t, 3> codes, View<const float, 2> scale,
                View<const float, 2> zero, View<const float, 2> grid, View<T, 3> y,
                View<uint8_t, 2> workspace, DequantizeAttrs a) {
  const Kind kind = parse_kind(a.kind);
  check_bits(a.bits, kind);
  if (y.size() == 0) return;
  const float* zeros = kind == Kind::affine ? zero.data : nullptr;
  const int64_t cols = y.shape[2];
  auto* rotated = reinterpret_cast<float*>(workspace.data);
  const auto bits = static_cast<int>(a.bits);
  if (a.hadamard)
    decode_all(stream, codes, scale, zeros, grid.data, rotated, cols, a.block, kind, bits);
  else
    decode_all(stream, codes, scale, zeros, grid.data, y.data, cols, a.block, kind, bits);
  if (a.hadamard)
    rotate(stream, rotated, nullptr, y.data, y.shape[0], y.shape[1], cols, a.hadamard, false);
}

template void quantize(Stream, View<const float, 3>, View<const float, 2>, View<const uint32_t, 2>,
                       View<uint8_t, 3>, View<float, 2>, View<float, 2>, View<uint8_t, 3>,
                       View<uint8_t, 2>, CodesAttrs);
template void quantize(Stream, View<const bfloat16, 3>, View<const float, 2>,
                       View<const uint32_t, 2>, View<uint8_t, 3>, View<float, 2>, View<float, 2>,
                       View<uint8_t, 3>, View<uint8_t, 2>, CodesAttrs);
template void quantize_scaled(Stream, View<const float, 3>, View<const float, 2>,
                              View<const float, 2>, View<const float, 2>, View<const uint32_t, 2>,
                              View<uint8_t, 3>, View<uint8_t, 3>, View<uint8_t, 2>,
                              ScaledCodesAttrs);
template void quantize_scaled(Stream, View<const bfloat16, 3>, View<const float, 2>,
                              View<const float, 2>, View<const float, 2>, View<const uint32_t, 2>,
                              View<uint8_t, 3>, View<uint8_t, 3>, View<uint8_t, 2>,
                              ScaledCodesAttrs);
template void dequantize(Stream, View<const uint8_t, 3>, View<const float, 2>, View<const float, 2>,
                         View<const float, 2>, View<float, 3>, View<uint8_t, 2>, DequantizeAttrs);
template void dequantize(Stream, View<const uint8_t, 3>, View<const float, 2>, View<const float, 2>,
                         View<const float, 2>, View<bfloat16, 3>, View<uint8_t, 2>,
                         DequantizeAttrs);

}  // namespace bitlaw::cuda
