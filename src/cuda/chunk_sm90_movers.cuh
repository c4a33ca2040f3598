// The warpgroup that moves: tokens and records to shared memory two chunks ahead of the state, k to
// float16 once its products with the state are done, and outputs to memory.
#pragma once

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

// Which 16-byte pieces of rows of `kRow` pieces a thread has: the same piece of every kStep-th row.
template <int kRow>
struct Pieces {
  static constexpr int kStep = kGroup / kRow;
  static constexpr int kCount = kChunk / kStep;
  int row, piece;

  __device__ explicit Pieces(int thread) : row(thread / kRow), piece(thread % kRow) {}
  // Where the first one lies in a tile, or in tiles side by side; those after it follow every
  // kStep rows, which have its swizzle (kStep is a multiple of 8).
  __device__ uint32_t offset() const {
    return static_cast<uint32_t>(piece / 8 * kTileBytes + swizzled(row, piece % 8 * 8));
  }
  static constexpr uint32_t kStepBytes = kStep * 128;
  static_assert(kStep % 8 == 0);
};

// The rows of one tensor, from an element of each on.
template <class T>
struct Rows {
  const T* first;  // of the sequence's first token
  int64_t stride;
  bool aligned;

  __device__ Rows(const TokenTensor& x, const Sequence& s, int64_t head, int column)
      : first(reinterpret_cast<const T*>(x.at(s, 0, head)) + column),
        stride(x.token_stride),
        aligned(is_aligned(first, 16) && stride % 8 == 0) {}
};

__device__ __forceinline__ void load_piece(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void store_piece(uint32_t address, const uint32_t (&x)[4]) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

template <class T, int K>
struct Mover {
  using KPieces = Pieces<K / 8>;
  using VPieces = Pieces<kColumns / 8>;

  Shared<K>& m;
  const Sequence& s;
  Rows<T> k, q, v, out;
  const std::byte* records;  // of the first chunk
  int64_t record_stride;     // bytes to the next chunk's
  int thread = static_cast<int>(threadIdx.x) % kGroup;

  // Rows t0 .. t0 + kChunk - 1 to a tile, zeros from the sequence's end on.
  template <class P>
  __device__ void load_rows(const Rows<T>& x, int64_t t0, const std::byte* tile) const {
    const P mine(thread);
    uint32_t to = shared_address(tile) + mine.offset();
    const T* from = x.first + (t0 + mine.row) * x.stride + mine.piece * 8;
    const int left = valid_tokens(t0) - mine.row;
    if (x.aligned) {
#pragma unroll
      for (int i = 0; i < P::kCount; ++i) {
        const bool valid = i * P::kStep < left;
        copy_async(to + i * P::kStepBytes, valid ? from : x.first, valid ? 16 : 0);
        from += P::kStep * x.stride;
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < P::kCount; ++i) {
        uint32_t bits[4] = {};
        if (i * P::kStep < left) load_unaligned(from, bits);
        store_piece(to + i * P::kStepBytes, bits);
        from += P::kStep * x.stride;
      }
    }
  }
  __device__ static void load_unaligned(const T* from, uint32_t (&bits)[4]) {
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) bits[i] = halves[2 * i] | uint32_t{halves[2 * i + 1]} << 16;
  }
  __device__ int valid_tokens(int64_t t0) const {
    const int64_t left = s.length - t0;
    return static_cast<int>(left < kChunk ? left : kChunk);
  }

  __device__ void load(int64_t chunk, int stage) const {
    Stage<K>& to = m.stage[stage];
    if (thread == 0) {
      arrive_expecting(shared_address(&m.full[stage]), sizeof(HeadRecord));
      copy_bulk_in(shared_address(&to.record), records + chunk * record_stride, sizeof(HeadRecord),
                   shared_address(&m.full[stage]));
    }
    load_rows<KPieces>(k, chunk * kChunk, to.k);
    load_rows<VPieces>(v, chunk * kChunk, to.v);
    load_rows<KPieces>(q, chunk * kChunk, to.q);
  }

  // k times its rows' powers of two, in float16; every thread its own pieces.
  __device__ void convert_k(Stage<K>& stage) const {
    const KPieces mine(thread);
    const uint32_t at = shared_address(stage.k) + mine.offset();
#pragma unroll
    for (int i = 0; i < KPieces::kCount; ++i) {
      const float power = stage.record.k_power[mine.row + i * KPieces::kStep];
      uint32_t bits[4];
      load_piece(at + i * KPieces::kStepBytes, bits);
#pragma unroll
      for (uint32_t& pair : bits) {
        const float2 x = unpack_pair<T>(pair);
        pair = pack_halves(x.x * power, x.y * power);
      }
      store_piece(at + i * KPieces::kStepBytes, bits);
    }
  }

  __device__ void store_out(int64_t chunk) const {
    const VPieces mine(thread);
    const uint32_t from = shared_address(m.out) + mine.offset();
    uint32_t bits[VPieces::kCount][4];
#pragma unroll
    for (int i = 0; i < VPieces::kCount; ++i) load_piece(from + i * VPieces::kStepBytes, bits[i]);
    arrive(shared_address(&m.out_empty));
    T* to = const_cast<T*>(out.first) + (chunk * kChunk + mine.row) * out.stride + mine.piece * 8;
    const int left = valid_tokens(chunk * kChunk) - mine.row;
#pragma unroll
    for (int i = 0; i < VPieces::kCount; ++i) {
      if (i * VPieces::kStep < left) write_piece(to, bits[i]);
      to += VPieces::kStep * out.stride;
    }
  }
  __device__ void write_piece(T* to, const uint32_t (&bits)[4]) const {
    if (out.aligned) {
      *reinterpret_cast<uint4*>(to) = {bits[0], bits[1], bits[2], bits[3]};
      return;
    }
    auto* halves = reinterpret_cast<uint16_t*>(to);
#pragma unroll
    for (int i = 0; i < 8; ++i) halves[i] = static_cast<uint16_t>(bits[i / 2] >> i % 2 * 16);
  }

  // What this thread has copied is there, for wgmma too.
  template <int kPending>
  __device__ void hand_over(int stage) const {
    wait_for_copies<kPending>();
    fence_async_proxy();
    arrive(shared_address(&m.full[stage]));
  }

  __device__ void run(int64_t chunks) const {
    Cursor loading, ready, working;
    const auto load_next = [&](int64_t chunk) {
      if (chunk < chunks) {
        if (chunk >= kStages)
          wait_barrier(shared_address(&m.empty[loading.stage]), loading.phase ^ 1);
        load(chunk, loading.stage);
        loading.advance();
      }
      commit_copies();
    };
    const auto hand_over_next = [&](int64_t chunk) {
      if (chunk >= chunks) return;
      hand_over<1>(ready.stage);
      ready.advance();
    };
    load_next(0);
    load_next(1);
    hand_over_next(0);
    for (int64_t c = 0; c < chunks; ++c) {
      Stage<K>& stage = m.stage[working.stage];
      wait_barrier(shared_address(&m.full[working.stage]), working.phase);  // the record
      wait_barrier(shared_address(&m.k_read[working.stage]), working.phase);
      convert_k(stage);
      fence_async_proxy();
      arrive(shared_address(&m.k_ready[working.stage]));
      if (c > 0) {
        wait_barrier(shared_address(&m.out_full), (c - 1) & 1);
        store_out(c - 1);
      }
      load_next(c + 2);
      hand_over_next(c + 1);
      working.advance();
    }
    if (chunks > 0) {
      wait_barrier(shared_address(&m.out_full), (chunks - 1) & 1);
      store_out(chunks - 1);
    }
  }
};

}  // namespace gdn::cuda::sm90
