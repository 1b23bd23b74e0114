// Run-time choice of the instruction set, for loops written once and vectorised by the compiler.
//
//     struct Scale {                                  // a leaf: raw pointers and numbers only
//       BITLAW_LEAF static void run(const float* x, float* y, int64_t n, float a) { ... }
//     };
//     on_isa<Scale>(x, y, n, a);
//
// The leaf is inlined into one function per instruction set. Whatever is not inlined is compiled
// once, for the base set, so no code can leak from a machine that has AVX-512 to one that has not.
// BITLAW_ISA=base|avx2|avx512|avx512bf16 asks for a lower set; every set gives the same bits.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <type_traits>
#include <utility>

#include "core/view.hpp"

namespace bitlaw {

enum class Isa { base, avx2, avx512, avx512bf16 };
inline constexpr const char* kIsaNames[] = {"base", "avx2", "avx512", "avx512bf16"};

inline Isa supported_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
  if (__builtin_cpu_supports("avx2")) return Isa::avx2;
#endif
  return Isa::base;
}

inline Isa requested_isa() {
  const char* text = std::getenv("BITLAW_ISA");
  const Isa best = supported_isa();
  if (!text || !*text) return best;
  const std::string name = text;
  const auto at = std::find(std::begin(kIsaNames), std::end(kIsaNames), name);
  require(at != std::end(kIsaNames),
          "BITLAW_ISA must be base, avx2, avx512 or avx512bf16, got " + name);
  const auto isa = static_cast<Isa>(at - std::begin(kIsaNames));
  require(isa <= best, "BITLAW_ISA asks for an instruction set this machine lacks: " + name);
  return isa;
}

inline Isa active_isa() {
  static const Isa isa = requested_isa();
  return isa;
}

inline const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

// A leaf that gains from instructions the compiler does not find has a second form, for avx512bf16:
// true, with a run() marked BITLAW_AVX512BF16 (core/avx512*.hpp).
template <class Leaf>
struct OwnForm : std::false_type {};

#if defined(__x86_64__)
#define BITLAW_AVX512BF16 \
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")]]
template <class Leaf, class... A>
BITLAW_AVX512BF16 void run_avx512bf16(A... a) {
  OwnForm<Leaf>::run(a...);
}
template <class Leaf, class... A>
[[gnu::target("avx2,prefer-vector-width=256")]] void run_avx2(A... a) {
  Leaf::run(a...);
}
template <class Leaf, class... A>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void run_avx512(
    A... a) {
  Leaf::run(a...);
}
#endif
template <class Leaf, class... A>
void run_base(A... a) {
  Leaf::run(a...);
}

template <class Leaf, class... A>
inline void on_isa(A... a) {
#if defined(__x86_64__)
  switch (active_isa()) {
    case Isa::avx512bf16:
      if constexpr (OwnForm<Leaf>::value) return run_avx512bf16<Leaf>(a...);
      [[fallthrough]];
    case Isa::avx512:
      return run_avx512<Leaf>(a...);
    case Isa::avx2:
      return run_avx2<Leaf>(a...);
    case Isa::base:
      break;
  }
#endif
  run_base<Leaf>(a...);
}

}  // namespace bitlaw
