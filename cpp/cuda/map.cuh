// A thread's part of a quantization: eight elements of a row, one byte of the mask, as many bytes
// of codes as a code has bits.
#pragma once
#include "core/codes.hpp"
#include "cuda/groups.cuh"

namespace bitlaw::cuda {

// Where results go, and what the map needs besides elements and scales.
struct Operands {
  const float *grid, *scale, *zero;  // zero: null unless affine
  const uint32_t* noise;             // null unless stochastic
  uint8_t *mask, *codes;             // null with the identity; null where values are written
  int64_t row_bytes;                 // of codes
  float least;                       // see Above
  float threshold;                   // of the other directed roundings
  int bits;                          // of a code
  Kind kind;
  Element element;
  Estimator estimator;
  bool pruned;

  Operands(const Choices& c, int64_t cols, const float* grid, const float* scale, const float* zero,
           const uint32_t* noise, uint8_t* mask, uint8_t* codes)
      : grid(grid),
        scale(scale),
        zero(c.kind == Kind::affine ? zero : nullptr),
        noise(c.rounding == Rounding::stochastic ? noise : nullptr),
        mask(c.estimator == Estimator::identity ? nullptr : mask),
        codes(codes),
        row_bytes(bytes_of_bits(cols * c.bits)),
        least(c.rounding == Rounding::toward_zero ? 0.0f : -1.0f),
        threshold(c.rounding == Rounding::away ? 0.0f : kNever),
        bits(static_cast<int>(c.bits)),
        kind(c.kind),
        element(element_of(c.kind, c.scaling)),
        estimator(c.estimator),
        pruned(c.pruned) {}
};

// What the elements of a group share.
struct Step {
  float size, by, shift;
};
BITLAW_LEAF Step step_of(Element element, float scale, float zero) {
  const float by = element == Element::divided ? divisor_of(scale) : inverse_of(scale);
  return {scale, unless_nan(by, zero), zero};
}

// The thresholds of a chunk; see core/random.hpp.
struct ChunkNoise {
  uint32_t key0, key1, row, counter;
  bool second;

  BITLAW_LEAF ChunkNoise(const uint32_t* noise, int64_t item, int64_t row, int64_t first) {
    constexpr uint32_t half = kRandomRun / 2;
    const auto halves = static_cast<uint32_t>(first / half);  // chunks do not cross halves
    counter = halves / 2 * half + static_cast<uint32_t>(first % half);
    second = halves % 2;
    key0 = noise ? noise[3 * item] : 0;
    key1 = noise ? noise[3 * item + 1] : 0;
    this->row = (noise ? noise[3 * item + 2] : 0) + static_cast<uint32_t>(row);
  }
  BITLAW_LEAF float at(int j) const {
    uint32_t a = row, b = counter + static_cast<uint32_t>(j);
    threefry(key0, key1, a, b);
    return uniform_of(second ? b : a);
  }
};

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

// The code of a level; what EncodeLevels does to many.
BITLAW_LEAF int32_t code_of(Kind kind, float level, float zero, const Grid& g, int bits) {
  if (kind == Kind::nf4) return EncodeLevels::nf4(level);
  if (kind == Kind::floating) {
    const int32_t mantissa = 127 - (bits_of(g.epsilon()) >> 23);
    return EncodeLevels::minifloat(level, mantissa, bits_of(g.smallest_normal()),
                                   1.0f / (g.smallest_normal() * g.epsilon()), 1 << (bits - 1));
  }
  const float mid_rise = g.offset() == 0.0f ? 0.0f : g.qmin() + g.offset();
  return EncodeLevels::whole(level - (kind == Kind::affine ? g.qmin() - zero : mid_rise));
}

// The steps of a chunk's elements: one, or that of each element's group.
struct Steps {
  Step step;
  const float *scale, *zero;  // of the group; not read if there is one step
  int left, block;            // elements to the end of the group, and of a group: a chunk at most
  bool one;

  BITLAW_LEAF Steps(Step step) : step(step), scale(), zero(), left(), block(), one(true) {}
  BITLAW_LEAF Steps(Element element, const float* scales, const float* zeros, int64_t first,
                    int64_t columns, bool one)
      : one(one) {
    const int64_t group = columns == 1 ? first : first / columns;
    const int64_t rest = (group + 1) * columns - first;
    scale = scales + group;
    zero = zeros ? zeros + group : nullptr;
    left = static_cast<int>(rest < kChunk ? rest : kChunk);
    block = static_cast<int>(columns < kChunk ? columns : kChunk);
    step = step_of(element, *scale, zero ? *zero : 0.0f);
  }
  BITLAW_LEAF void next(Element element) {
    if (one || left-- > 0) return;
    left = block - 1;
    ++scale;
    zero = zero ? zero + 1 : nullptr;
    step = step_of(element, *scale, zero ? *zero : 0.0f);
  }
};

// Elements to values on the grid, or to codes, one per byte of `codes`; `bits` are the mask's.
struct MappedChunk {
  unsigned bits;
  uint64_t codes;
};

// kElement is for nearest rounding only.
template <Element kElement, bool kNearest>
BITLAW_LEAF MappedChunk map_chunk(float* v, int n, int64_t item, int64_t row, int64_t first,
                                  const Grid& g, Steps steps, const Operands& o) {
  const Element element = kNearest ? kElement : o.element;
  const Kind kind = !kNearest                      ? o.kind
                    : kElement == Element::uniform ? Kind::uniform
                    : kElement == Element::affine  ? Kind::affine
                    : kElement == Element::nf4     ? Kind::nf4
                                                   : Kind::floating;
  const Pass pass = pass_of(o.estimator, kind, g);
  const ChunkNoise noise(kNearest ? nullptr : o.noise, item, row, first);
  MappedChunk out{0, 0};
  BITLAW_UNROLL
  for (int j = 0; j < kChunk; ++j) {  // those beyond n are zeros
    if (j < n) steps.next(element);
    const float shift = element == Element::affine ? steps.step.shift : 0.0f;
    Mapped m;
    if constexpr (kNearest) {
      m = map_element<kElement>(v[j], steps.step.by, shift, g, NearestEven{});
    } else {
      const float u = o.noise ? noise.at(j) : o.threshold;
      m = map_above(element, v[j], steps.step.by, shift, g, Above{u, o.least});
    }
    if (o.mask) out.bits |= static_cast<unsigned>(passes(m, pass, shift)) << j;
    if (o.codes) {
      const int32_t code = code_of(kind, m.level, shift, g, o.bits);
      out.codes |= static_cast<uint64_t>(static_cast<uint8_t>(code)) << (8 * j);
    } else {
      v[j] = o.pruned && v[j] == 0.0f ? 0.0f : m.level * steps.step.size;
    }
  }
  if (n < kChunk) out.bits &= (1u << n) - 1, out.codes &= (uint64_t{1} << (8 * n)) - 1;
  return out;
}

// The codes of a chunk, k bits each, where `to` is a multiple of k bytes into a row.
template <int k>
BITLAW_LEAF void store_codes(uint64_t codes, int n, uint8_t* to) {
  using Unit = WordOf<(k % 8 == 0 ? 8 : k % 4 == 0 ? 4 : k % 2 == 0 ? 2 : 1)>;
  const uint64_t joined = join_codes<k>(codes);
  if (n == kChunk && reinterpret_cast<uintptr_t>(to) % sizeof(Unit) == 0) {
    BITLAW_UNROLL
    for (int i = 0; i < k / static_cast<int>(sizeof(Unit)); ++i)
      reinterpret_cast<Unit*>(to)[i] = static_cast<Unit>(joined >> (8 * sizeof(Unit) * i));
  } else {
    for (int i = 0; i < bytes_of_bits(n * k); ++i) to[i] = static_cast<uint8_t>(joined >> (8 * i));
  }
}

// What was mapped to where it goes: values or codes, and the mask.
template <class T>
BITLAW_LEAF void store_chunk(const float* v, const MappedChunk& m, const Chunk& c, int64_t cols,
                             bool whole, T* y, const Operands& o) {
  if (o.mask)
    o.mask[c.line * bytes_of_bits(cols) + c.first / kChunk] = static_cast<uint8_t>(m.bits);
  if (!o.codes) return store(v, c.n, whole, y + c.line * cols + c.first);
  uint8_t* to = o.codes + c.line * o.row_bytes + c.first / kChunk * o.bits;
  switch (o.bits) {
    case 1:
      return store_codes<1>(m.codes, c.n, to);
    case 2:
      return store_codes<2>(m.codes, c.n, to);
    case 3:
      return store_codes<3>(m.codes, c.n, to);
    case 4:
      return store_codes<4>(m.codes, c.n, to);
    case 5:
      return store_codes<5>(m.codes, c.n, to);
    case 6:
      return store_codes<6>(m.codes, c.n, to);
    case 7:
      return store_codes<7>(m.codes, c.n, to);
    default:
      return store_codes<8>(m.codes, c.n, to);
  }
}

}  // namespace bitlaw::cuda
