// Masks and their application. Bytes per element of b bytes: nm_mask b + 1 / 8, prune 2 b + 1 / 8.
#include "cuda/groups.cuh"
#include "cuda/mask.hpp"

namespace bitlaw::cuda {
namespace {

template <class T>
__device__ T kept(T x, bool keep) {
  return keep ? x : T{};
}

// Bit j of the group's mask: whether fewer than n of its keys go before key j, the larger and the
// equal ones with a lower index.
template <int m>
BITLAW_LEAF unsigned ranked(const int32_t* key, int stride, int n) {
  unsigned kept = 0;
  BITLAW_UNROLL
  for (int j = 0; j < m; ++j) {
    int before = 0;
    BITLAW_UNROLL
    for (int i = 0; i < m; ++i)
      before += i < j ? key[i * stride] >= key[j * stride] : key[i * stride] > key[j * stride];
    kept |= static_cast<unsigned>(before < n) << j;
  }
  return kept;
}

// Groups in registers: a thread reads eight columns, of m rows where groups run down.
template <class T, int m>
void nm_in_registers(Stream stream, View<const T, 3> x, uint8_t* mask, NmAttrs a) {
  const Groups<T> g(x, 1);
  const int n = static_cast<int>(a.n);
  if (!a.along_rows) {
    for_each(stream, g.chunks(), "nm_mask", [=] __device__(int64_t i) {
      float v[kChunk];
      int32_t key[kChunk];
      load(g.x + i * kChunk, kChunk, true, v);
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; ++j) key[j] = selection_key(v[j]);
      unsigned byte = 0;
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; j += m) byte |= ranked<m>(key + j, 1, n) << j;
      mask[i] = static_cast<uint8_t>(byte);
    });
    return;
  }
  for_each(stream, g.chunks() / m, "nm_mask", [=] __device__(int64_t i) {
    const Chunk c = chunk_at(g, i);  // of a band of m rows
    int32_t key[m * kChunk];
    BITLAW_UNROLL
    for (int r = 0; r < m; ++r) {
      float v[kChunk];
      load(g.x + (c.line * m + r) * g.cols + c.first, kChunk, true, v);
      BITLAW_UNROLL
      for (int j = 0; j < kChunk; ++j) key[r * kChunk + j] = selection_key(v[j]);
    }
    unsigned byte[m] = {};
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const unsigned kept = ranked<m>(key + j, kChunk, n);
      BITLAW_UNROLL
      for (int r = 0; r < m; ++r) byte[r] |= (kept >> r & 1) << j;
    }
    BITLAW_UNROLL
    for (int r = 0; r < m; ++r)
      mask[((c.line * m + r) * g.cols + c.first) / kChunk] = static_cast<uint8_t>(byte[r]);
  });
}

}  // namespace

template <class T>
void prune(Stream stream, View<const T, 2> x, View<const uint8_t, 2> mask, View<T, 2> y) {
  const int64_t cols = x.shape[1], bytes = bytes_of_bits(cols);
  const T* in = x.data;
  const uint8_t* bits = mask.data;
  T* out = y.data;
  if (aligned(in, cols) && aligned(out, cols)) {
    for_each(stream, x.shape[0] * bytes, "prune", [=] __device__(int64_t b) {
      const uint8_t byte = bits[b];
      Eight<T> v = reinterpret_cast<const Eight<T>*>(in)[b];
      for (int j = 0; j < 8; ++j) v.at[j] = kept(v.at[j], byte >> j & 1);
      reinterpret_cast<Eight<T>*>(out)[b] = v;
    });
    return;
  }
  for_each(stream, x.size(), "prune", [=] __device__(int64_t i) {
    const int64_t item = i / cols, c = i % cols;
    const uint8_t byte = bits[item * bytes + c / 8];
    out[i] = kept(in[i], byte >> (c % 8) & 1);
  });
}

// Any m and layout: a thread makes one byte of the mask.
template <class T>
void nm_mask(Stream stream, View<const T, 3> x, View<uint8_t, 2> mask, NmAttrs a) {
  const int64_t cols = x.shape[2], length = x.item_size();
  check_nm(x, a);
  if (a.m == 4 && aligned(x.data, cols)) return nm_in_registers<T, 4>(stream, x, mask.data, a);
  if (a.m == 8 && aligned(x.data, cols)) return nm_in_registers<T, 8>(stream, x, mask.data, a);
  const int64_t bytes = bytes_of_bits(length), step = a.along_rows ? cols : 1;
  const T* in = x.data;
  uint8_t* out = mask.data;
  const int n = static_cast<int>(a.n), m = static_cast<int>(a.m);
  for_each(stream, mask.size(), "nm_mask", [=] __device__(int64_t b) {
    const int64_t item = b / bytes, first = (b - item * bytes) * 8;
    const T* of_item = in + item * length;
    unsigned byte = 0;
    for (int j = 0; j < 8 && first + j < length; ++j) {
      const int64_t i = first + j;
      const int64_t along = i / step;  // index along the grouped axis, its lines concatenated
      const int place = static_cast<int>(along % m);
      const int32_t key = selection_key(to_float(of_item[i]));
      int before = 0;
      for (int other = 0; other < m; ++other) {
        const int32_t rival = selection_key(to_float(of_item[i + (other - place) * step]));
        before += rival > key || (rival == key && other < place);
      }
      byte |= static_cast<unsigned>(before < n) << j;
    }
    out[b] = static_cast<uint8_t>(byte);
  });
}

template void prune(Stream, View<const float, 2>, View<const uint8_t, 2>, View<float, 2>);
template void prune(Stream, View<const bfloat16, 2>, View<const uint8_t, 2>, View<bfloat16, 2>);
template void prune(Stream, View<const float16, 2>, View<const uint8_t, 2>, View<float16, 2>);
template void nm_mask(Stream, View<const float, 3>, View<uint8_t, 2>, NmAttrs);
template void nm_mask(Stream, View<const bfloat16, 3>, View<uint8_t, 2>, NmAttrs);
template void nm_mask(Stream, View<const float16, 3>, View<uint8_t, 2>, NmAttrs);

}  // namespace bitlaw::cuda
