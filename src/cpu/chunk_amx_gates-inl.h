// A chunk of the AMX kernel before any column of V comes in: k and q as operands and their gram
// matrix, per q/k head; decays, P and the inverse T of I + A, per value head.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Tokens of a chunk. With 64 a state is read and written once for 64 tokens, and the products
// inside a chunk, which grow with it, are cheap here.
constexpr int kAmxChunk = 64;
constexpr int kTokenWords = kAmxChunk / 2;  // a row of a [kAmxChunk][kAmxChunk] matrix of bfloat16

// Rows of a panel and words of an operand's row: whole blocks of tiles.
constexpr int64_t amx_padded_k(int64_t K) { return (K + kBlock - 1) / kBlock * kBlock; }

struct alignas(64) AmxVectors {
  float norms[2 * kAmxChunk];  // row scales of k, then of q: 1 without l2norm
  float beta[kAmxChunk];
  float step[kAmxChunk];    // exp(g_i)
  float read[kAmxChunk];    // exp(G_i) times the row scale of k_i
  float output[kAmxChunk];  // scale exp(G_i) times the row scale of q_i
  float to_end[kAmxChunk];  // exp(G_last - G_i) times the row scale of k_i
  float whole;              // exp(G_last)
  float high[kAmxChunk];    // G as two floats
  float low[kAmxChunk];
  float rows[4][kAmxChunk];  // exp(G_i - G_e), e the last token of each block of 16
  float columns[kAmxChunk];  // exp(G_e - G_j), e the last token of j's block
};

// What a q/k head's chunk is packed to, and what a value head makes of it.
struct AmxOperands {
  uint32_t* rows;         // [2 kAmxChunk][K / 2]: pairs along K of the k rows, then the q rows
  uint32_t* columns;      // [K / 2][kAmxChunk]: the transpose of the k rows
  uint32_t* token_pairs;  // [K][kTokenWords]: pairs of consecutive tokens of k
  float* gram;            // [2 kAmxChunk][kAmxChunk], on and below the diagonal, of normalised rows
  float* minus_a;         // [kAmxChunk][kAmxChunk]: -beta_i exp(G_i - G_j) (k_i . k_j), i > j
  float* inverse;         // [kAmxChunk][kAmxChunk]
  SplitMatrix t;          // [kAmxChunk][kTokenWords]: the inverse
  SplitMatrix p;          // [kAmxChunk][kTokenWords]: scale exp(G_i - G_j) (q_i . k_j), i >= j
  AmxVectors* vectors;
};

// What is past the largest bfloat16 as that, of its sign; a NaN as it is (of the arguments of Min
// and Max the second passes NaN). A factor that is finite in both its parts leaves zeros zero.
HWY_INLINE Vec finite_bf16(Vec x) {
  const F32 d;
  const Vec most = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<F32>(), 0x7f7f0000u));
  return hn::Max(hn::Neg(most), hn::Min(most, x));
}

// 32 consecutive floats in two parts, rounded: operand A's order.
HWY_INLINE void split_row(Vec a, Vec b, uint32_t* high, uint32_t* low) {
  const auto round = [](Vec x, Vec y) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y.raw, x.raw));
  };
  const auto widen = [](__m256i half) {
    return Vec{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  };
  const __m512i rounded = round(a, b);
  const Vec rest_a = hn::Sub(a, widen(_mm512_castsi512_si256(rounded)));
  const Vec rest_b = hn::Sub(b, widen(_mm512_extracti64x4_epi64(rounded, 1)));
  _mm512_storeu_si512(high, rounded);
  _mm512_storeu_si512(low, round(rest_a, rest_b));
}

// Two rows in two parts, in pairs of one element of each: operand B's order. The parts are cut off,
// not rounded, which drops less than 2^-14 of a number and takes ten of the cheapest instructions.
HWY_INLINE void split_pairs(Vec even, Vec odd, uint32_t* high, uint32_t* low) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto pair = [&](Vec x, Vec y) {
    constexpr int kFirstOrSecondAndThird = 0xf8;
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(x.raw), 16),
                                     _mm512_castps_si512(y.raw), upper, kFirstOrSecondAndThird);
  };
  const auto rest = [&](Vec x) {
    const __m512i cut = _mm512_and_si512(_mm512_castps_si512(x.raw), upper);
    return hn::Sub(x, Vec{_mm512_castsi512_ps(cut)});
  };
  _mm512_storeu_si512(high, pair(even, odd));
  _mm512_storeu_si512(low, pair(rest(even), rest(odd)));
}

// Rows of k or q as they are, and their row scales; zeros from `count` to kAmxChunk.
HWY_INLINE void pack_rows_for_tiles(const DeltaRuleProblem& problem, const TokenTensor& tensor,
                                    const Sequence& sequence, int64_t t0, int64_t count,
                                    int64_t head, uint32_t* rows, float* norms) {
  const F32 d;
  const int64_t K = problem.shape.K, words = amx_padded_k(K) / 2;
  for (int64_t r = 0; r < kAmxChunk; r += kLanes) {
    Vec squares[kLanes];  // of each row, in as many parts as a vector has lanes
    for (int64_t i = 0; i < kLanes; ++i) {
      uint32_t* row = rows + (r + i) * words;
      squares[i] = hn::Zero(d);
      if (r + i >= count) {
        std::fill_n(row, words, 0u);
        continue;
      }
      const std::byte* from = tensor.at(sequence, t0 + r + i, head);
      for (int64_t k = 0; k < K; k += 2 * kLanes, from += 64) {
        const int64_t left = K - k;
        __m512i pairs;
        if (HWY_LIKELY(left >= 2 * kLanes)) {
          pairs = _mm512_loadu_si512(from);
        } else {
          pairs = _mm512_maskz_loadu_epi16((__mmask32{1} << left) - 1, from);
        }
        _mm512_storeu_si512(row + k / 2, pairs);
        squares[i] = dot_pairs(squares[i], pairs, pairs);
      }
    }
    if (!problem.use_qk_l2norm) continue;
    transpose_square(squares);
    Vec sum = squares[0];
#pragma GCC unroll 16
    for (int i = 1; i < kLanes; ++i) sum = hn::Add(sum, squares[i]);
    store(sum, norms + r);
  }
  int64_t normalised = 0;
  if (problem.use_qk_l2norm) {
    to_inverse_norms(norms, kAmxChunk, problem.l2norm_eps);
    normalised = count;
  }
  std::fill(norms + normalised, norms + kAmxChunk, 1.0f);
}

// token_pairs from the columns, whose words are pairs along K: the lower halves of two tokens'
// words are a pair of row 2 i, the upper ones of row 2 i + 1.
HWY_INLINE void pair_tokens_of_columns(const AmxOperands& operands, int64_t words) {
  alignas(64) uint16_t even[32], odd[32];
  for (int i = 0; i < 32; ++i) even[i] = static_cast<uint16_t>(2 * i);
  for (int i = 0; i < 32; ++i) odd[i] = static_cast<uint16_t>(2 * i + 1);
  const __m512i lower = _mm512_load_si512(even), upper = _mm512_load_si512(odd);
  for (int64_t i = 0; i < words; ++i) {
    const uint32_t* from = operands.columns + i * kAmxChunk;
    uint32_t* to = operands.token_pairs + 2 * i * kTokenWords;
    for (int64_t j = 0; j < kTokenWords; j += kLanes) {
      const __m512i a = _mm512_loadu_si512(from + 2 * j);
      const __m512i b = _mm512_loadu_si512(from + 2 * j + kLanes);
      _mm512_storeu_si512(to + j, _mm512_permutex2var_epi16(a, lower, b));
      _mm512_storeu_si512(to + kTokenWords + j, _mm512_permutex2var_epi16(a, upper, b));
    }
  }
}

// Rows of tokens that a chunk of `count` computes: whole blocks.
constexpr int64_t rows_of_blocks(int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; }

// k_i . k_j and q_i . k_j for the blocks on and below the diagonal, of the normalised rows.
HWY_INLINE void gram_of_tiles(Tiles& tiles, const AmxOperands& operands, int64_t words,
                              int64_t count) {
  const float* norms = operands.vectors->norms;
  for (int64_t first : {0, kAmxChunk}) {
    for (int64_t r = 0; r < rows_of_blocks(count); r += kBlock) {
      float* gram = operands.gram + (first + r) * kAmxChunk;
      for (int64_t c = 0; c <= r; c += kBlock) {
        multiply(tiles,
                 product_of(operands.rows + (first + r) * words, words, operands.columns + c,
                            kAmxChunk, words / kTileWords),
                 gram + c, kAmxChunk);
      }
      for (int64_t i = 0; i < kBlock; ++i) {
        const Vec norm = hn::Set(F32(), norms[first + r + i]);
        for (int64_t c = 0; c < r + kBlock; c += kLanes) {
          float* at = gram + i * kAmxChunk + c;
          store(hn::Mul(hn::Mul(norm, load(norms + c)), load(at)), at);
        }
      }
    }
  }
}

// The decays of a value head, P and -A. Tokens from `count` on are padding with g = 0 and beta = 0:
// they decay nothing.
//
// exp(G_i - G_j) of a row in a later block of 16 than j's is exp(G_i - G_e) exp(G_e - G_j), where e
// is the last token of j's block: both at most 1, so that nothing overflows and what underflows
// would have done so anyway. That takes a tenth of the exponentials. Where G rises somewhere (g > 0
// is allowed) this does not hold, and every difference gets its own.
inline void compute_amx_gates(const DeltaRuleProblem& problem, const Sequence& sequence, int64_t t0,
                              int64_t count, int64_t head, const AmxOperands& operands) {
  const F32 d;
  AmxVectors& x = *operands.vectors;
  alignas(64) float g[kAmxChunk] = {};
  std::fill_n(x.beta, kAmxChunk, 0.0f);
  compute_gates(problem.gates, sequence, t0, count, head, g, x.beta);
  // G in double, kept as two floats, for the reason that chunk_gates-inl.h gives.
  double sum = 0;
  bool rises = false;
  for (int i = 0; i < kAmxChunk; ++i) {
    rises |= !(g[i] <= 0);
    sum += static_cast<double>(g[i]);
    x.high[i] = static_cast<float>(sum);
    x.low[i] = static_cast<float>(sum - static_cast<double>(x.high[i]));
  }
  // exp(G_i - G_j) for 16 of the one and one of the other.
  const auto difference = [&](Vec to_high, Vec to_low, Vec from_high, Vec from_low) {
    return hn::Add(hn::Sub(to_high, from_high), hn::Sub(to_low, from_low));
  };
  const auto one = [&](const float* of, int64_t i) { return hn::Set(d, of[i]); };
  constexpr int kLast = kAmxChunk - 1;
  for (int i = 0; i < kAmxChunk; i += kLanes) {
    const Vec high = load(x.high + i), low = load(x.low + i), key_norms = load(x.norms + i);
    const Vec from_start = finite_exp(high);
    const Vec query = hn::Mul(hn::Set(d, problem.scale), load(x.norms + kAmxChunk + i));
    store(finite_exp(load(g + i)), x.step + i);
    store(finite(hn::Mul(from_start, key_norms)), x.read + i);
    store(finite(hn::Mul(from_start, query)), x.output + i);
    const Vec to_end = difference(one(x.high, kLast), one(x.low, kLast), high, low);
    store(finite(hn::Mul(finite_exp(to_end), key_norms)), x.to_end + i);
    const int end = i + kLanes - 1;
    store(finite_exp(difference(one(x.high, end), one(x.low, end), high, low)), x.columns + i);
    for (int later = i + kLanes; later < kAmxChunk; later += kLanes) {
      store(finite_exp(difference(load(x.high + later), load(x.low + later), one(x.high, end),
                                  one(x.low, end))),
            x.rows[i / kLanes] + later);
    }
    if (end == kLast) x.whole = hn::GetLane(finite_exp(one(x.high, kLast)));
  }

  for (int64_t i = 0; i < rows_of_blocks(count); ++i) {
    const Vec minus_beta = hn::Set(d, -x.beta[i]), scale = hn::Set(d, problem.scale);
    const Vec high = one(x.high, i), low = one(x.low, i);
    const float* gram = operands.gram + i * kAmxChunk;
    const int64_t diagonal = i / kLanes * kLanes;  // first column of the block on the diagonal
    // Stores -A's row, without a mask: what stands on the diagonal and above is not read.
    const auto row_of_p = [&](int64_t j, Vec decay) {
      const Vec kk = load(gram + j), qk = load(gram + kAmxChunk * kAmxChunk + j);
      Vec minus_a = hn::Mul(decay, hn::Mul(minus_beta, kk));
      Vec p = hn::Mul(decay, hn::Mul(scale, qk));
      if (HWY_UNLIKELY(rises)) {
        minus_a = finite_bf16(minus_a);
        p = finite_bf16(p);
      }
      store(minus_a, operands.minus_a + i * kAmxChunk + j);
      return p;
    };
    const auto below = [&](int64_t j) {
      if (HWY_UNLIKELY(rises)) {
        return row_of_p(j, finite_exp(difference(high, low, load(x.high + j), load(x.low + j))));
      }
      return row_of_p(j, hn::Mul(one(x.rows[j / kLanes], i), load(x.columns + j)));
    };
    const auto on_diagonal = [&](int64_t j) {
      // Masked before the exponential: above the diagonal the difference may be large.
      const auto on_or_below = hn::FirstN(d, static_cast<size_t>(i - j + 1));
      const Vec from_j = difference(high, low, load(x.high + j), load(x.low + j));
      const Vec decay = finite_exp(hn::IfThenElseZero(on_or_below, from_j));
      return hn::IfThenElseZero(on_or_below, row_of_p(j, decay));
    };
    for (int64_t j = 0; j <= diagonal; j += kBlock) {
      const Vec first = j < diagonal ? below(j) : on_diagonal(j);
      const Vec second = j + kLanes < diagonal    ? below(j + kLanes)
                         : j + kLanes == diagonal ? on_diagonal(j + kLanes)
                                                  : hn::Zero(d);
      const int64_t at = i * kTokenWords + j / 2;
      split_row(first, second, operands.p.high + at, operands.p.low + at);
    }
  }
}

// T = (I + A)^-1 by forward substitution in float32, eight rows by two vectors at a time, and its
// two parts. Columns that are zero, right of a block on the diagonal, are neither computed nor
// read. A row is made finite before it is a factor: sums of finite products may overflow (to an
// infinity that stays one), but are never NaN.
inline void invert_for_tiles(const AmxOperands& operands, int64_t count) {
  const F32 d;
  constexpr int64_t n = kAmxChunk;
  static_assert(kPanel == kBlock && kBlock % kRows == 0);
  for (int64_t c = 0; c < rows_of_blocks(count); c += kBlock) {
    for (int64_t r = c; r < rows_of_blocks(count); r += kRows) {
      Tile<kRows, kVecs> tile;
      set_zero(tile);
      const float* minus_a = operands.minus_a + r * n;
      add_product<n>(tile, minus_a + c, 1, operands.inverse + c * n + c, n, r - c);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          // The identity's element of this row is in column r + i.
          const auto here = hn::Eq(hn::Iota(d, static_cast<float>(c + j * kLanes)),
                                   hn::Set(d, static_cast<float>(r + i)));
          const Vec identity = hn::IfThenElseZero(here, hn::Set(d, 1.0f));
          tile.at[i][j] = finite_bf16(hn::Add(tile.at[i][j], identity));
        }
#pragma GCC unroll 16
        for (int m = i + 1; m < kRows; ++m) {
          const Vec a = hn::Set(d, minus_a[m * n + r + i]);
#pragma GCC unroll 16
          for (int j = 0; j < kVecs; ++j) {
            tile.at[m][j] = hn::MulAdd(a, tile.at[i][j], tile.at[m][j]);
          }
        }
        const int64_t row = r + i, at = row * kTokenWords + c / 2;
        split_row(tile.at[i][0], tile.at[i][1], operands.t.high + at, operands.t.low + at);
        store(tile.at[i][0], operands.inverse + row * n + c);
        store(tile.at[i][1], operands.inverse + row * n + c + kLanes);
      }
    }
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
