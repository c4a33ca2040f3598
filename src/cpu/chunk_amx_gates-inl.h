// A chunk of the AMX kernel before any column of V comes in: k and q as operands and their gram
// matrix, per q/k head; decays, P, and T of the inverse of I + A, per value head.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Tokens of a chunk. With 64 a state is read and written once for 64 tokens, and the products
// inside a chunk, which grow with it, are cheap here.
constexpr int kAmxChunk = 64;
constexpr int kTokenWords = kAmxChunk / 2;  // a row of a [kAmxChunk][kAmxChunk] matrix of bfloat16

// Rows of a panel and words of an operand's row: whole blocks of tiles.
constexpr int64_t amx_padded_k(int64_t K) { return (K + kBlock - 1) / kBlock * kBlock; }

struct alignas(64) AmxVectors {
  float beta[kAmxChunk];
  float step[kAmxChunk];  // exp(g_i)
  float read[kAmxChunk];  // exp(G_i) times the row scale of k_i
  // scale exp(G_i) times the row scale of q_i, and exp(G_last - G_i) times that of k_i and 1 /
  // change: what outputs and rows of U are multiplied with. Or parts of them, with the inverse of
  // the part; then q_i and k_i are multiplied with the other one, a power of two.
  float output[kAmxChunk], inverse_output[kAmxChunk], query_factor[kAmxChunk];
  float to_u[kAmxChunk], inverse_to_u[kAmxChunk], key_factor[kAmxChunk];
  float whole;            // exp(G_last)
  float change;           // what the state's change is multiplied with
  float high[kAmxChunk];  // G as two floats
  float low[kAmxChunk];
  // Factors of decays: exp(G_i - G_e), e the last token of each block of 16, and exp(G_e - G_j) of
  // j's own block; or columns alone, exp(-G_j) times the row scale of k_j.
  float rows[4][kAmxChunk];
  float columns[kAmxChunk];
};

// What a q/k head's chunk is packed to.
struct AmxOperands {
  uint32_t* rows;         // [2 kAmxChunk][K / 2]: pairs along K of the k rows, then the q rows
  uint32_t* columns;      // [K / 2][kAmxChunk]: the transpose of the k rows
  uint32_t* token_pairs;  // [K][kTokenWords]: pairs of consecutive tokens of k
  float* gram;            // k_i . k_j, then q_i . k_j: three blocks on and below the diagonal each
  float* norms;           // [2 kAmxChunk]: row scales of k, then of q: 1 without l2norm
  float* minus_a;         // [kAmxChunk][kAmxChunk]: -beta_i exp(G_i - G_j) (k_i . k_j), i > j
  float* inverse;         // [kAmxChunk][kAmxChunk]: of I + A

  // The block [kBlock][kBlock] of gram that row i, of k or after them of q, has column j in.
  static constexpr int64_t kGramFloats = int64_t{6} * kBlock * kBlock;
  HWY_INLINE float* gram_block(int64_t i, int64_t j) const {
    const int64_t in_half = i % kAmxChunk < kBlock ? 0 : 1 + j / kBlock;
    return gram + (i / kAmxChunk * 3 + in_half) * kBlock * kBlock;
  }
};

// What a value head makes of it. Rows of V_new enter everything that follows as u_i = to_u_i
// v_new_i, so that one matrix of two parts serves outputs and state:
//   U = T R, O = output (q S + P U), S <- whole S + change k^T U.
struct AmxHead {
  const AmxOperands* operands;
  SplitMatrix t;  // [kAmxChunk][kTokenWords]: to_u_i (I + A)^-1 beta_j
  // [kAmxChunk][kTokenWords]: scale exp(G_i - G_j) (q_i . k_j) / (output_i to_u_j), i >= j
  SplitMatrix p;
  uint32_t* scaled_queries;      // room for the next two, where they are not the operands
  uint32_t* scaled_token_pairs;  //
  const uint32_t* queries;       // [kAmxChunk][K / 2]: query_factor_i q_i
  const uint32_t* token_pairs;   // [K][kTokenWords]: of key_factor_i k_i
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

// k_i . k_j and q_i . k_j for the blocks on and below the diagonal, of the rows as they are.
HWY_INLINE void gram_of_tiles(Tiles& tiles, const AmxOperands& operands, int64_t words,
                              int64_t count) {
  BlockSums sums(tiles, operands.gram);
  for (int64_t first : {0, kAmxChunk}) {
    for (int64_t r = 0; r < rows_of_blocks(count); r += kBlock) {
      for (int64_t c = 0; c <= r; c += kBlock) {
        const uint32_t *a = operands.rows + (first + r) * words, *b = operands.columns + c;
        sums.begin({a, words}, {b, kAmxChunk}, operands.gram_block(first + r, c));
        for (int64_t w = kTileWords; w < words; w += kTileWords) {
          sums.add({a + w, words}, {b + w * kAmxChunk, kAmxChunk});
        }
      }
    }
  }
  sums.end();
}

// x as part times factor, for a factor that bfloat16 numbers are to be multiplied with: a power of
// two, which rounds none of them; 1 where x is of a usual size, 0 where x is, NaN where x is, which
// so stays with its token. The part is then so near 1 that neither it nor its inverse overflows
// what it is multiplied with.
struct Parted {
  Vec part, factor;
};
HWY_INLINE Parted part_of(Vec x) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u32;
  const Vec size = hn::Abs(x), one = hn::Set(d, 1);
  const auto usual = hn::And(hn::Ge(size, hn::Set(d, 0x1p-32f)), hn::Le(size, hn::Set(d, 0x1p32f)));
  const auto exponent = hn::Set(u32, 0x7f800000u), bits = hn::BitCast(u32, x);
  const Vec power = hn::IfThenElse(hn::IsNaN(x), x, hn::BitCast(d, hn::And(bits, exponent)));
  const Vec part = hn::Or(hn::BitCast(d, hn::AndNot(exponent, bits)), one);
  return {hn::IfThenElse(usual, x, part), hn::IfThenElse(usual, one, power)};
}

HWY_INLINE float power_of_two(int exponent) {
  return hn::GetLane(hn::BitCast(
      F32(), hn::Set(hn::RebindToUnsigned<F32>(), static_cast<uint32_t>(127 + exponent) << 23)));
}

HWY_INLINE void part_factors(AmxVectors* x) {
  const Vec one = hn::Set(F32(), 1);
  for (int i = 0; i < kAmxChunk; i += kLanes) {
    const Parted output = part_of(load(x->output + i)), to_u = part_of(load(x->to_u + i));
    store(output.part, x->output + i);
    store(hn::Div(one, output.part), x->inverse_output + i);
    store(output.factor, x->query_factor + i);
    store(to_u.part, x->to_u + i);
    store(hn::Div(one, to_u.part), x->inverse_to_u + i);
    store(to_u.factor, x->key_factor + i);
  }
}

// Pairs of bfloat16 times a power of two each.
HWY_INLINE __m512i scale_pairs(__m512i pairs, Vec low_factor, Vec high_factor) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const Vec low{_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
  const Vec high{_mm512_castsi512_ps(_mm512_and_si512(pairs, upper))};
  return pairs_of_bf16(finite_bf16(hn::Mul(low, low_factor)),
                       finite_bf16(hn::Mul(high, high_factor)));
}

// q and k with their factors.
HWY_INLINE void scale_operands(const AmxOperands& operands, int64_t K, AmxHead* head) {
  const F32 d;
  const AmxVectors& x = *head->vectors;
  const int64_t words = K / 2;
  const uint32_t* queries = operands.rows + kAmxChunk * words;
  for (int64_t i = 0; i < kAmxChunk; ++i) {
    const Vec factor = hn::Set(d, x.query_factor[i]);
    for (int64_t j = i * words; j < (i + 1) * words; j += kLanes) {
      const __m512i scaled = scale_pairs(_mm512_loadu_si512(queries + j), factor, factor);
      _mm512_storeu_si512(head->scaled_queries + j, scaled);
    }
  }
  for (int64_t j = 0; j < kTokenWords; j += kLanes) {
    const Vec a = load(x.key_factor + 2 * j), b = load(x.key_factor + 2 * j + kLanes);
    const Vec even = hn::ConcatEven(d, b, a), odd = hn::ConcatOdd(d, b, a);
    for (int64_t at = j; at < K * kTokenWords; at += kTokenWords) {
      const __m512i pairs = _mm512_loadu_si512(operands.token_pairs + at);
      _mm512_storeu_si512(head->scaled_token_pairs + at, scale_pairs(pairs, even, odd));
    }
  }
  head->queries = head->scaled_queries;
  head->token_pairs = head->scaled_token_pairs;
}

// Rows of -A and P, of their columns from the left up to the block of 16 on the diagonal:
// below(i, j) and on_diagonal(i, j) make 16 elements of row i from column j on, each of them
// {-a, p}. What stands on the diagonal of -A and above is not read.
struct RowsOfGates {
  Vec minus_a, p;
};
template <class Below, class OnDiagonal>
HWY_INLINE void store_rows_of_gates(const AmxOperands& operands, int64_t count,
                                    const SplitMatrix& p, const Below& below,
                                    const OnDiagonal& on_diagonal) {
  const F32 d;
  for (int64_t i = 0; i < rows_of_blocks(count); ++i) {
    float* minus_a = operands.minus_a + i * kAmxChunk;
    const int64_t diagonal = i / kLanes * kLanes;
    const auto at = [&](int64_t j) {
      if (j > diagonal) return hn::Zero(d);
      const RowsOfGates rows = j < diagonal ? below(i, j) : on_diagonal(i, j);
      store(rows.minus_a, minus_a + j);
      return rows.p;
    };
    for (int64_t j = 0; j <= diagonal; j += kBlock) {
      const Vec first = at(j), second = at(j + kLanes);
      const int64_t word = i * kTokenWords + j / 2;
      split_row(first, second, p.high + word, p.low + word);
    }
  }
}

// -A and P where an exponential of G or of its end less G may be out of range.
//
// exp(G_i - G_j) of a row in a later block of 16 than j's is exp(G_i - G_e) exp(G_e - G_j), where e
// is the last token of j's block: both at most 1, so that nothing overflows and what underflows
// would have done so anyway. That takes a tenth of the exponentials. Where G rises somewhere (g > 0
// is allowed) this does not hold, and every difference gets its own.
inline void decays_of_differences(const DeltaRuleProblem& problem, int64_t count,
                                  const AmxOperands& operands, const float* g, AmxHead* head) {
  const F32 d;
  AmxVectors& x = *head->vectors;
  bool rises = false;
  for (int i = 0; i < kAmxChunk; ++i) rises |= !(g[i] <= 0);
  const auto one = [&](const float* of, int64_t i) { return hn::Set(d, of[i]); };
  // exp(G_i - G_j) for 16 of the one and one of the other.
  const auto difference = [&](Vec to_high, Vec to_low, Vec from_high, Vec from_low) {
    return hn::Add(hn::Sub(to_high, from_high), hn::Sub(to_low, from_low));
  };
  for (int i = 0; i < kAmxChunk; i += kLanes) {
    const int end = i + kLanes - 1;
    const Vec end_high = one(x.high, end), end_low = one(x.low, end);
    store(finite_exp(difference(end_high, end_low, load(x.high + i), load(x.low + i))),
          x.columns + i);
    for (int later = i + kLanes; later < kAmxChunk; later += kLanes) {
      store(finite_exp(difference(load(x.high + later), load(x.low + later), end_high, end_low)),
            x.rows[i / kLanes] + later);
    }
  }
  const auto rows = [&](int64_t i, int64_t j, Vec decay) {
    const int64_t at = i % kBlock * kBlock + j % kBlock;
    const Vec norms = load(operands.norms + j);
    const Vec kk =
        hn::Mul(hn::Mul(one(operands.norms, i), norms), load(operands.gram_block(i, j) + at));
    const Vec qk = hn::Mul(hn::Mul(one(operands.norms, kAmxChunk + i), norms),
                           load(operands.gram_block(kAmxChunk + i, j) + at));
    const Vec scale = hn::Set(d, problem.scale * x.inverse_output[i]);
    RowsOfGates made{hn::Mul(decay, hn::Mul(hn::Neg(one(x.beta, i)), kk)),
                     hn::Mul(hn::Mul(decay, load(x.inverse_to_u + j)), hn::Mul(scale, qk))};
    if (HWY_UNLIKELY(rises)) {
      made = {finite_bf16(made.minus_a), finite_bf16(made.p)};
    }
    return made;
  };
  const auto from_j = [&](int64_t i, int64_t j) {
    return difference(one(x.high, i), one(x.low, i), load(x.high + j), load(x.low + j));
  };
  const auto below = [&](int64_t i, int64_t j) {
    if (HWY_UNLIKELY(rises)) return rows(i, j, finite_exp(from_j(i, j)));
    return rows(i, j, hn::Mul(one(x.rows[j / kLanes], i), load(x.columns + j)));
  };
  store_rows_of_gates(operands, count, head->p, below, [&](int64_t i, int64_t j) {
    // Masked before the exponential: above the diagonal the difference may be large.
    const auto on_or_below = hn::FirstN(d, static_cast<size_t>(i - j + 1));
    const Vec decay = finite_exp(hn::IfThenElseZero(on_or_below, from_j(i, j)));
    const RowsOfGates all = rows(i, j, decay);
    return RowsOfGates{all.minus_a, hn::IfThenElseZero(on_or_below, all.p)};
  });
}

// Whether all q k^T, as they are before norms, are so small that P below overflows by none.
inline bool moderate_products(const DeltaRuleProblem& problem, const AmxOperands& operands,
                              int64_t count) {
  const F32 d;
  constexpr float kMost = 0x1p64f, kMostRow = 0x1p32f;
  auto moderate = hn::Eq(hn::Zero(d), hn::Zero(d));
  if (problem.use_qk_l2norm) {  // by the lengths of rows, over which the norms are
    for (int i = 0; i < 2 * kAmxChunk; i += kLanes) {
      moderate = hn::And(moderate, hn::Ge(load(operands.norms + i), hn::Set(d, 1 / kMostRow)));
    }
    return hn::AllTrue(d, moderate);
  }
  for (int64_t i = 0; i < rows_of_blocks(count); i += kBlock) {
    for (int64_t j = 0; j <= i; j += kBlock) {
      const float* qk = operands.gram_block(kAmxChunk + i, j);
      for (int64_t at = 0; at < kBlock * kBlock; at += kLanes) {
        moderate = hn::And(moderate, hn::Le(hn::Abs(load(qk + at)), hn::Set(d, kMost)));
      }
    }
  }
  return hn::AllTrue(d, moderate);
}

// The decays of a value head, P and -A. Tokens from `count` on are padding with g = 0 and beta = 0:
// they decay nothing.
//
// Where G is not too large, decays of differences are products: exp(G_i - G_j) is what row i of S K
// is multiplied with over what row j of U is, and in P both cancel but for exp(G_last). So that U
// is neither large nor small, its rows are multiplied with 2^m and the state's change with 2^-m,
// half of the way. Else they are exponentials of differences, which neither overflow nor lose
// digits, and factors are parted.
inline void compute_amx_gates(const DeltaRuleProblem& problem, const Sequence& sequence, int64_t t0,
                              int64_t count, int64_t number, const AmxOperands& operands,
                              AmxHead* head) {
  const F32 d;
  AmxVectors& x = *head->vectors;
  const int64_t words = amx_padded_k(problem.shape.K) / 2;
  alignas(64) float g[kAmxChunk] = {};
  std::fill_n(x.beta, kAmxChunk, 0.0f);
  compute_gates(problem.gates, sequence, t0, count, number, g, x.beta);
  // G in double, kept as two floats, for the reason that chunk_gates-inl.h gives.
  double sum = 0;
  for (int i = 0; i < kAmxChunk; ++i) {
    sum += static_cast<double>(g[i]);
    x.high[i] = static_cast<float>(sum);
    x.low[i] = static_cast<float>(sum - static_cast<double>(x.high[i]));
  }
  const auto one = [&](const float* of, int64_t i) { return hn::Set(d, of[i]); };
  constexpr int kLast = kAmxChunk - 1;
  x.whole = hn::GetLane(finite_exp(one(x.high, kLast)));
  // What real layers reach in a chunk is mostly less. NaN is not, and takes the longer way.
  bool usual = std::abs(x.high[kLast]) <= 64;
  const float up = usual ? power_of_two(static_cast<int>(x.high[kLast] * -0.72f)) : 1;
  const float down = 1 / up;
  const auto within = [&](Vec v, float least, float most) {
    const Vec size = hn::Abs(v);
    return hn::AllTrue(d, hn::And(hn::Ge(size, hn::Set(d, least)), hn::Le(size, hn::Set(d, most))));
  };
  for (int i = 0; i < kAmxChunk; i += kLanes) {
    const Vec high = load(x.high + i), low = load(x.low + i), norms = load(operands.norms + i);
    const Vec from_start = finite_exp(high);
    const Vec query = hn::Mul(hn::Set(d, problem.scale), load(operands.norms + kAmxChunk + i));
    const Vec to_end = hn::Add(hn::Sub(one(x.high, kLast), high), hn::Sub(one(x.low, kLast), low));
    const Vec output = finite(hn::Mul(from_start, query));
    const Vec to_u = finite(hn::Mul(finite_exp(to_end), norms));
    usual &= within(output, 0x1p-104f, 0x1p52f) && within(to_u, down * 0x1p-52f, down * 0x1p52f);
    store(finite_exp(load(g + i)), x.step + i);
    store(finite(hn::Mul(from_start, norms)), x.read + i);
    store(output, x.output + i);
    store(to_u, x.to_u + i);
  }
  usual = usual && moderate_products(problem, operands, count);
  head->operands = &operands;
  head->queries = operands.rows + kAmxChunk * words;
  head->token_pairs = operands.token_pairs;
  if (HWY_UNLIKELY(!usual)) {
    x.change = 1;
    part_factors(&x);
    scale_operands(operands, 2 * words, head);
    decays_of_differences(problem, count, operands, g, head);
    return;
  }
  x.change = down;
  const Vec inverse_whole = hn::Set(d, 1 / x.whole), inverse_p = hn::Set(d, down / x.whole);
  for (int i = 0; i < kAmxChunk; i += kLanes) {
    const Vec to_end = load(x.to_u + i), to_u = hn::Mul(hn::Set(d, up), to_end);
    store(hn::Mul(to_end, inverse_whole), x.columns + i);
    store(to_u, x.to_u + i);
    store(hn::Div(hn::Set(d, 1), to_u), x.inverse_to_u + i);
  }
  const auto rows = [&](int64_t i, int64_t j) {
    const int64_t at = i % kBlock * kBlock + j % kBlock;
    const Vec kk = load(operands.gram_block(i, j) + at);
    const Vec qk = load(operands.gram_block(kAmxChunk + i, j) + at);
    const Vec factor = hn::Set(d, -x.beta[i] * x.read[i]);
    return RowsOfGates{hn::Mul(hn::Mul(factor, load(x.columns + j)), kk), hn::Mul(inverse_p, qk)};
  };
  store_rows_of_gates(operands, count, head->p, rows, [&](int64_t i, int64_t j) {
    const RowsOfGates all = rows(i, j);
    const auto on_or_below = hn::FirstN(d, static_cast<size_t>(i - j + 1));
    return RowsOfGates{all.minus_a, hn::IfThenElseZero(on_or_below, all.p)};
  });
}

// (I + A)^-1 by forward substitution in float32, eight rows by two vectors at a time, and T of it
// in two parts. Columns that are zero, right of a block on the diagonal, are neither computed nor
// read. Returns whether all of it is finite; kFinite makes a row so before it is a factor: sums of
// finite products may overflow (to an infinity that stays one), but are never NaN.
template <bool kFinite>
inline bool substitute_for_tiles(const AmxOperands& operands, int64_t count, const AmxHead& head) {
  const F32 d;
  constexpr int64_t n = kAmxChunk;
  const AmxVectors& x = *head.vectors;
  static_assert(kPanel == kBlock && kBlock % kRows == 0);
  Vec zeros = hn::Zero(d);  // NaN once anything is not finite
  for (int64_t c = 0; c < rows_of_blocks(count); c += kBlock) {
    for (int64_t r = c; r < rows_of_blocks(count); r += kRows) {
      Tile<kRows, kVecs> tile;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          // The identity's element of this row is in column r + i.
          const auto here = hn::Eq(hn::Iota(d, static_cast<float>(c + j * kLanes)),
                                   hn::Set(d, static_cast<float>(r + i)));
          tile.at[i][j] = hn::IfThenElseZero(here, hn::Set(d, 1.0f));
        }
      }
      const float* minus_a = operands.minus_a + r * n;
      add_product<n>(tile, minus_a + c, 1, operands.inverse + c * n + c, n, r - c);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          if constexpr (kFinite) {
            tile.at[i][j] = finite_bf16(tile.at[i][j]);
          } else {
            zeros = hn::MulAdd(tile.at[i][j], hn::Zero(d), zeros);
          }
        }
#pragma GCC unroll 16
        for (int m = i + 1; m < kRows; ++m) {
          const Vec a = hn::Set(d, minus_a[m * n + r + i]);
#pragma GCC unroll 16
          for (int j = 0; j < kVecs; ++j) {
            tile.at[m][j] = hn::MulAdd(a, tile.at[i][j], tile.at[m][j]);
          }
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = r + i, at = row * kTokenWords + c / 2;
        const Vec to_u = hn::Set(d, x.to_u[row]);
        const auto scaled = [&](int j) {
          return finite_bf16(hn::Mul(to_u, hn::Mul(tile.at[i][j], load(x.beta + c + j * kLanes))));
        };
        split_row(scaled(0), scaled(1), head.t.high + at, head.t.low + at);
        store(tile.at[i][0], operands.inverse + row * n + c);
        store(tile.at[i][1], operands.inverse + row * n + c + kLanes);
      }
    }
  }
  return hn::AllTrue(d, hn::Eq(zeros, zeros));
}

inline void invert_for_tiles(const AmxOperands& operands, int64_t count, const AmxHead& head) {
  if (HWY_UNLIKELY(!substitute_for_tiles<false>(operands, count, head))) {
    substitute_for_tiles<true>(operands, count, head);
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
