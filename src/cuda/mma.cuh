// Tensor-core instructions of sm_80 on float16 operands with float32 accumulators, and the loads
// that feed them. mma m16n8k16: a lane of an accumulator tile has rows lane/4 and lane/4 + 8, two
// neighbouring columns 2 (lane % 4) of each; two such tiles side by side, packed to 16 bits, are
// the A operand of the next product, which is contracted over these columns.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace gdn::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8 x 8 matrices of 16-bit elements, whose rows lanes 0-7, 8-15, ... name.
__device__ inline void load_matrices(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address));
}
__device__ inline void load_matrices_transposed(uint32_t address, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address));
}

// An 8 x 8 matrix of 16-bit elements, a row of it in four lanes, transposed.
__device__ inline uint32_t transpose_matrix(uint32_t m) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(m));
  return result;
}

struct MatrixA {  // 16 x 16
  uint32_t x[4];
};

__device__ inline void multiply_add(float (&c)[4], const MatrixA& a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t pack_halves(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&h);
}

// 16 bytes to shared memory, the bytes at `valid` and after it zero; with none valid nothing is
// read.
__device__ inline void copy_async(uint32_t to, const void* from, int valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The power of two at or below |x|, to bring x to [1, 2); 1 for zero and for what is not finite.
__device__ inline float power_of_two(float x) {
  const uint32_t exponent = __float_as_uint(x) & 0x7f800000u;
  return exponent == 0 || exponent == 0x7f800000u ? 1.0f : __uint_as_float(exponent);
}
// 1 over x, which must be a normal power of two, 2^-126 to 2^127: of the last alone the inverse is
// no normal number.
__device__ inline float inverse_power(float x) {
  const uint32_t bits = 0x7f000000u - __float_as_uint(x);
  return __uint_as_float(bits == 0 ? 0x00400000u : bits);
}

}  // namespace gdn::cuda
