// The warps that move, beside the warpgroup that has the state: one brings tokens, one what the
// preparation made of them, one takes outputs away. Whole chunks of aligned tensors are moved by
// the copy engine, which one lane tells; the last tokens of a sequence, after which nothing may be
// read or written, and tensors that are not aligned by all lanes.
#pragma once

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/element.cuh"
#include "cuda/hopper.cuh"
#include "cuda/mma.cuh"
#include "problem.h"

namespace gdn::cuda::sm90 {

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
__device__ __forceinline__ void store_tile(const CUtensorMap& map, const TilePosition& at,
                                           uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2,%3,%4,%5}], [%1];" ::"l"(
          &map),
      "r"(from), "r"(at.element), "r"(at.head), "r"(at.token), "r"(at.batch)
      : "memory");
}

// What a block works on.
struct Block {
  Sequence s;
  int qk_head, value_head, v0;  // v0: the first column
  int64_t number;               // of the sequence's first chunk, in the numbering of records

  __device__ int64_t chunks() const { return (s.length + kChunk - 1) / kChunk; }
  __device__ int valid_tokens(int64_t chunk) const {
    const int64_t left = s.length - chunk * kChunk;
    return static_cast<int>(left < kChunk ? left : kChunk);
  }
  __device__ TilePosition position(int64_t chunk, int head, int element) const {
    return {element, head, static_cast<int>(s.begin + chunk * kChunk), static_cast<int>(s.batch)};
  }
};

// The rows of a chunk of one head of a tensor, a piece of 16 bytes a lane.
template <class T, int kRow>
struct Pieces {
  static constexpr int kPerRow = kRow / 8, kStep = kWarp / kPerRow;

  T* first;  // of the chunk's first row
  int64_t stride;
  int valid;
  bool aligned;

  __device__ Pieces(const TokenTensor& x, const Block& block, int64_t chunk, int head, int column)
      : first(reinterpret_cast<T*>(x.at(block.s, chunk * kChunk, head)) + column),
        stride(x.token_stride),
        valid(block.valid_tokens(chunk)),
        aligned(is_aligned(first, 16) && stride % 8 == 0) {}

  // Body(piece in memory, its byte in tiles side by side, whether its row is there).
  template <class Body>
  __device__ void for_each(const Body& body) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int piece = lane % kPerRow;
#pragma unroll 1
    for (int row = lane / kPerRow; row < kChunk; row += kStep) {
      body(first + row * stride + piece * 8,
           static_cast<uint32_t>(piece / 8 * kTileBytes + swizzled(row, piece % 8 * 8)),
           row < valid);
    }
  }
  // To tiles, zeros from the sequence's end on.
  __device__ void load(const std::byte* tiles) const {
    const uint32_t base = shared_address(tiles);
    for_each([&](const T* from, uint32_t at, bool there) {
      if (aligned) {
        copy_async(base + at, there ? from : first, there ? 16 : 0);
        return;
      }
      uint32_t bits[4] = {};
      const auto* halves = reinterpret_cast<const uint16_t*>(from);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (there) bits[i] = halves[2 * i] | uint32_t{halves[2 * i + 1]} << 16;
      }
      asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(base + at), "r"(bits[0]),
                   "r"(bits[1]), "r"(bits[2]), "r"(bits[3])
                   : "memory");
    });
  }
  __device__ void store(const std::byte* tile) const {
    for_each([&](T* to, uint32_t at, bool there) {
      if (!there) return;
      const uint4 bits = *reinterpret_cast<const uint4*>(tile + at);
      if (aligned) {
        *reinterpret_cast<uint4*>(to) = bits;
        return;
      }
      const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
      auto* halves = reinterpret_cast<uint16_t*>(to);
#pragma unroll
      for (int i = 0; i < 8; ++i) halves[i] = static_cast<uint16_t>(words[i / 2] >> i % 2 * 16);
    });
  }
};

__device__ inline bool leads() { return threadIdx.x % kWarp == 0; }

template <class T, int K>
__device__ void load_tokens(Shared<K>& m, const DeltaRuleProblem& p, const TokenMaps& maps,
                            const Block& block) {
  using Stage = Tokens<K>;
  Cursor<Shared<K>::kTokenStages> at;
#pragma unroll 1
  for (int64_t c = 0; c < block.chunks(); ++c, at.advance()) {
    Stage& to = m.tokens[at.stage];
    const uint32_t full = shared_address(&m.tokens_full[at.stage]);
    // Not before the chunk that was here is done with; of a new barrier the phase before has ended.
    wait_barrier(shared_address(&m.tokens_empty[at.stage]), at.phase ^ 1);
    if (maps.given && block.valid_tokens(c) == kChunk) {
      if (!leads()) continue;
      arrive_expecting(full, (2 * Stage::kRowTiles + 1) * kTileBytes);
#pragma unroll
      for (int i = 0; i < Stage::kRowTiles; ++i) {
        load_tile(maps.k, block.position(c, block.qk_head, i * 64),
                  shared_address(to.k) + i * kTileBytes, full);
      }
      load_tile(maps.v, block.position(c, block.value_head, block.v0), shared_address(to.v), full);
#pragma unroll
      for (int i = 0; i < Stage::kRowTiles; ++i) {
        load_tile(maps.q, block.position(c, block.qk_head, i * 64),
                  shared_address(to.q) + i * kTileBytes, full);
      }
      continue;
    }
    Pieces<T, K>(p.k, block, c, block.qk_head, 0).load(to.k);
    Pieces<T, K>(p.q, block, c, block.qk_head, 0).load(to.q);
    Pieces<T, kColumns>(p.v, block, c, block.value_head, block.v0).load(to.v);
    commit_copies();
    wait_for_copies<0>();
    fence_async_proxy();
    __syncwarp();
    if (leads()) arrive(full);
  }
}

// One lane's work.
template <int K>
__device__ void load_prepared(Shared<K>& m, const Records& records, std::byte* workspace,
                              const Block& block) {
  constexpr int kBytes =
      sizeof(KeyRecord<K>) + 3 * HeadRecord::kMatrixBytes + sizeof(RecordVectors);
  Cursor<Shared<K>::kPreparedStages> at;
  const HeadRecord* head = records.head(workspace, block.number, block.value_head);
  const KeyRecord<K>* keys = records.template keys<K>(workspace, block.number, block.qk_head);
#pragma unroll 1
  for (int64_t c = 0; c < block.chunks(); ++c, at.advance()) {
    Prepared<K>& to = m.prepared[at.stage];
    const uint32_t full = shared_address(&m.prepared_full[at.stage]);
    wait_barrier(shared_address(&m.prepared_empty[at.stage]), at.phase ^ 1);
    arrive_expecting(full, kBytes);
    copy_bulk_in(shared_address(&to.vectors), &head->vectors, sizeof(RecordVectors), full);
    // The three matrices follow one another both here and there.
    uint32_t matrix = shared_address(&to.T_high);
    const std::byte* lower = head->T_high;
#pragma unroll 1
    for (int i = 0; i < 3; ++i, matrix += sizeof(Panels), lower += HeadRecord::kMatrixBytes) {
#pragma unroll
      for (int panel = 0; panel < Panels::kCount; ++panel) {
        const int above = panel * HeadRecord::kTileBytes;
        copy_bulk_in(matrix + panel * Panels::kPanelBytes + above,
                     lower + HeadRecord::tile_offset(panel, panel), Panels::kPanelBytes - above,
                     full);
      }
    }
    copy_bulk_in(shared_address(&to.keys), keys, sizeof(KeyRecord<K>), full);
    head += records.value_heads;
    keys += records.heads;
  }
}

template <class T, int K>
__device__ void store_outputs(Shared<K>& m, const DeltaRuleProblem& p, const TokenMaps& maps,
                              const Block& block) {
#pragma unroll 1
  for (int64_t c = 0; c < block.chunks(); ++c) {
    wait_barrier(shared_address(&m.out_full), c & 1);
    if (maps.given && block.valid_tokens(c) == kChunk) {
      if (!leads()) continue;
      store_tile(maps.out, block.position(c, block.value_head, block.v0), shared_address(m.out));
      commit_bulk();
      wait_bulk_read<0>();
    } else {
      Pieces<T, kColumns>(p.out, block, c, block.value_head, block.v0).store(m.out);
      __syncwarp();
      if (!leads()) continue;
    }
    arrive(shared_address(&m.out_empty));
  }
  if (leads()) wait_bulk<0>();
}

}  // namespace gdn::cuda::sm90
