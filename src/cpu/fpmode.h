// The floating-point mode while a task runs, the same on caller and pool threads, so that the
// result does not depend on the mode a thread came with.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gdn::cpu {

// Sets a mode and brings the thread's own back.
class FloatingPointMode {
 public:
  FloatingPointMode(const FloatingPointMode&) = delete;
  FloatingPointMode& operator=(const FloatingPointMode&) = delete;

 protected:
#if defined(__x86_64__)
  // All exceptions masked, rounding to nearest.
  explicit FloatingPointMode(bool flush) : saved_(_mm_getcsr()) {
    _mm_setcsr(0x1f80 | (flush ? 0x8040 : 0));  // flush to zero, denormals are zero
  }
  ~FloatingPointMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  explicit FloatingPointMode(bool flush) {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{flush} << 24));
  }
  ~FloatingPointMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  explicit FloatingPointMode(bool) {}
  ~FloatingPointMode() {}
#endif
};

// Of the kernels.
class FlushDenormals : FloatingPointMode {
 public:
  FlushDenormals() : FloatingPointMode(true) {}
};

// Of the reference.
class KeepDenormals : FloatingPointMode {
 public:
  KeepDenormals() : FloatingPointMode(false) {}
};

}  // namespace gdn::cpu
