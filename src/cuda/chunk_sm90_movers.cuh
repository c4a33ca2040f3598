// The warpgroups that bring: tokens and records to shared memory, two chunks ahead of the state;
// and k to float16, once its products with the state are done. Whole chunks of aligned tensors are
// moved by the copy engine, which one thread tells; the last tokens of a sequence, after which
// nothing may be read, and tensors that are not aligned by all threads.
#pragma once

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/chunk_sm90_stages.h"
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

// Tile 64 elements from `element` on, of 64 tokens from `token` on.
struct TilePosition {
  int element, head, token, batch;
};
__device__ __forceinline__ void load_tile(const CUtensorMap& map, const TilePosition& at,
                                          uint32_t to, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3,%4,%5,%6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(at.element), "r"(at.head), "r"(at.token), "r"(at.batch)
      : "memory");
}
template <class T, int K>
struct Loader {
  using KPieces = Pieces<K / 8>;
  using VPieces = Pieces<kColumns / 8>;

  Shared<K>& m;
  const TokenMaps& maps;
  const Sequence& s;
  int qk_head, value_head, v0;
  Rows<T> k, q, v;
  const std::byte* records;  // of the first chunk
  int64_t record_stride;     // bytes to the next chunk's
  int thread = static_cast<int>(threadIdx.x) % kGroup;

  __device__ bool leads() const { return thread == 0; }
  __device__ static void sync() { sync_threads<kGroup>(1); }
  __device__ int valid_tokens(int64_t chunk) const {
    const int64_t left = s.length - chunk * kChunk;
    return static_cast<int>(left < kChunk ? left : kChunk);
  }
  __device__ bool by_engine(int64_t chunk) const {
    return maps.given && valid_tokens(chunk) == kChunk;
  }
  __device__ TilePosition position(int64_t chunk, int head, int element) const {
    return {element, head, static_cast<int>(s.begin + chunk * kChunk), static_cast<int>(s.batch)};
  }

  // ---- Loads

  __device__ void load(int64_t chunk, const Cursor& cursor) const {
    Stage<K>& to = m.stage[cursor.stage];
    const uint32_t full = shared_address(&m.full[cursor.stage]);
    const uint32_t empty = shared_address(&m.empty[cursor.stage]);
    const bool used = chunk >= kStages;
    if (by_engine(chunk)) {
      if (!leads()) return;
      if (used) wait_barrier(empty, cursor.phase ^ 1);
      constexpr int kTiles = 2 * Stage<K>::kRowTiles + 1;
      arrive_expecting(full, sizeof(HeadRecord) + kTiles * kTileBytes);
      const auto rows = [&](const CUtensorMap& map, const std::byte* tiles) {
#pragma unroll
        for (int i = 0; i < Stage<K>::kRowTiles; ++i) {
          load_tile(map, position(chunk, qk_head, i * 64), shared_address(tiles) + i * kTileBytes,
                    full);
        }
      };
      rows(maps.k, to.k);
      rows(maps.q, to.q);
      load_tile(maps.v, position(chunk, value_head, v0), shared_address(to.v), full);
      load_record(to, chunk, full);
      return;
    }
    if (used) wait_barrier(empty, cursor.phase ^ 1);
    if (leads()) {
      expect_bytes(full, sizeof(HeadRecord));
      load_record(to, chunk, full);
    }
    load_rows<KPieces>(k, chunk, to.k);
    load_rows<VPieces>(v, chunk, to.v);
    load_rows<KPieces>(q, chunk, to.q);
    commit_copies();
    wait_for_copies<0>();
    fence_async_proxy();
    sync();
    if (leads()) arrive(full);
  }
  __device__ void load_record(Stage<K>& to, int64_t chunk, uint32_t full) const {
    copy_bulk_in(shared_address(&to.record), records + chunk * record_stride, sizeof(HeadRecord),
                 full);
  }
  // Rows of a chunk to tiles, zeros from the sequence's end on.
  template <class P>
  __device__ void load_rows(const Rows<T>& x, int64_t chunk, const std::byte* tiles) const {
    const P mine(thread);
    const uint32_t to = shared_address(tiles) + mine.offset();
    const T* from = x.first + (chunk * kChunk + mine.row) * x.stride + mine.piece * 8;
    const int left = valid_tokens(chunk) - mine.row;
#pragma unroll 1
    for (int i = 0; i < P::kCount; ++i) {
      const bool valid = i * P::kStep < left;
      if (x.aligned) {
        copy_async(to + i * P::kStepBytes, valid ? from : x.first, valid ? 16 : 0);
      } else {
        uint32_t bits[4] = {};
        if (valid) load_unaligned(from, bits);
        store_piece(to + i * P::kStepBytes, bits);
      }
      from += P::kStep * x.stride;
    }
  }
  __device__ static void load_unaligned(const T* from, uint32_t (&bits)[4]) {
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) bits[i] = halves[2 * i] | uint32_t{halves[2 * i + 1]} << 16;
  }

  __device__ void run(int64_t chunks) const {
    Cursor cursor;
#pragma unroll 1
    for (int64_t c = 0; c < chunks; ++c) {
      load(c, cursor);
      cursor.advance();
    }
  }
};

// Pairs of elements as stored, times a power of two, to float16. `shift`: the power's exponent.
template <class T>
struct ToHalves {
  uint32_t by;

  __device__ explicit ToHalves(float power) {
    if constexpr (std::is_same_v<T, __half>) {
      by = pack_halves(power, power);
    } else {
      const int exponent = static_cast<int>(__float_as_uint(power) >> 23) - 127;
      by = static_cast<uint32_t>((exponent - kBias) * 128 & 0xffff) * 0x10001u;
    }
  }
  // bfloat16 is float16 with another bias and three digits fewer: a sum of integers and a shift.
  // Below 2^-14, which is nothing beside the 1 to 2 of |k|, it is off by 2^-15 at most.
  __device__ uint32_t operator()(uint32_t x) const {
    if constexpr (std::is_same_v<T, __half>) {
      const __half2 product =
          __hmul2(*reinterpret_cast<const __half2*>(&x), *reinterpret_cast<const __half2*>(&by));
      return *reinterpret_cast<const uint32_t*>(&product);
    } else {
      return __viaddmax_s16x2(x & 0x7fff7fffu, by, 0) << 3 | (x & 0x80008000u);
    }
  }
  static constexpr int kBias = 127 - 15;
};

// k times its rows' powers of two, in float16; every thread its own pieces.
template <class T, int K>
__device__ void convert_keys(Shared<K>& m, int64_t chunks) {
  using P = Pieces<K / 8>;
  const P mine(static_cast<int>(threadIdx.x) % kGroup);
  Cursor cursor;
#pragma unroll 1
  for (int64_t c = 0; c < chunks; ++c) {
    const Stage<K>& stage = m.stage[cursor.stage];
    const uint32_t at = shared_address(stage.k) + mine.offset();
    uint32_t bits[P::kCount][4];
    wait_barrier(shared_address(&m.full[cursor.stage]), cursor.phase);
#pragma unroll
    for (int i = 0; i < P::kCount; ++i) {
      load_piece(at + i * P::kStepBytes, bits[i]);
      const ToHalves<T> to_halves(stage.record.k_power[mine.row + i * P::kStep]);
#pragma unroll
      for (uint32_t& pair : bits[i]) pair = to_halves(pair);
    }
    wait_barrier(shared_address(&m.k_read[cursor.stage]), cursor.phase);
#pragma unroll
    for (int i = 0; i < P::kCount; ++i) store_piece(at + i * P::kStepBytes, bits[i]);
    fence_async_proxy();
    arrive(shared_address(&m.k_ready[cursor.stage]));
    cursor.advance();
  }
}

}  // namespace gdn::cuda::sm90
