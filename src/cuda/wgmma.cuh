// Products of a warpgroup on Hopper: wgmma m64nNk16 of 16-bit operands with float32 accumulators.
// D [64, N] = A [64, 16] B [16, N] (+ D). A lane of warp w has rows 16 w + lane/4 and 8 further of
// D, of every 8 columns the two from 2 (lane % 4): d[4 n + 0, 1] in the first row, d[4 n + 2, 3] in
// the second. Two such tiles of 8 columns, packed to 16 bits, are the A operand (four registers) of
// a product that is contracted over them.
//
// Order: fence_wgmma, products, commit_wgmma; wait_wgmma before accumulators or A registers are
// touched again.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace gdn::cuda {

__device__ __forceinline__ void fence_wgmma() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_wgmma() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler may not move a use of these registers across this place.
template <int kCount>
__device__ __forceinline__ void pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(uint32_t (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

// The byte of element (row, column) in rows of 64 elements in the 128-byte swizzle.
__host__ __device__ constexpr int swizzled(int row, int column) {
  return row * 128 + (column / 8 ^ row % 8) * 16 + column % 8 * 2;
}

// An operand in shared memory in the 128-byte swizzle: rows of 64 elements (128 bytes), the 16-byte
// parts of row r exchanged by r % 8, groups of 8 rows 1024 bytes apart; the tile is aligned to
// 1024.
//
// K-major (a row holds the contracted axis): `leading` is not used, the next 16 of K are 32 bytes
// on. MN-major (a row holds 64 elements along M or N, and rows follow the contracted axis):
// `leading` is the distance in bytes to the next 64 along M or N, the next 16 of K are 2048 bytes
// on.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, int leading = 16) {
  constexpr uint64_t kGroup = 1024, kSwizzle128 = uint64_t{1} << 62;
  return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
         (kGroup >> 4) << 32 | kSwizzle128;
}
// A K-major operand in the 32-byte swizzle: rows of 16 elements (32 bytes), which are one step of
// K, the two 16-byte parts of row r exchanged by r / 4 % 2, groups of 8 rows 256 bytes apart;
// aligned to 256.
__device__ __forceinline__ uint64_t narrow_descriptor(uint32_t address) {
  constexpr uint64_t kGroup = 256, kSwizzle32 = uint64_t{3} << 62;
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | (kGroup >> 4) << 32 | kSwizzle32;
}
// The descriptor some bytes on.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

// What B is in shared memory.
enum class Major : int { kK = 0, kMN = 1 };

#define GDN_WGMMA_D32                \
  "{"                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"  \
  "}"
#define GDN_WGMMA_OUT32                                                                           \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define GDN_WGMMA_D64                \
  "{"                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39," \
  "%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55," \
  "%56,%57,%58,%59,%60,%61,%62,%63"  \
  "}"
#define GDN_WGMMA_OUT64                                                                           \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),  \
      "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),  \
      "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),  \
      "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),  \
      "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])

// The one of GDN_WGMMA's two instructions for operands of T.
#define GDN_WGMMA_BY_TYPE(T)                        \
  if constexpr (std::is_same_v<T, __nv_bfloat16>) { \
    GDN_WGMMA("bf16");                              \
  } else {                                          \
    static_assert(std::is_same_v<T, __half>);       \
    GDN_WGMMA("f16");                               \
  }

// A and B in shared memory, both K-major.
template <class T>
__device__ __forceinline__ void multiply_64x64(float (&d)[32], uint64_t a, uint64_t b, bool add) {
#define GDN_WGMMA(type)                                                             \
  asm volatile(                                                                     \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"                              \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " GDN_WGMMA_D32 \
      ", %32, %33, add, 1, 1, 0, 0;\n}"                                             \
      : GDN_WGMMA_OUT32                                                             \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)))
  GDN_WGMMA_BY_TYPE(T)
#undef GDN_WGMMA
}

// A in registers; D [64, 64].
template <class T, Major kB>
__device__ __forceinline__ void multiply_64x64(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                               bool add) {
#define GDN_WGMMA(type)                                                                 \
  asm volatile(                                                                         \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"                                  \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " GDN_WGMMA_D32     \
      ", {%32,%33,%34,%35}, %36, add, 1, 1, %38;\n}"                                    \
      : GDN_WGMMA_OUT32                                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), \
        "n"(static_cast<int>(kB)))
  GDN_WGMMA_BY_TYPE(T)
#undef GDN_WGMMA
}

// A in registers; D [64, 128].
template <class T, Major kB>
__device__ __forceinline__ void multiply_64x128(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                                bool add) {
#define GDN_WGMMA(type)                                                                 \
  asm volatile(                                                                         \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"                                  \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " GDN_WGMMA_D64    \
      ", {%64,%65,%66,%67}, %68, add, 1, 1, %70;\n}"                                    \
      : GDN_WGMMA_OUT64                                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), \
        "n"(static_cast<int>(kB)))
  GDN_WGMMA_BY_TYPE(T)
#undef GDN_WGMMA
}

#undef GDN_WGMMA_BY_TYPE
#undef GDN_WGMMA_D32
#undef GDN_WGMMA_OUT32
#undef GDN_WGMMA_D64
#undef GDN_WGMMA_OUT64

}  // namespace gdn::cuda
