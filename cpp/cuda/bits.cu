// Codes side by side and back, and uniform numbers. A thread packs 32 codes, two reads of sixteen
// bytes, to k words of four: 1 + k / 8 bytes per code. Uniform numbers: 4 bytes each, written.
#include "cuda/codes.hpp"
#include "cuda/launch.cuh"

namespace bitlaw::cuda {
namespace {

inline constexpr int kCodes = 32;  // of a thread

struct alignas(16) Codes {
  uint64_t eight[kCodes / 8];
};

bool __host__ __device__ constexpr multiple(uintptr_t address, int of) { return address % of == 0; }

template <int k>
void pack_all(Stream stream, View<const uint8_t, 2> codes, View<uint8_t, 2> packed) {
  const int64_t cols = codes.shape[1], bytes = packed.shape[1],
                units = (cols + kCodes - 1) / kCodes;
  const uint8_t* in = codes.data;
  uint8_t* out = packed.data;
  for_each(stream, codes.shape[0] * units, "pack_bits", [=] __device__(int64_t i) {
    const int64_t item = i / units, unit = i - item * units;
    const uint8_t* from = in + item * cols + unit * kCodes;
    uint8_t* to = out + item * bytes + unit * kCodes / 8 * k;
    const int64_t left = cols - unit * kCodes;
    const int n = static_cast<int>(left < kCodes ? left : kCodes);
    if (n == kCodes && multiple(reinterpret_cast<uintptr_t>(from), 16) &&
        multiple(reinterpret_cast<uintptr_t>(to), 4)) {
      const Codes all = *reinterpret_cast<const Codes*>(from);
      uint32_t word[k] = {};
      BITLAW_UNROLL
      for (int e = 0; e < kCodes / 8; ++e) {
        const uint64_t joined = join_codes<k>(all.eight[e]);
        BITLAW_UNROLL
        for (int b = 0; b < k; ++b) {
          const auto byte = static_cast<uint32_t>(joined >> (8 * b) & 0xff);
          word[(e * k + b) / 4] |= byte << ((e * k + b) % 4 * 8);
        }
      }
      BITLAW_UNROLL
      for (int w = 0; w < k; ++w) reinterpret_cast<uint32_t*>(to)[w] = word[w];
      return;
    }
    for (int first = 0; first < n; first += 8) {
      uint64_t eight = 0;
      for (int j = 0; j < 8 && first + j < n; ++j) eight |= uint64_t{from[first + j]} << (8 * j);
      const uint64_t joined = join_codes<k>(eight);
      const int64_t used = bytes_of_bits((n - first < 8 ? n - first : 8) * k);
      for (int b = 0; b < used; ++b)
        to[first / 8 * k + b] = static_cast<uint8_t>(joined >> (8 * b));
    }
  });
}

template <int k>
void unpack_all(Stream stream, View<const uint8_t, 2> packed, View<uint8_t, 2> codes) {
  const int64_t cols = codes.shape[1], bytes = packed.shape[1],
                units = (cols + kCodes - 1) / kCodes;
  const uint8_t* in = packed.data;
  uint8_t* out = codes.data;
  for_each(stream, codes.shape[0] * units, "unpack_bits", [=] __device__(int64_t i) {
    const int64_t item = i / units, unit = i - item * units;
    const uint8_t* from = in + item * bytes + unit * kCodes / 8 * k;
    uint8_t* to = out + item * cols + unit * kCodes;
    const int64_t left = cols - unit * kCodes;
    const int n = static_cast<int>(left < kCodes ? left : kCodes);
    if (n == kCodes && multiple(reinterpret_cast<uintptr_t>(from), 4) &&
        multiple(reinterpret_cast<uintptr_t>(to), 16)) {
      uint32_t word[k];
      BITLAW_UNROLL
      for (int w = 0; w < k; ++w) word[w] = reinterpret_cast<const uint32_t*>(from)[w];
      Codes all;
      BITLAW_UNROLL
      for (int e = 0; e < kCodes / 8; ++e) {
        uint64_t joined = 0;
        BITLAW_UNROLL
        for (int b = 0; b < k; ++b) {
          const uint32_t byte = word[(e * k + b) / 4] >> ((e * k + b) % 4 * 8) & 0xff;
          joined |= uint64_t{byte} << (8 * b);
        }
        all.eight[e] = split_codes<k>(joined);
      }
      *reinterpret_cast<Codes*>(to) = all;
      return;
    }
    for (int first = 0; first < n; first += 8) {
      uint64_t joined = 0;
      const int64_t used = bytes_of_bits((n - first < 8 ? n - first : 8) * k);
      for (int b = 0; b < used; ++b) joined |= uint64_t{from[first / 8 * k + b]} << (8 * b);
      const uint64_t eight = split_codes<k>(joined);
      for (int j = 0; j < 8 && first + j < n; ++j)
        to[first + j] = static_cast<uint8_t>(eight >> (8 * j));
    }
  });
}

struct alignas(16) Four {
  float at[4];
};
BITLAW_LEAF void store_four(const Four& four, int64_t n, float* u) {
  if (n >= 4 && multiple(reinterpret_cast<uintptr_t>(u), 16))
    *reinterpret_cast<Four*>(u) = four;
  else
    for (int j = 0; j < 4 && j < n; ++j) u[j] = four.at[j];
}

}  // namespace

void pack_bits(Stream stream, View<const uint8_t, 2> codes, View<uint8_t, 2> packed, BitsAttrs a) {
  with_bits(a.bits, [&]<int k>() { pack_all<k>(stream, codes, packed); });
}

void unpack_bits(Stream stream, View<const uint8_t, 2> packed, View<uint8_t, 2> codes,
                 BitsAttrs a) {
  with_bits(a.bits, [&]<int k>() { unpack_all<k>(stream, packed, codes); });
}

// A thread takes four counters: columns c .. c + 3 of a run's first half, and of its second.
void uniform(Stream stream, View<const uint32_t, 2> noise, View<float, 3> u, UniformAttrs a) {
  constexpr int64_t half = kRandomRun / 2, fours = half / 4;
  const int64_t cols = a.cols, rows = a.rows;
  const int64_t per_row = (cols + kRandomRun - 1) / kRandomRun * fours;
  const uint32_t* noises = noise.data;
  float* out = u.data;
  for_each(stream, u.shape[0] * rows * per_row, "uniform", [=] __device__(int64_t i) {
    const int64_t line = i / per_row, four = i - line * per_row;
    const int64_t item = line / rows;
    const uint32_t* of_item = noises + 3 * static_cast<int64_t>(item);
    const auto row = of_item[2] + static_cast<uint32_t>(line - item * rows);
    Four first, second;
    BITLAW_UNROLL
    for (int j = 0; j < 4; ++j) {
      uint32_t x = row, y = static_cast<uint32_t>(4 * four + j);
      threefry(of_item[0], of_item[1], x, y);
      first.at[j] = uniform_of(x), second.at[j] = uniform_of(y);
    }
    const int64_t column = static_cast<int64_t>(four / fours * kRandomRun + four % fours * 4);
    float* to = out + static_cast<int64_t>(line) * cols + column;
    store_four(first, cols - column, to);
    store_four(second, cols - column - half, to + half);
  });
}

}  // namespace bitlaw::cuda
