// What Hopper (sm_90a) adds to a kernel besides its matrix instructions (wgmma.cuh): barriers in
// shared memory that count bytes too, bulk copies, stmatrix.
// Shared memory is named by 32-bit addresses (shared_address of mma.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/mma.cuh"

namespace gdn::cuda {

// --- Barriers: 8 bytes of shared memory. A phase ends when all arrivals came and all bytes that
// were announced; a wait names the parity of the phase it waits for, the first being 0.

__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After the last init_barrier, before the threads' barrier that lets others use them.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end_%=;\n"
      "bra again_%=;\n"
      "end_%=:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// The same of two: together they take as long as one.
struct BarrierPhase {
  uint32_t barrier, parity;
};
__device__ __forceinline__ void wait_barriers(BarrierPhase a, BarrierPhase b) {
  asm volatile(
      "{\n"
      ".reg .pred a, b;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 a, [%0], %1;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 b, [%2], %3;\n"
      "and.pred a, a, b;\n"
      "@a bra end_%=;\n"
      "bra again_%=;\n"
      "end_%=:\n"
      "}" ::"r"(a.barrier),
      "r"(a.parity), "r"(b.barrier), "r"(b.parity)
      : "memory");
}

// --- Clusters: blocks that run at the same time and reach each other's shared memory.

__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
__device__ __forceinline__ int cluster_size() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}
// Until all threads of all blocks are here. Of memory it orders nothing.
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
}
// From an address in this block's shared memory to the same place in that of another block of the
// cluster, for arrive_in_cluster. On this GPU it is the same for all addresses: a block's number is
// a part of them.
__device__ __forceinline__ uint32_t cluster_distance(uint32_t address, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there - address;
}
// At a barrier of a block of the cluster. Of what this thread did it orders no more than an arrival
// in its own block: with the scope of a cluster it would first wait for all that the thread has in
// flight.
__device__ __forceinline__ void arrive_in_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Threads of some warps, by the number of one of the 16 hardware barriers; 0 is __syncthreads'.
template <int kThreads>
__device__ __forceinline__ void sync_threads(int number) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(kThreads) : "memory");
}

// From here on a thread has so many registers, more or fewer than before; all warps of a warpgroup
// (threads 128 n and on) come to this. To take more waits until the block has them: all together
// may not come to more than it began with.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void leave_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- Flags in global memory: what a thread wrote before it raised one, or knows to be written, is
// seen by who has found it raised; with a fence_async_proxy_of_all on either side by bulk copies,
// and what they wrote, too.

__device__ __forceinline__ void raise(uint32_t* flag) {
  asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}
__device__ __forceinline__ bool is_raised(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value != 0;
}
// By every thread that wrote, before they meet and one raises a flag; and by every thread that
// found flags raised, before it and those that it then meets start copies.
__device__ __forceinline__ void fence_async_proxy_of_all() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

// --- Bulk copies; 16-byte aligned, of a multiple of 16 bytes.

// Shared memory that this thread wrote, or knows to be written (cp.async too), is seen by wgmma and
// by bulk copies that are started after a following barrier.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void copy_bulk_in(uint32_t to, const void* from, int bytes,
                                             uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// To the same place in all blocks of the cluster, whose barriers each count the bytes.
__device__ __forceinline__ void copy_bulk_in_all(uint32_t to, const void* from, int bytes,
                                                 uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}
__device__ __forceinline__ void copy_bulk_out(void* to, uint32_t from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_bulk() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kPending of this thread's groups of copies out have still to be read from shared
// memory, or to be written.
template <int kPending>
__device__ __forceinline__ void wait_bulk_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_bulk() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Four 8 x 8 matrices of 16-bit elements, whose rows lanes 0-7, 8-15, ... name.

__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t m0, uint32_t m1,
                                               uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}
__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t m0,
                                                          uint32_t m1, uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}
// The same under a condition of the warp, and a store of four floats under one: instructions that
// do nothing where it does not hold, for a jump round them takes as long as thirty.
__device__ __forceinline__ void store_matrices_transposed_if(bool there, uint32_t address,
                                                             uint32_t m0, uint32_t m1, uint32_t m2,
                                                             uint32_t m3) {
  asm volatile(
      "{.reg .pred p; setp.ne.u32 p, %0, 0;\n"
      "@p stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%1], {%2,%3,%4,%5};}" ::"r"(
          static_cast<uint32_t>(there)),
      "r"(address), "r"(m0), "r"(m1), "r"(m2), "r"(m3)
      : "memory");
}
__device__ __forceinline__ void store_if(bool there, uint32_t address, float a, float b, float c,
                                         float d) {
  asm volatile(
      "{.reg .pred p; setp.ne.u32 p, %0, 0;\n"
      "@p st.shared.v4.f32 [%1], {%2,%3,%4,%5};}" ::"r"(static_cast<uint32_t>(there)),
      "r"(address), "f"(a), "f"(b), "f"(c), "f"(d)
      : "memory");
}
// Two, named by lanes 0-15.
__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t m0,
                                                          uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(address),
               "r"(m0), "r"(m1)
               : "memory");
}

}  // namespace gdn::cuda
