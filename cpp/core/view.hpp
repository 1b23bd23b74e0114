// Non-owning, row-major arrays, one (View) or several (Views, Parts). The only array types in core.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// A leaf is inlined into whatever calls it: a loop of one instruction set (core/isa.hpp), a kernel.
#ifdef __CUDACC__
#define BITLAW_LEAF __host__ __device__ __forceinline__
#define BITLAW_INLINE
#define BITLAW_LOOP
#define BITLAW_CHUNK
#define BITLAW_UNROLL _Pragma("unroll")
#else
#define BITLAW_LEAF [[gnu::always_inline]] inline
// Of a lambda in a leaf, between parameters and body: out of line it would be compiled once, for
// the base set (that cost the maps a factor of 5 to 8).
#define BITLAW_INLINE __attribute__((always_inline))
// In place, input and output are the same memory, index by index: no dependence between iterations.
#define BITLAW_LOOP _Pragma("GCC ivdep")
// The same of a loop as long as a vector: unrolled, before it is vectorised, it would stay scalar.
#define BITLAW_CHUNK _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#define BITLAW_UNROLL _Pragma("GCC unroll 16")
#endif

namespace bitlaw {

template <class T, int R>
struct View {
  T* data;
  int64_t shape[R];

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t item_size() const {  // elements of one item, the leading axis
    int64_t n = 1;
    for (int i = 1; i < R; ++i) n *= shape[i];
    return n;
  }
  T* item(int64_t i) const { return data + i * item_size(); }
};

// Arrays of one kind and any shapes: all inputs that are left, or an output for each of those.
template <class T, int R>
struct Views {
  std::vector<View<T, R>> each;
};

// Arrays of one kind that differ in their leading axis only, as bytes: length[p] items of `width`.
struct Parts {
  const uint8_t* const* data;
  const int64_t* length;
  int64_t size, width;
};

// Shape and attribute errors. Become ValueError in Python and INVALID_ARGUMENT in XLA.
inline void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

// Attribute structs list their fields once: static constexpr auto fields() { return tuple{...}; }
template <class S, class T>
struct Field {
  const char* name;
  T S::* member;
};

}  // namespace bitlaw
