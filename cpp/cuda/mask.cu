#include "cuda/groups.cuh"
#include "cuda/mask.hpp"

namespace bitlaw::cuda {
namespace {

template <class T>
__device__ T kept(T x, bool keep) {
  return keep ? x : T{};
}

}  // namespace

template <class T>
void prune(Stream stream, View<const T, 2> x, View<const uint8_t, 2> mask, View<T, 2> y) {
  const int64_t cols = x.shape[1], bytes = bytes_of_bits(cols);
  const T* in = x.data;
  const uint8_t* bits = mask.data;
  T* out = y.data;
  if (aligned(in, cols) && aligned(out, cols)) {
    for_each(stream, x.shape[0] * bytes, "prune", [=] __device__(auto b) {
      const uint8_t byte = bits[b];
      Eight<T> v = reinterpret_cast<const Eight<T>*>(in)[b];
      for (int j = 0; j < 8; ++j) v.at[j] = kept(v.at[j], byte >> j & 1);
      reinterpret_cast<Eight<T>*>(out)[b] = v;
    });
    return;
  }
  for_each(stream, x.size(), "prune", [=] __device__(auto i) {
    using Index = decltype(i);
    const Index item = i / static_cast<Index>(cols), c = i % static_cast<Index>(cols);
    const uint8_t byte = bits[item * static_cast<Index>(bytes) + c / 8];
    out[i] = kept(in[i], byte >> (c % 8) & 1);
  });
}

// A thread makes one byte of the mask. An element is kept if fewer than n of its group go before
// it: the larger, and the equal ones with a lower index.
template <class T>
void nm_mask(Stream stream, View<const T, 3> x, View<uint8_t, 2> mask, NmAttrs a) {
  const int64_t cols = x.shape[2], length = x.item_size();
  check_nm(x, a);
  const int64_t bytes = bytes_of_bits(length), step = a.along_rows ? cols : 1;
  const T* in = x.data;
  uint8_t* out = mask.data;
  const int n = static_cast<int>(a.n), m = static_cast<int>(a.m);
  for_each(stream, mask.size(), "nm_mask", [=] __device__(auto b) {
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
