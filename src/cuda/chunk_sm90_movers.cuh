// The warps that move, beside those that have the state: one or two bring tokens, one what the
// preparation made of them, one takes outputs away. Whole chunks of aligned tensors are moved by
// the copy engine, which one lane tells; the last tokens of a sequence, after which nothing may be
// read or written, and tensors that are not aligned by all lanes.
#pragma once

#include "cuda/chunk_sm90_shared.cuh"
#include "cuda/chunk_sm90_stages.h"
#include "cuda/dependent.cuh"
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
// To all blocks of a cluster, as copy_bulk_in_all does.
__device__ __forceinline__ void load_tile_to_all(const CUtensorMap& map, const TilePosition& at,
                                                 uint32_t to, uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3,%4,%5,%6}], [%2], %7;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(at.element), "r"(at.head), "r"(at.token), "r"(at.batch),
      "h"(blocks)
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

// The two blocks of a value head are a cluster: k, q and what the preparation left are the same for
// both, so each loads half of it, for both. Where a block has all columns, two value heads of a q/k
// head are one, which share k, q and k in float16. A block by itself is a cluster, too.
struct Cluster {
  int rank = cluster_rank(), size = cluster_size();
  __device__ bool alone() const { return size == 1; }
  // Whether this block loads piece i for all.
  __device__ bool loads(int i) const { return alone() || i % 2 == rank; }
  __device__ uint16_t all() const { return static_cast<uint16_t>((1 << size) - 1); }
};

// What a block works on.
struct Block {
  Walk walk;
  bool outputs;
  std::byte* partial;  // where outputs of the first chunk go if not to the tensor
  Sequence s;
  int qk_head, value_head, v0;  // v0: the first column, of V or of a transition's rows
  int64_t number;               // of the sequence's first chunk, in the numbering of records
  int64_t begin, end;           // chunks of the sequence
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

// No block ends while the other of its cluster may still tell it that a stage is empty.
template <int kStages>
__device__ void wait_for_last(const uint64_t (&empty)[kStages], Cursor<kStages> at) {
  for (int i = 0; i < kStages; ++i, at.advance()) {
    wait_barrier(shared_address(&empty[at.stage]), at.phase ^ 1);
  }
}

// Which tokens a warp loads: where registers are few there are two, for keys and queries and for
// values.
enum class Loads { kAll, kKeysQueries, kValues };
template <class T, Loads kLoads, int K, int kGroups>
__device__ void load_tokens(Shared<K, kGroups>& m, const DeltaRuleProblem& p, const TokenMaps& maps,
                            const Block& block) {
  using Stage = Tokens<K, kGroups>;
  Cursor<Shared<K, kGroups>::kTokenStages> at;
  const Cluster cluster;
  constexpr bool kRows = kLoads != Loads::kValues;
  // Values of a transition are zeros that are there already.
  const bool queries = kRows && block.outputs;
  const bool values = kLoads != Loads::kKeysQueries && block.walk != Walk::kTransition;
  const int tiles =
      Stage::kRowTiles * ((kRows ? 1 : 0) + (queries ? 1 : 0)) + (values ? kGroups : 0);
  // In 32 bits, as the copy engine counts: registers are short.
  int token = static_cast<int>(block.s.begin + block.begin * kChunk);
  int left = static_cast<int>(block.s.length - block.begin * kChunk);  // tokens
  const int batch = static_cast<int>(block.s.batch);
#pragma unroll 1
  for (int chunks = static_cast<int>(block.end - block.begin); chunks > 0;
       --chunks, token += kChunk, left -= kChunk, at.advance()) {
    Stage& to = m.tokens[at.stage];
    const uint32_t full = shared_address(&m.tokens_full[at.stage]);
    // Not before the chunk that was here is done with; of a new barrier the phase before has ended.
    wait_barrier(shared_address(&m.tokens_empty[at.stage]), at.phase ^ 1);
    if (maps.given && left >= kChunk) {
      if (!leads()) {
        if (arrives()) arrive(full);
        continue;
      }
      arrive_expecting(full, tiles * kTileBytes);
      const auto load_shared = [&](const CUtensorMap& map, const std::byte* tiles, int first) {
#pragma unroll
        for (int i = 0; i < Stage::kRowTiles; ++i) {
          if (!cluster.loads(first + i)) continue;
          const TilePosition at{i * 64, block.qk_head, token, batch};
          const uint32_t tile = shared_address(tiles) + i * kTileBytes;
          if (cluster.alone()) {
            load_tile(map, at, tile, full);
          } else {
            load_tile_to_all(map, at, tile, full, cluster.all());
          }
        }
      };
      if (kRows) load_shared(maps.k, to.k, 0);
      if (values) {
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          load_tile(maps.v, {block.v0 + i * kColumns, block.value_head, token, batch},
                    shared_address(to.v) + i * kTileBytes, full);
        }
      }
      if (queries) load_shared(maps.q, to.q, Stage::kRowTiles);
      continue;
    }
    const int64_t c = block.end - chunks;
    if (kRows) Pieces<T, K>(p.k, block, c, block.qk_head, 0).load(to.k);
    if (queries) Pieces<T, K>(p.q, block, c, block.qk_head, 0).load(to.q);
    if (values) Pieces<T, kGroups * kColumns>(p.v, block, c, block.value_head, block.v0).load(to.v);
    commit_copies();
    wait_for_copies<0>();
    fence_async_proxy();
    __syncwarp();
    if (arrives()) arrive(full);
  }
  wait_for_last(m.tokens_empty, at);
}

// What a lane copies of every chunk's record: lanes 0 to 3 a panel of P, which outputs alone want,
// 4 to 11 one of T, lane 12 the vectors, the next two a half of the keys each.
struct LaneCopy {
  enum class Kind { kNone, kVectors, kInverse, kProducts } kind = Kind::kNone;
  uint32_t to = 0;  // from the stage's beginning
  const std::byte* from = nullptr;
  int64_t stride = 0;  // to the next chunk's
  int bytes = 0;
};
template <int K, int kGroups>
__device__ LaneCopy copy_of_lane(const Records& records, const HeadRecord* head,
                                 const KeyRecord<K>* keys, bool outputs) {
  using Kind = LaneCopy::Kind;
  constexpr int kPanels = Panels::kCount;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  LaneCopy copy;
  copy.stride = records.value_heads * static_cast<int64_t>(sizeof(HeadRecord));
  if (lane < 3 * kPanels) {
    const int panel = lane % kPanels, above = panel * HeadRecord::kTileBytes;
    const int in_stage = panel * Panels::kPanelBytes + above;
    const int in_matrix = HeadRecord::tile_offset(panel, panel);
    copy.bytes = Panels::kPanelBytes - above;
    if (lane < kPanels) {
      if (!outputs) return copy;
      copy.kind = Kind::kProducts;
      copy.to = offsetof(Products<K>, P) + in_stage;
      copy.from = head->P + in_matrix;
    } else {
      const int low = lane / kPanels - 1;
      copy.kind = Kind::kInverse;
      copy.to = low * sizeof(Panels) + in_stage;
      copy.from = head->T_high + low * HeadRecord::kMatrixBytes + in_matrix;
    }
  } else if (lane == 3 * kPanels) {
    using Stage = Tokens<K, kGroups>;
    copy.kind = Kind::kVectors;
    copy.to = offsetof(Stage, vectors);
    copy.from = reinterpret_cast<const std::byte*>(&head->vectors);
    copy.bytes = sizeof(RecordVectors);
  } else if (lane <= 3 * kPanels + 2) {
    constexpr int kHalf = sizeof(KeyRecord<K>) / 2;
    const int at = (lane - 3 * kPanels - 1) * kHalf;
    copy.kind = Kind::kProducts;
    copy.to = offsetof(Products<K>, keys) + at;
    copy.from = keys->k + at;
    copy.stride = records.heads * static_cast<int64_t>(sizeof(KeyRecord<K>));
    copy.bytes = kHalf;
  }
  return copy;
}

// Until a chunk is prepared beside this kernel, for the block's heads: of it and the next ones, a
// lane each, `left` at most. Returns how many are, from this one on.
__device__ inline int64_t wait_for_items(const Beside& beside, std::byte* workspace, int64_t chunk,
                                         int64_t head, int64_t in_group, int64_t left) {
  const int64_t lane = threadIdx.x % kWarp;
  chunk += min(lane, left - 1);
  const uint32_t* flags = beside.flags(workspace);
  const uint32_t* keys = flags + beside.item(chunk, head, 0);
  const uint32_t* own = flags + beside.item(chunk, head, in_group);
  uint32_t prepared;
  do {
    prepared = __ballot_sync(kAllLanes, is_raised(own) && (keys == own || is_raised(keys)));
  } while (prepared % 2 == 0);
  fence_async_proxy_of_all();
  __syncwarp();  // other lanes copy than have looked
  const int from_first = prepared == kAllLanes ? kWarp : __ffs(static_cast<int>(~prepared)) - 1;
  return min(left, int64_t{from_first});
}

template <int K, int kGroups>
__device__ void load_records(Shared<K, kGroups>& m, const Records& records, const Beside& beside,
                             const Part& part, std::byte* workspace, const Block& block) {
  using Kind = LaneCopy::Kind;
  using S = Shared<K, kGroups>;
  const bool outputs = block.outputs;
  const int64_t number = block.number + block.begin;
  LaneCopy copy = copy_of_lane<K, kGroups>(
      records, records.head(workspace, part, number, block.value_head),
      records.template keys<K>(workspace, part, number, block.qk_head), outputs);
  const Cluster cluster;
  // Whether the lane's part is for all blocks: of a value head's, if they have its columns.
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool of_head = lane <= 3 * Panels::kCount;
  const bool for_all = !cluster.alone() && (S::kClusterOfOneHead || !of_head);
  if (for_all && !cluster.loads(lane)) copy.kind = Kind::kNone;
  if (outputs && !beside.here()) wait_for_kernel_before();
  const int in_group = block.value_head -
                       block.qk_head * static_cast<int>(static_cast<uint32_t>(records.value_heads) /
                                                        static_cast<uint32_t>(records.heads));
  int64_t prepared = beside.here() ? block.begin : block.end;  // chunks up to there
  // The lanes of a kind, when the stage is empty.
  const auto load = [&](Kind kind, const void* stage, int bytes, uint64_t& full_barrier,
                        const uint64_t& empty, uint32_t phase) {
    const uint32_t full = shared_address(&full_barrier);
    wait_barrier(shared_address(&empty), phase ^ 1);
    if (leads()) arrive_expecting(full, bytes);
    __syncwarp();
    if (copy.kind != kind) return;
    const uint32_t to = shared_address(stage) + copy.to;
    if (!for_all) {
      copy_bulk_in(to, copy.from, copy.bytes, full);
    } else {
      copy_bulk_in_all(to, copy.from, copy.bytes, full, cluster.all());
    }
  };
  Cursor<S::kTokenStages> tokens_at;
  Cursor<S::kRecordStages> record_at;
#pragma unroll 1
  for (int64_t c = block.begin; c < block.end; ++c) {
    const int t = tokens_at.stage, r = record_at.stage;
    if (c == prepared) {
      prepared += wait_for_items(beside, workspace, block.number + c - part.first, block.qk_head,
                                 in_group, block.end - c);
    }
    load(Kind::kVectors, &m.tokens[t], sizeof(RecordVectors), m.tokens_full[t], m.tokens_empty[t],
         tokens_at.phase);
    load(Kind::kInverse, &m.inverse[r], 2 * HeadRecord::kMatrixBytes, m.inverse_full[r],
         m.inverse_empty[r], record_at.phase);
    load(Kind::kProducts, &m.products[r],
         static_cast<int>(sizeof(KeyRecord<K>)) + (outputs ? HeadRecord::kMatrixBytes : 0),
         m.products_full[r], m.products_empty[r], record_at.phase);
    copy.from += copy.stride;
    tokens_at.advance();
    record_at.advance();
  }
  if (outputs && beside.here()) wait_for_kernel_before();
  wait_for_last(m.inverse_empty, record_at);
  wait_for_last(m.products_empty, record_at);
}

template <class T, int K, int kGroups>
__device__ void store_outputs(Shared<K, kGroups>& m, const DeltaRuleProblem& p,
                              const TokenMaps& maps, int64_t partials_apart, const Block& block) {
  if (!block.outputs) return;
  Cursor<Shared<K, kGroups>::kOutStages> at;
  std::byte* partial = block.partial;
  const bool accumulators = block.walk == Walk::kFromZero;
#pragma unroll 1
  for (int64_t c = block.begin; c < block.end; ++c, at.advance()) {
    const std::byte* tile = m.out[at.stage];
    wait_barrier(shared_address(&m.out_full[at.stage]), at.phase);
    if (block.walk == Walk::kSegment && (!maps.given || block.valid_tokens(c) < kChunk)) {
      Pieces<T, kGroups * kColumns>(p.out, block, c, block.value_head, block.v0).store(tile);
    } else if (leads()) {
      // The fence here, and not in the warps that wrote it: those would wait for all that they have
      // in flight.
      fence_async_proxy();
      if (block.walk == Walk::kSegment) {
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          store_tile(maps.out, block.position(c, block.value_head, block.v0 + i * kColumns),
                     shared_address(tile) + i * kTileBytes);
        }
      } else {
        copy_bulk_out(partial, shared_address(tile), accumulators ? 2 * kTileBytes : kTileBytes);
        partial += partials_apart;
      }
      commit_bulk();
      wait_bulk_read<0>();
    }
    __syncwarp();
    if (arrives()) arrive(shared_address(&m.out_empty[at.stage]));
    if (accumulators) at.advance();  // they lie in both stages
  }
  if (leads()) wait_bulk<0>();
}

}  // namespace gdn::cuda::sm90
