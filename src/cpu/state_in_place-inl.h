// A float state in layout VK that is updated in place: the dot products of the next rows run beside
// the update of these. What step_rows() does one after the other, waiting for the first-level cache
// in the one and for arithmetic in the other, then takes the time of the longer. The arithmetic on
// an element is the same.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// The update of kDotRows rows of kK elements, and the dot products of the kDotRows rows behind
// them. kAhead: lines are prefetched as far ahead as step_rows() does.
template <bool kAhead, int kK>
HWY_INLINE void update_beside_dots(float* rows, const Token& token, const float* v_new,
                                   const Way& way, Quad (&dot_k)[kDotRows / kQuad],
                                   Quad (&dot_q)[kDotRows / kQuad]) {
  static_assert(kPartial == 1 && kK % kLanes == 0);
  const F32 d;
  const Vec decay = hn::Set(d, token.decay);
  Vec u[kDotRows], with_k[1][kDotRows], with_q[1][kDotRows];
#pragma GCC unroll 8
  for (int r = 0; r < kDotRows; ++r) {
    u[r] = hn::Set(d, v_new[r]);
    with_k[0][r] = with_q[0][r] = hn::Zero(d);
  }
  // kK is a constant, and k and q are pointers of their own, for the addresses of a line: with a
  // stride, or read from the token, they took three loads from the stack, a tenth of the speed.
  constexpr int64_t kBehind = int64_t{kDotRows} * kK;
  const float* k = token.k;
  const float* q = token.q;
  const int64_t to_l1 = way.ahead(rows, kStateToL1);
  const int64_t to_l2 = way.ahead(rows + kBehind, kStateToL2);
  for (const float* const end = rows + kK; rows < end; rows += kLanes) {
    const Vec part_k = load(k), part_q = load(q);
#pragma GCC unroll 8
    for (int r = 0; r < kDotRows; ++r) {
      float* const p = rows + r * kK;
      if constexpr (kAhead) {
        prefetch_for_write(bytes_after(p, to_l1));
        __builtin_prefetch(bytes_after(p + kBehind, to_l2), 0, 2);
      }
      Vec next = load(p + kBehind);
      keep_in_register(next);
      with_k[0][r] = hn::MulAdd(next, part_k, with_k[0][r]);
      with_q[0][r] = hn::MulAdd(next, part_q, with_q[0][r]);
      store(hn::MulAdd(u[r], part_k, hn::Mul(decay, load(p))), p);
    }
    k += kLanes;
    q += kLanes;
  }
  sum_up_dots(with_k, with_q, dot_k, dot_q);
}

// As step_rows(), of whole blocks of kDotRows rows.
template <bool kAhead, int kK>
HWY_NOINLINE void step_rows_in_place(float* rows, const Token& token, const TokenColumns& columns,
                                     int64_t width, const Way& way) {
  Quad dot_k[kDotRows / kQuad], dot_q[kDotRows / kQuad];
  const float* first[kDotRows];
  for (int r = 0; r < kDotRows; ++r) first[r] = rows + r * kK;
  dot_rows<kAhead>(first, token, kK, way.ahead(rows, kStateToL2), dot_k, dot_q);
  finish_rows(token, dot_k, dot_q, columns);
  int64_t row = 0;
  for (; row + kDotRows < width; row += kDotRows) {
    update_beside_dots<kAhead, kK>(rows + row * kK, token, columns.v_new + row, way, dot_k, dot_q);
    finish_rows(token, dot_k, dot_q, columns.after(row + kDotRows));
  }
  float* const last = rows + row * kK;
  update_rows<kAhead>(last, kK, last, kK, token.k, token.decay, columns.v_new + row, kK, kDotRows,
                      way.ahead(last, kStateToL1));
}

// Takes the steps: on float states in place, of the sizes that models have and of whole blocks, so;
// on others as VectorDots does.
struct InPlaceDots {
  static bool reads_rows(const StateShape&, DType) { return true; }
  void prepare(int64_t, const Token&, const GivenHead&) {}
  void step(const StateShape& shape, const StateBlock& from, const StateBlock& to,
            const Token& token, const TokenColumns& columns, int64_t width, int64_t, int64_t) {
    const bool whole = shape.rows() && from.dtype == DType::kF32 && to.dtype == DType::kF32 &&
                       to.data == from.data && from.stride == shape.K && width % kDotRows == 0;
    if (whole && shape.K == 128) return step_in_place<128>(from, token, columns, width);
    if (whole && shape.K == 64) return step_in_place<64>(from, token, columns, width);
    gdn::cpu::GDN_ISA::step(shape, from, to, token, columns, width);
  }

 private:
  template <int kK>
  static void step_in_place(const StateBlock& block, const Token& token,
                            const TokenColumns& columns, int64_t width) {
    auto* const rows = reinterpret_cast<float*>(block.data);
    const Way way = way_of(block, width);
    if (block.in_pool) {
      step_rows_in_place<true, kK>(rows, token, columns, width, way);
    } else {
      step_rows_in_place<false, kK>(rows, token, columns, width, way);
    }
  }
};

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
