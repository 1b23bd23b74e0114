// XLA runs CPU handlers with flush-to-zero and denormals-are-zero on. Inside a kernel subnormals
// are IEEE: this guard saves the control word, clears both bits and restores them.
#pragma once
#include <cstdint>

namespace bitlaw {

class IeeeSubnormals {
 public:
#if defined(__x86_64__)
  IeeeSubnormals() : saved_(__builtin_ia32_stmxcsr()) {
    __builtin_ia32_ldmxcsr(saved_ & ~0x8040u);  // FTZ is bit 15, DAZ bit 6
  }
  ~IeeeSubnormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  uint32_t saved_;
#elif defined(__aarch64__)
  IeeeSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    const uint64_t clear = saved_ & ~(uint64_t{1} << 24);  // FZ
    asm volatile("msr fpcr, %0" : : "r"(clear));
  }
  ~IeeeSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
 public:
  IeeeSubnormals(const IeeeSubnormals&) = delete;
  IeeeSubnormals& operator=(const IeeeSubnormals&) = delete;
};

}  // namespace bitlaw
