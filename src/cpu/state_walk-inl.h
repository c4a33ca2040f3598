// Decode of a state in layout VK row by row, for processors whose caches follow such a walk by
// themselves, and whose memory a walk over several rows side by side keeps waiting (Zen 4): four
// rows have their dot products while four rows before them are updated, each from its first element
// to its last. k and q stay in registers.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows that are walked at once: their dot products are summed up together.
constexpr int kWalkRows = 4;

// How far the rows that have their dot products are ahead of those that are updated: far enough for
// v_new to be there in time. Twice as far a load would wait for a store in flight whose address has
// its last twelve bits.
constexpr int64_t kWalkBytes = 2048;

// What a walk does to rows of kK floats: adds to the products of one, and updates another. Either
// may be left out.
template <int kK>
class F32Rows {
 public:
  using Element = float;
  static constexpr int64_t kElements = kK;
  static constexpr bool kReadsRows = true;  // of q and k, as floats
  static constexpr int64_t kOperandFloats = 0;

  static GivenFactors prepare(const GivenHead&, float*) { return {}; }

  HWY_INLINE F32Rows(const Token& token, const float*) : decay_(hn::Set(F32(), token.decay)) {
    for_each_index<kVectors>([&](auto j) __attribute__((always_inline)) {
      k_[j()] = load(token.k + j() * kLanes);
      q_[j()] = load(token.q + j() * kLanes);
    });
  }

  template <bool kDots, bool kUpdate>
  HWY_INLINE void row(const float* ahead, Vec& with_k, Vec& with_q, const float* from, float* to,
                      Vec u, int64_t) const {
    for_each_index<kVectors>([&](auto j) __attribute__((always_inline)) {
      constexpr int64_t kAt = j() * kLanes;
      if constexpr (kDots) {
        Vec s = load(ahead + kAt);
        keep_in_register(s);
        with_k = hn::MulAdd(s, k_[j()], with_k);
        with_q = hn::MulAdd(s, q_[j()], with_q);
      }
      if constexpr (kUpdate) {
        store(hn::MulAdd(u, k_[j()], hn::Mul(decay_, load(from + kAt))), to + kAt);
      }
    });
  }

 private:
  static constexpr int kVectors = kK / kLanes;
  Vec decay_, k_[kVectors], q_[kVectors];
};

// The same of rows of 32 kSteps bfloat16 numbers, where q and k are given as such: the products
// take half as many instructions as those of floats, and arithmetic is what bounds these states.
// What is to come is asked for: in the time that arithmetic takes, the caches do not run far enough
// ahead.
template <int kSteps>
class Bf16Rows {
 public:
  using Element = bf16;
  static constexpr int64_t kElements = kSteps * kPairLanes;
  static constexpr bool kReadsRows = false;
  // k and q in pairs, k as floats in pair order.
  static constexpr int64_t kOperandFloats = 2 * kElements;

  static GivenFactors prepare(const GivenHead& given, float* operand) {
    __m512i k[kSteps], q[kSteps];
    const GivenFactors factors = load_given(given, k, q, operand + kElements);
    for (int s = 0; s < kSteps; ++s) {
      _mm512_store_si512(operand + s * kLanes, k[s]);
      _mm512_store_si512(operand + (kSteps + s) * kLanes, q[s]);
    }
    return factors;
  }

  HWY_INLINE Bf16Rows(const Token& token, const float* operand)
      : decay_(hn::Set(F32(), token.decay)) {
    for_each_index<kSteps>([&](auto s) __attribute__((always_inline)) {
      k_[s()] = _mm512_load_si512(operand + s() * kLanes);
      q_[s()] = _mm512_load_si512(operand + (kSteps + s()) * kLanes);
      even_k_[s()] = load(operand + kElements + s() * kPairLanes);
      odd_k_[s()] = load(operand + kElements + s() * kPairLanes + kLanes);
    });
  }

  template <bool kDots, bool kUpdate>
  HWY_INLINE void row(const bf16* ahead, Vec& with_k, Vec& with_q, const bf16* from, bf16* to,
                      Vec u, int64_t to_l2) const {
    for_each_index<kSteps>([&](auto s) __attribute__((always_inline)) {
      constexpr int64_t kAt = s() * kPairLanes;
      if constexpr (kDots) {
        __m512i pairs = _mm512_loadu_si512(ahead + kAt);
        asm("" : "+v"(pairs));  // as keep_in_register()
        with_k = dot_pairs(with_k, pairs, k_[s()]);
        with_q = dot_pairs(with_q, pairs, q_[s()]);
      }
      if constexpr (kUpdate) {
        __builtin_prefetch(bytes_after(from + kAt, to_l2), 0, 2);
        asm volatile("");  // or gcc has a row's four at once
        PairUpdate{decay_, even_k_[s()], odd_k_[s()]}.line(from + kAt, to + kAt, u);
      }
    });
  }

 private:
  Vec decay_, even_k_[kSteps], odd_k_[kSteps];
  __m512i k_[kSteps], q_[kSteps];
};

// kWalkRows rows.
template <bool kDots, bool kUpdate, class Rows, class Element>
HWY_INLINE void walk_rows(const Rows& rows, const Element* ahead, Vec (&with_k)[kWalkRows],
                          Vec (&with_q)[kWalkRows], const Element* from, Element* to,
                          const float* v_new, int64_t to_l2) {
  const F32 d;
  for_each_index<kWalkRows>([&](auto r) __attribute__((always_inline)) {
    constexpr int64_t kAt = r() * Rows::kElements;
    if constexpr (kDots) with_k[r()] = with_q[r()] = hn::Zero(d);
    rows.template row<kDots, kUpdate>(ahead + kAt, with_k[r()], with_q[r()], from + kAt, to + kAt,
                                      kUpdate ? hn::Set(d, v_new[r()]) : hn::Zero(d), to_l2);
  });
}

// Takes the steps: on states that have Rows' element before and after by walking, on others of the
// same problem as VectorDots does.
template <class Rows>
class WalkDots {
 public:
  using Element = typename Rows::Element;
  static constexpr int64_t kFloats = kMostOperands * Rows::kOperandFloats;

  explicit WalkDots(Carver& carver) : operands_(carver.take(kFloats)) {}

  // As those of TileDots.
  static bool reads_rows(const StateShape& shape, DType to) {
    return Rows::kReadsRows || to != dtype_of<Element> || !walks(shape);
  }
  void prepare(int64_t operand, const Token&, const GivenHead& given) {
    factors_[operand] = Rows::prepare(given, operands_ + operand * Rows::kOperandFloats);
  }
  void step(const StateShape& shape, const StateBlock& from, const StateBlock& to,
            const Token& token, const TokenColumns& columns, int64_t width, int64_t operand,
            int64_t) {
    const bool stays = to.data == nullptr || to.dtype == dtype_of<Element>;
    if (walks(shape) && from.dtype == dtype_of<Element> && stays) {
      return walk(reinterpret_cast<const Element*>(from.data), reinterpret_cast<Element*>(to.data),
                  token, columns, width, operand, way_of(from, width));
    }
    gdn::cpu::GDN_ISA::step(shape, from, to, token, columns, width);
  }

 private:
  static constexpr int64_t kK = Rows::kElements;
  // From the rows that are updated to those that have their dot products.
  static constexpr int64_t kAhead = kWalkBytes / (kK * static_cast<int64_t>(sizeof(Element)));

  // Any range of columns then has whole groups of rows: which arithmetic a column gets must not
  // depend on the range.
  static bool walks(const StateShape& shape) { return shape.V % kWalkRows == 0; }

  HWY_NOINLINE void walk(const Element* from, Element* to, const Token& token,
                         const TokenColumns& columns, int64_t width, int64_t operand,
                         const Way& way) const {
    const GivenFactors factors = factors_[operand];
    const Rows rows(token, operands_ + operand * Rows::kOperandFloats);
    Token gates = token;
    if constexpr (!Rows::kReadsRows) gates.kq = factors.kq;
    Vec with_k[kWalkRows], with_q[kWalkRows];
    const auto finish = [&](int64_t row) __attribute__((always_inline)) {
      const Quad dot_k = hn::Mul(hn::Set(F32x4(), factors.k), sums_of_lanes(with_k));
      const Quad dot_q = hn::Mul(hn::Set(F32x4(), factors.q), sums_of_lanes(with_q));
      finish_columns(F32x4(), gates, dot_k, dot_q, columns.after(row));
    };
    const int64_t ahead = to == nullptr ? width : std::min(width, kAhead);
    for (int64_t row = 0; row < ahead; row += kWalkRows) {
      walk_rows<true, false>(rows, from + row * kK, with_k, with_q, from, to, columns.v_new, 0);
      finish(row);
    }
    if (to == nullptr) return;
    int64_t row = 0;
    for (; row + ahead < width; row += kWalkRows) {
      const Element* const p = from + row * kK;
      walk_rows<true, true>(rows, p + ahead * kK, with_k, with_q, p, to + row * kK,
                            columns.v_new + row, way.ahead(p, kStateToL2));
      finish(row + ahead);
    }
    for (; row < width; row += kWalkRows) {
      const Element* const p = from + row * kK;
      walk_rows<false, true>(rows, p, with_k, with_q, p, to + row * kK, columns.v_new + row,
                             way.ahead(p, kStateToL2));
    }
  }

  float* operands_;
  GivenFactors factors_[kMostOperands];
};
static_assert(kWalkRows == kQuad);

inline int64_t dots_floats(const StateShape& shape) { return 2 * kMostOperands * shape.K; }

// Calls body(dots) with what takes the steps of a problem.
template <class Body>
HWY_INLINE void with_dots(const DeltaRuleProblem& problem, const StateShape& state, Carver& carver,
                          const Body& body) {
  const auto walk = [&](auto rows) {
    WalkDots<typename decltype(rows)::type> dots(carver);
    body(dots);
  };
  const bool f32 = problem.initial_state.dtype == DType::kF32;
  const bool bf16_all = problem.initial_state.dtype == DType::kBF16 &&
                        problem.q.dtype == DType::kBF16 && problem.k.dtype == DType::kBF16;
  if (state.rows() && state.K == 128 && f32) return walk(std::type_identity<F32Rows<128>>());
  if (state.rows() && state.K == 64 && f32) return walk(std::type_identity<F32Rows<64>>());
  if (state.rows() && state.K == 128 && bf16_all) return walk(std::type_identity<Bf16Rows<4>>());
  if (state.rows() && state.K == 64 && bf16_all) return walk(std::type_identity<Bf16Rows<2>>());
  VectorDots dots;
  body(dots);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
