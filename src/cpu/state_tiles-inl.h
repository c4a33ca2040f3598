// Decode of a bfloat16 state in layout VK with the dot products on AMX's tiles: 16 rows of the
// state are a tile as they lie in memory, k and q are columns of the other. The vector units are
// left with the update, which is what they are busy with while the tiles take the next rows.
//
// k and q that are both given as bfloat16 are columns as they are, and their norms are factors of
// the sums: the products are exact. Of others each element is cut into three numbers of bfloat16,
// which together are all of its bits (of numbers above 2^-100, say). Sums are in float32.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Parts that a float is cut into. A vector has four columns, of which the third is zero.
constexpr int kFloatParts = 3, kPartColumns = 4;

// Cuts pairs of floats into parts: what of a number is in none of the first p is in those after it.
// (An infinity has a NaN in its second.)
HWY_INLINE void cut(Vec even, Vec odd, __m512i (&parts)[kFloatParts]) {
  const F32 d;
  const Vec upper = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<F32>(), 0xffff0000u));
#pragma GCC unroll 3
  for (int p = 0; p < kFloatParts; ++p) {
    const Vec cut_even = hn::And(even, upper), cut_odd = hn::And(odd, upper);
    parts[p] = pairs_of_bf16(cut_even, cut_odd);
    even = hn::Sub(even, cut_even);
    odd = hn::Sub(odd, cut_odd);
  }
}

// The columns of a vector, `stride` apart.
HWY_INLINE void store_part_columns(const __m512i (&parts)[kFloatParts], uint32_t* to,
                                   int64_t stride) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i low_01 = _mm512_unpacklo_epi32(parts[0], parts[1]);
  const __m512i high_01 = _mm512_unpackhi_epi32(parts[0], parts[1]);
  const __m512i low_2 = _mm512_unpacklo_epi32(zero, parts[2]);
  const __m512i high_2 = _mm512_unpackhi_epi32(zero, parts[2]);
  // Row i of each of the four blocks of four rows.
  const __m512i rows[4] = {
      _mm512_unpacklo_epi64(low_01, low_2), _mm512_unpackhi_epi64(low_01, low_2),
      _mm512_unpacklo_epi64(high_01, high_2), _mm512_unpackhi_epi64(high_01, high_2)};
  for_each_index<4>([&](auto block) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (4 * block() + i) * stride),
                       _mm512_extracti32x4_epi32(rows[i], decltype(block)::value));
    }
  });
}

// Words of both in turns: a column of each, side by side.
HWY_INLINE void store_interleaved(__m512i a, __m512i b, uint32_t* to) {
  const __m512i lower = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi32(a, lower, b));
  _mm512_storeu_si512(to + kLanes, _mm512_permutex2var_epi32(a, upper, b));
}

// Prefetches to the second-level cache of some lines that are read, and, where that is another
// place, of those that will be written.
template <bool kApart>
struct FetchToL2 {
  const std::byte* read;
  const std::byte* written;

  HWY_INLINE void line(int64_t i) const {
    __builtin_prefetch(read + i * kLine, 0, 2);
    if constexpr (kApart) __builtin_prefetch(written + i * kLine, 0, 2);
    asm volatile("");  // an effect, so that the calls are not dropped
  }

  static constexpr int64_t kLine = 64;
};

// A step on rows of K = 32 kSteps elements. Those of a slot are K apart. kParts: numbers of
// bfloat16 that an element of k and q is, 1 or kFloatParts.
template <int kSteps, int kParts>
class TileDots {
 public:
  static constexpr int64_t kK = kSteps * kPairLanes;

  static int64_t floats() {
    return kMostOperands * (kOperandWords + kK) + 2 * kTileRows * kColumns;
  }
  static constexpr TileWords tile_words() {
    TileWords words = kFullTiles;
    words[kSum] = kColumns;
    for (int s = 0; s < kSteps; ++s) words[kOperand + s] = kColumns;
    return words;
  }

  TileDots(Tiles& tiles, Carver& carver)
      : tiles_(tiles),
        operands_(reinterpret_cast<uint32_t*>(carver.take(kMostOperands * kOperandWords))),
        k_pairs_(carver.take(kMostOperands * kK)),
        sums_(carver.take(kTileRows * kColumns)),
        next_sums_(carver.take(kTileRows * kColumns)) {}

  // Whether steps on a state that goes to this dtype read q and k of their tokens as floats.
  static bool reads_rows(const StateShape& shape, DType to) {
    return kParts != 1 || to != DType::kBF16 || shape.V % kTileRows != 0;
  }

  // k and q of the steps that name this operand.
  void prepare(int64_t operand, const Token& token, const GivenHead& given) {
    if constexpr (kParts == 1) {
      prepare_given(operand, given);
    } else {
      prepare_parts(operand, token);
    }
    if (loaded_ == operand) loaded_ = -1;
  }

  // As step() (state-inl.h), of a token that is `operand`. next_operand: of the token that takes
  // the rows behind the block's, next; -1 where others come next.
  void step(const StateShape& state, const StateBlock& from, const StateBlock& to,
            const Token& token, const TokenColumns& columns, int64_t width, int64_t operand,
            int64_t next_operand) {
    if (from.dtype != DType::kBF16) {  // the running state of several tokens
      InPlaceDots().step(state, from, to, token, columns, width, operand, next_operand);
      return;
    }
    const int64_t whole = width / kTileRows * kTileRows;
    if (whole > 0)
      step_whole(from, to, token, columns, whole, operand, whole == width ? next_operand : -1);
    if (whole == width) return;
    gdn::cpu::GDN_ISA::step(state, state.after(from, whole), state.after(to, whole), token,
                            columns.after(whole), width - whole);
  }

 private:
  // Tiles: the sums; three for A, in turns; B for every 32 elements.
  static constexpr int kSum = 0, kState = 1, kStates = 3, kOperand = kState + kStates;
  static_assert(kOperand + kSteps <= 8);
  // Columns of B and of the sums: those of k, then those of q.
  static constexpr int kOfVector = kParts == 1 ? 1 : kPartColumns, kColumns = 2 * kOfVector;
  static constexpr int64_t kOperandWords = kK / 2 * kColumns;
  static constexpr int64_t kRowBytes = kK * static_cast<int64_t>(sizeof(bf16));

  void prepare_parts(int64_t operand, const Token& token) {
    uint32_t* const to = operands_ + operand * kOperandWords;
    float* const k_pairs = k_pairs_ + operand * kK;
    alignas(64) float q_pairs[kK];
    to_pair_order(token.k, kK, kK, k_pairs);
    to_pair_order(token.q, kK, kK, q_pairs);
    for (int64_t s = 0; s < kSteps; ++s) {
      const auto columns = [&](const float* pairs, uint32_t* first) {
        __m512i parts[kFloatParts];
        cut(load(pairs + s * kPairLanes), load(pairs + s * kPairLanes + kLanes), parts);
        store_part_columns(parts, first + s * kTileRows * kColumns, kColumns);
      };
      columns(k_pairs, to);
      columns(q_pairs, to + kPartColumns);
    }
    factors_[operand].kq = token.kq;
  }

  void prepare_given(int64_t operand, const GivenHead& given) {
    __m512i k[kSteps], q[kSteps];
    factors_[operand] = load_given(given, k, q, k_pairs_ + operand * kK);
    uint32_t* const to = operands_ + operand * kOperandWords;
    for (int64_t s = 0; s < kSteps; ++s) {
      store_interleaved(k[s], q[s], to + s * kTileRows * kColumns);
    }
  }

  // What is fetched while a block of 16 rows is updated: as much as a block, kStateToL2 ahead on
  // the way, and where the way goes from one block of memory of that size to the next: with K of
  // 128 those are pages. (That a page is asked for within one block, from its first line to its
  // last, is worth a third of the speed from memory, where a state does not begin with a page.)
  class AheadInBlocks {
   public:
    AheadInBlocks(const Way& way, const std::byte* data)
        : way_(way),
          at_(floor(data + way.ahead(data, kStateToL2))),
          ended_(way.next == nullptr || way.end - data <= kStateToL2) {}

    static const std::byte* floor(const std::byte* p) {
      return p - reinterpret_cast<uintptr_t>(p) % kBlockBytes;
    }
    // The block that holds the way's end is begun earlier, so as not to fetch what is behind that;
    // what would have been fetched of the way's next part is fetched at once.
    const std::byte* block() {
      if (ended_ || at_ + kBlockBytes <= way_.end) return at_;
      const FetchToL2<false> next = {way_.next, nullptr};
      const int64_t bytes = at_ + kBlockBytes - way_.end;
      for (int64_t i = 0; i * FetchToL2<false>::kLine < bytes; ++i) next.line(i);
      return way_.end - kBlockBytes;
    }
    void advance() {
      at_ += kBlockBytes;
      if (!ended_ && at_ >= way_.end) {
        ended_ = true;
        at_ = floor(way_.next + (at_ - way_.end));
      }
    }

   private:
    static constexpr int64_t kBlockBytes = kTileRows * kRowBytes;
    const Way way_;
    const std::byte* at_;
    bool ended_;  // at_ is past the way's end, or the way has none
  };

  // The gates of a step, as what v and the step's sums are multiplied by: v_new = beta (v - decay
  // S k), out = scale (decay S q + v_new k q).
  struct Gates {
    Vec beta, factor_k, factor_q, kq, scale;

    HWY_INLINE Gates(const Token& token, const GivenFactors& factors)
        : beta(hn::Set(F32(), token.beta)),
          factor_k(finite(hn::Set(F32(), token.beta * (token.decay * factors.k)))),
          factor_q(hn::Set(F32(), token.decay * factors.q)),
          kq(hn::Set(F32(), factors.kq)),
          scale(hn::Set(F32(), token.scale)) {}

    // sum(c): column c. The smaller parts first.
    template <class Sum>
    HWY_INLINE Vec v_new(Vec v, const Sum& sum) const {
      v = hn::Mul(beta, v);
      if constexpr (kParts != 1) {
        v = hn::NegMulAdd(factor_k, sum(kPartColumns - 1), v);
        v = hn::NegMulAdd(factor_k, sum(1), v);
      }
      return with_plain_nan(F32(), hn::NegMulAdd(factor_k, sum(0), v));
    }
    template <class Sum>
    HWY_INLINE Vec out(Vec v_new, const Sum& sum) const {
      Vec dot = sum(kOfVector);
      if constexpr (kParts != 1) {
        dot = hn::Add(hn::Add(sum(2 * kPartColumns - 1), sum(kPartColumns + 1)), dot);
      }
      return hn::Mul(scale, hn::MulAdd(v_new, kq, hn::Mul(factor_q, dot)));
    }
  };

  void step_whole(const StateBlock& from, const StateBlock& to, const Token& token,
                  const TokenColumns& columns, int64_t width, int64_t operand,
                  int64_t next_operand) {
    const Gates gates(token, factors_[operand]);
    if (!started_) start(operand, elements<bf16>(from));
    started_ = false;
    if (to.data == from.data) {
      step_in_pairs<false>(from, to, gates, token.decay, operand, columns, width, next_operand);
    } else if (to.data != nullptr && to.dtype == DType::kBF16) {
      step_in_pairs<true>(from, to, gates, token.decay, operand, columns, width, next_operand);
    } else {
      for (int64_t row = 0; row < width; row += kTileRows) {
        if (row > 0) start(operand, elements<bf16>(from) + row * kK);
        finish(gates, columns.after(row));
      }
    }
    if (to.data == nullptr || to.dtype == DType::kBF16) return;
    with_element(to.dtype, [&](auto element) {
      update_rows<true>(elements<bf16>(from), from.stride, elements<decltype(element)>(to),
                        to.stride, token.k, token.decay, columns.v_new, kK, width, kStateToL1);
    });
  }

  HWY_INLINE void use(int64_t operand) {
    if (loaded_ == operand) return;
    loaded_ = operand;
    const uint32_t* const from = operands_ + operand * kOperandWords;
    for_each_index<kSteps>([&](auto s) __attribute__((always_inline)) {
      tiles_.template load<kOperand + s()>(from + s() * kTileRows * kColumns, kColumns);
    });
  }

  template <class T>
  static T* elements(const StateBlock& block) {
    return reinterpret_cast<T*>(block.data);
  }

  // The products of 16 rows in parts, for other work to be done in between. A product has its rows
  // loaded two parts before: waiting for memory it keeps the processor from looking ahead at all.
  static constexpr int kWorkParts = kSteps + 3;
  // Lines of a block's update from one part to the next.
  static constexpr int kEvery = kSteps * kTileRows / (kWorkParts + 1);
  static_assert((kWorkParts - 1) * kEvery < kSteps * kTileRows);
  template <int kPart>
  HWY_INLINE void do_part(const bf16* rows, float* sums) const {
    if constexpr (kPart == 0) tiles_.template zero<kSum>();
    if constexpr (kPart < kSteps) {
      tiles_.template load<kState + kPart % kStates>(rows + kPart * kPairLanes, kK / 2);
    }
    constexpr int kStep = kPart - 2;
    if constexpr (kStep >= 0 && kStep < kSteps) {
      tiles_.template dot<kSum, kState + kStep % kStates, kOperand + kStep>();
    }
    if constexpr (kStep == kSteps) tiles_.template store<kSum>(sums, kColumns);
  }
  // All of them at once, of the rows that come first.
  void start(int64_t operand, const bf16* rows) {
    use(operand);
    for_each_index<kWorkParts>([&](auto part) __attribute__((always_inline)) {
      this->template do_part<part()>(rows, sums_);
    });
  }

  // v_new and out of 16 rows, from their sums.
  HWY_INLINE void finish(const Gates& gates, const TokenColumns& columns) const {
    const F32 d;
    Vec column[kColumns];
    if constexpr (kParts == 1) {
      hn::LoadInterleaved2(d, sums_, column[0], column[1]);
    } else {
      Vec low[kPartColumns], high[kPartColumns];  // of k and q in turns
      hn::LoadInterleaved4(d, sums_, low[0], low[1], low[2], low[3]);
      hn::LoadInterleaved4(d, sums_ + kPartColumns * kLanes, high[0], high[1], high[2], high[3]);
      for (int c = 0; c < kPartColumns; ++c) {
        column[c] = hn::ConcatEven(d, high[c], low[c]);
        column[kPartColumns + c] = hn::ConcatOdd(d, high[c], low[c]);
      }
    }
    const auto sum = [&](int c) { return column[c]; };
    const Vec v_new = gates.v_new(load(columns.v), sum);
    store(v_new, columns.v_new);
    store(gates.out(v_new, sum), columns.out);
  }

  template <bool kApart>
  HWY_NOINLINE void step_in_pairs(const StateBlock& from, const StateBlock& to, const Gates& gates,
                                  float decay, int64_t operand, TokenColumns columns, int64_t width,
                                  int64_t next_operand) {
    const Vec factor = with_plain_nan(F32(), hn::Set(F32(), decay));
    const Gates in_registers = gates;  // by reference gcc leaves them in memory
    const float* const k_pairs = k_pairs_ + operand * kK;
    const Way way = {from.data + width * kRowBytes, from.next};
    AheadInBlocks ahead(way, from.data);
    const bf16* p = elements<bf16>(from);
    const int64_t apart = kApart ? elements<bf16>(to) - p : 0;
    const bf16* const end = p + width * kK;
    const bool more = next_operand >= 0;
    while (p < end) {
      bf16* const q = const_cast<bf16*>(p) + apart;
      const bool last = end - p == kTileRows * kK;
      if (last && more) use(next_operand);
      const FetchToL2<kApart> fetch = {ahead.block(),
                                       AheadInBlocks::floor(bytes_after(q, kStateToL2))};
      const std::byte* const to_l1 = bytes_after(p, way.ahead(p, kStateToL1));
      if (last && !more) {
        update_block<false, kApart>(in_registers, factor, k_pairs, p, q, columns, fetch, to_l1);
      } else {
        update_block<true, kApart>(in_registers, factor, k_pairs, p, q, columns, fetch, to_l1);
      }
      columns = columns.after(kTileRows);
      std::swap(sums_, next_sums_);
      p += kTileRows * kK;
      ahead.advance();
    }
    started_ = more;
  }

  // The update of 16 rows, one column of lines after the other, with the parts of the next rows'
  // products in between where kProducts. Column by column, because the next rows are loaded so: a
  // load waits for a store in flight whose address has its last twelve bits, and with K of 128 a
  // column of the next rows is loaded when one and a half to three others were stored since.
  template <bool kProducts, bool kApart>
  HWY_INLINE void update_block(const Gates gates, const Vec decay, const float* k_pairs,
                               const bf16* p, bf16* q, const TokenColumns& columns,
                               FetchToL2<kApart> fetch, const std::byte* to_l1) const {
    asm volatile("" : "+r"(fetch.read), "+r"(to_l1));  // no pointer for every line
    if constexpr (kApart) asm volatile("" : "+r"(fetch.written));
    const F32 d;
    finish(gates, columns);
    Vec u[kTileRows];
    for_each_index<kTileRows>([&](auto r) __attribute__((always_inline)) {
      u[r()] = hn::Set(d, columns.v_new[r()]);
    });
    const bf16* const next = p + kTileRows * kK;
    for_each_index<kSteps>([&](auto s) __attribute__((always_inline)) {
      const float* const part = k_pairs + s() * kPairLanes;
      const PairUpdate update = {decay, load(part), load(part + kLanes)};
      for_each_index<kTileRows>([&](auto r) __attribute__((always_inline)) {
        constexpr int kNth = s() * kTileRows + r();
        if constexpr (kProducts && kNth % kEvery == 0 && kNth / kEvery < kWorkParts) {
          this->template do_part<kNth / kEvery>(next, next_sums_);
        }
        fetch.line(kNth);
        __builtin_prefetch(to_l1 + kNth * fetch.kLine);
        constexpr int64_t kAt = r() * kK + s() * kPairLanes;
        update.line(p + kAt, q + kAt, u[r()]);
      });
    });
  }

  Tiles& tiles_;
  uint32_t* operands_;  // [K / 2][kColumns] pairs each
  float* k_pairs_;      // k of each operand in pair order
  GivenFactors factors_[kMostOperands];
  float* sums_;           // [16][kColumns] of the rows that come first
  float* next_sums_;      // of the rows behind them
  int64_t loaded_ = -1;   // the operand that is in the tiles
  bool started_ = false;  // the first rows have their sums
};

// Calls body with the K / 32 of the sizes that models have: each is compiled for itself.
template <class Body>
HWY_INLINE void with_tile_steps(const StateShape& state, const Body& body) {
  if (state.rows() && state.K == 128) body(std::integral_constant<int, 4>());
  if (state.rows() && state.K == 64) body(std::integral_constant<int, 2>());
}

inline int64_t dots_floats(const StateShape& state) {
  int64_t floats = 0;
  with_tile_steps(state, [&](auto steps) {
    floats = std::max(TileDots<steps(), 1>::floats(), TileDots<steps(), kFloatParts>::floats());
  });
  return floats;
}

// Calls body(dots) with what takes the steps of a problem.
template <class Body>
HWY_INLINE void with_dots(const DeltaRuleProblem& problem, const StateShape& state, Carver& carver,
                          const Body& body) {
  bool done = false;
  const auto with_tiles = [&](auto steps, auto parts) {
    using Dots = TileDots<steps(), parts()>;
    Tiles tiles(Dots::tile_words());
    Dots dots(tiles, carver);
    body(dots);
    done = true;
  };
  if (problem.initial_state.dtype == DType::kBF16) {
    const bool whole = problem.q.dtype == DType::kBF16 && problem.k.dtype == DType::kBF16;
    with_tile_steps(state, [&](auto steps) {
      if (whole) {
        with_tiles(steps, std::integral_constant<int, 1>());
      } else {
        with_tiles(steps, std::integral_constant<int, kFloatParts>());
      }
    });
  }
  if (done) return;
  InPlaceDots dots;
  body(dots);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
