// Decode of a bfloat16 state in layout VK with the dot products on AMX's tiles: 16 rows of the
// state are a tile as they lie in memory, k and q are columns of the other. The vector units are
// left with the update, which is what they are busy with while the tiles take the next rows.
//
// The products are as exact as those of floats: k and q are split into three numbers of bfloat16
// each, which together are all of their bits (of numbers above 2^-100, say), and sums are in
// float32. Where the state has an infinity they are NaN, as parts are zero.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Calls body(std::integral_constant<int, i>()) for i from 0 to kCount - 1.
template <int kCount, int kFirst = 0, class Body>
HWY_INLINE void for_each_index(const Body& body) {
  if constexpr (kFirst < kCount) {
    body(std::integral_constant<int, kFirst>());
    for_each_index<kCount, kFirst + 1>(body);
  }
}

// Parts that a float is cut into. A vector has four columns, of which the third is zero: the sums
// of the smaller parts join before the first.
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

// Lane i: the sum of floats i * kTileWords to i * kTileWords + 3.
HWY_INLINE Vec sums_of_part_columns(const float* from) {
  Vec quads[kQuad];  // of rows i, 4 + i, 8 + i, 12 + i
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto row = [&](int block) { return _mm_load_ps(from + (4 * block + i) * kTileWords); };
    __m512 quad = _mm512_castps128_ps512(row(0));
    quad = _mm512_mask_broadcast_f32x4(quad, 0x00f0, row(1));
    quad = _mm512_mask_broadcast_f32x4(quad, 0x0f00, row(2));
    quads[i] = Vec{_mm512_mask_broadcast_f32x4(quad, 0xf000, row(3))};
  }
  return sums_in_blocks(quads);
}

// Prefetches to the second-level cache: a row that is read from there, and written as far ahead of
// its own place where that is another.
template <bool kApart>
struct FetchToL2 {
  const std::byte* read;
  const bf16* to;

  HWY_INLINE void line(int64_t element) const {
    __builtin_prefetch(read + element * static_cast<int64_t>(sizeof(bf16)), 0, 2);
    if constexpr (kApart) __builtin_prefetch(bytes_after(to + element, kStateToL2), 0, 2);
    asm volatile("");  // an effect, so that the calls are not dropped
  }
};

// A step on rows of K = 32 kSteps elements. Those of a slot are K apart.
template <int kSteps>
class TileDots {
 public:
  static constexpr int64_t kK = kSteps * kPairLanes;

  static int64_t floats() { return kMostOperands * (kOperandWords + kK) + kSums; }

  TileDots(Tiles& tiles, Carver& carver)
      : tiles_(tiles),
        operands_(reinterpret_cast<uint32_t*>(carver.take(kMostOperands * kOperandWords))),
        k_pairs_(carver.take(kMostOperands * kK)),
        sums_(carver.take(kSums)) {}

  // k and q of the steps that name this operand.
  void prepare(int64_t operand, const Token& token) {
    alignas(64) float q_pairs[kK];
    float* const k_pairs = k_pairs_ + operand * kK;
    uint32_t* const to = operands_ + operand * kOperandWords;
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
    start(operand, from, width);
    const int64_t whole = width / kTileRows * kTileRows;
    const int64_t ahead = whole == width ? next_operand : -1;
    const float* const k_pairs = k_pairs_ + operand * kK;
    if (to.data == from.data) {
      step_in_pairs<false>(from, to, token, k_pairs, columns, whole, ahead);
    } else if (to.data != nullptr && to.dtype == DType::kBF16) {
      step_in_pairs<true>(from, to, token, k_pairs, columns, whole, ahead);
    } else {
      step_by_rows(state, from, to, token, columns, whole, operand);
    }
    if (whole == width) return;
    gdn::cpu::GDN_ISA::step(state, state.after(from, whole), state.after(to, whole), token,
                            columns.after(whole), width - whole);
  }

 private:
  // Begins with the first rows of a block of columns, if that has not been done.
  void start(int64_t operand, const StateBlock& from, int64_t width) {
    if (from.dtype != DType::kBF16 || width < kTileRows || started_) return;
    started_ = true;
    use(operand);
    for_each_index<kWorkParts>(
        [&](auto part) { this->template do_part<part()>(elements<bf16>(from), sums_); });
  }

  // Tiles: the sums; two for A, in turns; B for every 32 elements.
  static constexpr int kSum = 0, kState = 1, kOperand = 4;
  // Columns of B: those of k, then those of q. A tile has eight more, which nobody reads the sums
  // of: they are the row after it.
  static constexpr int64_t kColumns = 2 * kPartColumns;
  static constexpr int64_t kOperandWords = (kK / 2 + 1) * kColumns;
  static constexpr int64_t kRowBytes = kK * static_cast<int64_t>(sizeof(bf16));
  static constexpr int64_t kSums = kTileRows * kTileWords;

  HWY_INLINE void use(int64_t operand) {
    if (loaded_ == operand) return;
    loaded_ = operand;
    const uint32_t* const from = operands_ + operand * kOperandWords;
    for_each_index<kSteps>([&](auto s) {
      tiles_.template load<kOperand + s()>(from + s() * kTileRows * kColumns, kColumns);
    });
  }

  template <class T>
  static T* elements(const StateBlock& block) {
    return reinterpret_cast<T*>(block.data);
  }

  // The products of 16 rows in parts, for other work to be done in between: the processor looks
  // ahead some five rows, past which the tiles' work stands in line. A product has its rows loaded
  // a part before: waiting for memory it keeps the processor from looking ahead at all.
  static constexpr int kWorkParts = kSteps + 2;
  template <int kPart>
  HWY_INLINE void do_part(const bf16* rows, float* sums) const {
    if constexpr (kPart == 0) tiles_.template zero<kSum>();
    if constexpr (kPart > 0 && kPart <= kSteps) {
      tiles_.template dot<kSum, kState + (kPart - 1) % 2, kOperand + kPart - 1>();
    }
    if constexpr (kPart < kSteps) {
      tiles_.template load<kState + kPart % 2>(rows + kPart * kPairLanes, kK / 2);
    }
    if constexpr (kPart == kSteps + 1) tiles_.template store<kSum>(sums, kTileWords);
  }

  // v_new and out of 16 rows.
  static HWY_INLINE void finish(const Token& token, const TokenColumns& columns,
                                const float* sums) {
    finish_columns(F32(), token, sums_of_part_columns(sums),
                   sums_of_part_columns(sums + kPartColumns), columns);
  }

  template <bool kApart>
  HWY_NOINLINE void step_in_pairs(const StateBlock& from, const StateBlock& to, const Token& token,
                                  const float* k_pairs, const TokenColumns& columns, int64_t width,
                                  int64_t next_operand) {
    const PairUpdate<kSteps> update(k_pairs, token.decay);
    const Way way = {from.data + width * kRowBytes, from.next};
    const std::byte* ahead = from.data + way.ahead(from.data, kStateToL2);
    const bf16* p = elements<bf16>(from);
    const int64_t apart = kApart ? elements<bf16>(to) - p : 0;
    const bf16* const end = p + width * kK;
    const bool more = next_operand >= 0;
    TokenColumns at = columns;
    float* const sums = sums_;
    while (p < end) {
      finish(token, at, sums);
      bf16* const q = const_cast<bf16*>(p) + apart;
      const bool last = end - p == kTileRows * kK;
      if (last && more) use(next_operand);
      if (last && !more) {
        update_block<false, kApart>(update, p, q, at.v_new, sums, ahead);
      } else {
        update_block<true, kApart>(update, p, q, at.v_new, sums, ahead);
      }
      at = at.after(kTileRows);
      p += kTileRows * kK;
      ahead += kTileRows * kRowBytes;
      if (ahead == way.end && way.next != nullptr) {
        ahead = way.next;
        // A branch, and the pointer in one register: a load from the stack waits for a store to the
        // state that has its last twelve bits of address, and for memory with it. A prefetch whose
        // address comes from such a load is late.
        asm volatile("" : "+r"(ahead));
      }
    }
    started_ = more && width > 0;
  }

  // The update of 16 rows, with the parts of the next ones' products in between where kProducts.
  // (`update` by value: what is passed by reference gcc leaves in memory.)
  template <bool kProducts, bool kApart, int kPart = 0>
  HWY_INLINE void update_block(const PairUpdate<kSteps> update, const bf16* p, bf16* q,
                               const float* v_new, float* sums, const std::byte* ahead) const {
    if constexpr (kPart == 0) asm volatile("" : "+r"(ahead));  // no pointer for every line
    if constexpr (kPart < kWorkParts) {
      constexpr int64_t kShare = kTileRows / kWorkParts, kBegin = kPart * kShare;
      constexpr int64_t kEnd = kPart + 1 == kWorkParts ? int64_t{kTileRows} : kBegin + kShare;
      if constexpr (kProducts) do_part<kPart>(p + kTileRows * kK, sums);
      for (int64_t row = kBegin; row < kEnd; ++row) {
        update.row(p + row * kK, q + row * kK, v_new[row],
                   FetchToL2<kApart>{ahead + row * kRowBytes, q + row * kK});
      }
      update_block<kProducts, kApart, kPart + 1>(update, p, q, v_new, sums, ahead);
    }
  }

  // To another dtype, or nowhere.
  HWY_NOINLINE void step_by_rows(const StateShape& state, const StateBlock& from,
                                 const StateBlock& to, const Token& token,
                                 const TokenColumns& columns, int64_t width, int64_t operand) {
    for (int64_t first = 0; first < width; first += kTileRows) {
      start(operand, state.after(from, first), kTileRows);
      finish(token, columns.after(first), sums_);
      started_ = false;
    }
    if (to.data == nullptr) return;
    with_element(to.dtype, [&](auto element) {
      update_rows<true>(elements<bf16>(from), from.stride, elements<decltype(element)>(to),
                        to.stride, token.k, token.decay, columns.v_new, kK, width, kStateToL1);
    });
  }

  Tiles& tiles_;
  uint32_t* operands_;   // [K / 2][kColumns] pairs each
  float* k_pairs_;       // k of each operand in pair order
  float* sums_;          // of the next 16 rows
  int64_t loaded_ = -1;  // the operand that is in the tiles
  bool started_ = false;
};

// Of the sizes that models have: each is compiled for itself.
template <class Body>
HWY_INLINE void with_tile_steps(const StateShape& state, const Body& body) {
  if (state.rows() && state.K == 128) body(std::integral_constant<int, 4>());
  if (state.rows() && state.K == 64) body(std::integral_constant<int, 2>());
}

inline int64_t dots_floats(const StateShape& state) {
  int64_t floats = 0;
  with_tile_steps(state, [&](auto steps) { floats = TileDots<steps()>::floats(); });
  return floats;
}

// Calls body(dots) with what takes the steps from a state of that dtype.
template <class Body>
HWY_INLINE void with_dots(const StateShape& state, DType dtype, Carver& carver, const Body& body) {
  bool done = false;
  if (dtype == DType::kBF16) {
    with_tile_steps(state, [&](auto steps) {
      Tiles tiles;
      TileDots<steps()> dots(tiles, carver);
      body(dots);
      done = true;
    });
  }
  if (done) return;
  InPlaceDots dots;
  body(dots);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
