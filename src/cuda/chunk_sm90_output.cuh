// The warpgroup that computes outputs, a chunk or less behind the state:
//
//   O = b o (S Q^T) + V_new P^T
//
// with S and V_new by mail from the state's warp with the same 16 columns of V.
#pragma once

#include "cuda/chunk_sm90_state.cuh"

namespace gdn::cuda::sm90 {

template <class T, int K>
struct OutputColumns {
  using State = StateColumns<T, K>;
  static constexpr int kTokenTiles = kChunk / 8;

  Shared<K>& m;
  const Sequence& s;
  T* first;  // of the block's columns, of the sequence's first token
  int64_t stride;
  int warp = static_cast<int>(threadIdx.x) % kGroup / kWarp;
  int lane = static_cast<int>(threadIdx.x) % kWarp;

  __device__ void run(int64_t chunks) const {
    Cursor cursor;
#pragma unroll 1
    for (int64_t c = 0; c < chunks; ++c) {
      const int at = cursor.stage;
      const Stage<K>& stage = m.stage[at];
      const auto parity = static_cast<uint32_t>(c & 1);
      float out[kChunk / 2];
      uint32_t S[K / 4], v_new[kChunk / 4];
      const uint64_t queries = State::operand_of(stage.q), P = State::operand_of(stage.record.P);
      wait_barrier(shared_address(&m.state_full[warp]), parity);
      m.state.take(warp, lane, S);
      __syncwarp();
      if (lane == 0) arrive(shared_address(&m.state_empty[warp]));
      wait_barrier(shared_address(&m.full[at]), cursor.phase);
      fence_wgmma();
#pragma unroll
      for (int step = 0; step < K / 16; ++step) {
        multiply_64x64<T, Major::kK>(out, State::operand(S, step), State::at_step(queries, step),
                                     step > 0);
      }
      commit_wgmma();
      float2 b[kTokenTiles];
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        b[tile] = *reinterpret_cast<const float2*>(stage.record.output + tile * 8 + lane % 4 * 2);
      }
      wait_barrier(shared_address(&m.v_new_full[warp]), parity);
      m.v_new.take(warp, lane, v_new);
      const float4 factors = m.factors[warp][lane];
      wait_wgmma<0>();
      pin(out);
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        out[4 * tile] *= b[tile].x * factors.x;
        out[4 * tile + 1] *= b[tile].y * factors.x;
        out[4 * tile + 2] *= b[tile].x * factors.y;
        out[4 * tile + 3] *= b[tile].y * factors.y;
      }
      fence_wgmma();
#pragma unroll
      for (int step = 0; step < kChunk / 16; ++step) {
        multiply_64x64<__half, Major::kK>(out, State::operand(v_new, step), State::at_step(P, step),
                                          true);
      }
      commit_wgmma();
      wait_wgmma<0>();
      pin(out);
      if (lane == 0) arrive(shared_address(&m.empty[at]));
      store(out, factors, c);
      __syncwarp();
      if (lane == 0) arrive(shared_address(&m.v_new_empty[warp]));
      cursor.advance();
    }
  }

 private:
  // Transposed through the warp's part of the mail: 64 tokens of 16 columns, 32 bytes each, whose
  // halves are exchanged by token / 4 against bank conflicts.
  __device__ void store(const float (&out)[kChunk / 2], const float4& factors,
                        int64_t chunk) const {
    std::byte* tile = reinterpret_cast<std::byte*>(m.v_new.words[warp]);
    const auto place = [](int token, int half) { return token * 32 + (half ^ token / 4 % 2) * 16; };
    uint32_t packed[kChunk / 4];
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) {
      const float factor = i % 2 == 0 ? factors.z : factors.w;
      packed[i] = pack_pair<T>(out[2 * i] * factor, out[2 * i + 1] * factor);
    }
    __syncwarp();  // all lanes have taken their mail
#pragma unroll
    for (int pair = 0; pair < kTokenTiles / 2; ++pair) {
      const int token = pair * 16 + lane / 16 * 8 + lane % 8;
      store_matrices_transposed(shared_address(tile) + place(token, lane / 8 % 2), packed[4 * pair],
                                packed[4 * pair + 1], packed[4 * pair + 2], packed[4 * pair + 3]);
    }
    __syncwarp();
    const int half = lane % 2;
    T* to = first + (chunk * kChunk + lane / 2) * stride + warp * 16 + half * 8;
    const int64_t left = s.length - chunk * kChunk - lane / 2;
    const bool aligned = is_aligned(to, 16) && stride % 8 == 0;
#pragma unroll
    for (int i = 0; i < 4; ++i, to += 16 * stride) {
      const uint4 eight = *reinterpret_cast<const uint4*>(tile + place(i * 16 + lane / 2, half));
      if (i * 16 >= left) continue;
      if (aligned) {
        *reinterpret_cast<uint4*>(to) = eight;
      } else {
        const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
        auto* halves = reinterpret_cast<uint16_t*>(to);
#pragma unroll
        for (int e = 0; e < 8; ++e) halves[e] = static_cast<uint16_t>(words[e / 2] >> e % 2 * 16);
      }
    }
  }
};

}  // namespace gdn::cuda::sm90
