// Chunks on panels of 32 V columns, everything of a panel in the first-level cache.
//
// Stores leave the processor in order, and one that misses the first-level cache, or goes past all
// of them, holds up those behind it for as long as four or sixteen that hit. So there are few
// buffers, used again at once, 44 KB with the state, and outputs are stored a little at a time.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows k .. k + 1 of a panel to its bfloat16 copy.
HWY_INLINE void round_state_rows(const float* panel, int64_t k, uint32_t* copy) {
#pragma GCC unroll 16
  for (int j = 0; j < kVecs; ++j) {
    const float* s = panel + k * kPanel + j * kLanes;
    _mm512_storeu_si512(copy + k / 2 * kPanel + j * kLanes, make_pairs(load(s), load(s + kPanel)));
  }
}

// What the next chunk, from token t0 on, will read, to the second-level cache: v's columns of this
// panel, and of k and q the part-th of `parts` parts, a few rows each time. Requests that come all
// at once fill the buffers that the tiles' loads need too.
class ReadAhead {
 public:
  ReadAhead(const DeltaRuleProblem& problem, const Sequence& sequence, const Panel& panel,
            int64_t q_head, int64_t t0, int64_t part, int64_t parts)
      : row_bytes_(problem.shape.K * kSize) {
    const int64_t count = std::clamp<int64_t>(sequence.length - t0, 0, kAmxChunk);
    const int64_t first = count * part / parts, share = count * (part + 1) / parts - first;
    const auto rows = [&](const TokenTensor& tensor, int64_t t, int64_t head, int64_t column,
                          int64_t left) {
      return Rows{tensor.at(sequence, t, head) + column * kSize, tensor.token_stride * kSize, left};
    };
    v_ = rows(problem.v, t0, panel.head, panel.column, count);
    k_ = rows(problem.k, t0 + first, q_head, 0, share);
    q_ = rows(problem.q, t0 + first, q_head, 0, share);
  }
  HWY_INLINE void values() {
    take(v_, 1);
    take(v_, 1);
  }
  HWY_INLINE void keys() { take(k_.left > 0 ? k_ : q_, row_bytes_); }

 private:
  struct Rows {
    const std::byte* next;
    int64_t stride, left;  // bytes; rows
  };
  static HWY_INLINE void take(Rows& rows, int64_t bytes) {
    if (rows.left <= 0) return;
    prefetch_row_to_l2(rows.next, bytes);
    rows.next += rows.stride;
    --rows.left;
  }

  static constexpr int64_t kSize = sizeof(bf16);
  Rows v_, k_, q_;
  int64_t row_bytes_;  // of k and q
};

// What belongs to one panel, and the vectors' work on it: on rows i to end of a chunk, both even,
// of the 32 that the products are of. Functions of their own, each once in memory, where everything
// inside a panel's products would be more than the first-level cache of instructions holds; with
// addresses in variables, which stores cannot change.
struct PanelAmx : PanelRows<bf16> {
  const AmxHead& head;
  uint32_t* copy;  // the state in bfloat16: [K / 2][kPanel] pairs along K
  // [kTokenWords][kPanel] token pairs: R, and over it U.
  SplitMatrix u;
  float* kept_v_new;  // [kAmxChunk][kPanel]: V_new, or nullptr
  ReadAhead ahead;

  // R = V - exp(G) S K, split; zero for padding.
  HWY_NOINLINE void residual(const float* products, int64_t i, int64_t end) const {
    products += i % kBlock * kPanel;
    if (HWY_UNLIKELY(end > count || panel.width < kPanel)) {
      for (; i < end; i += 2, products += 2 * kPanel) {
#pragma GCC unroll 16
        for (int j = 0; j < kVecs; ++j) {
          const int row = static_cast<int>(i);
          residual_of(this->template value<false>(row, j), this->template value<false>(row + 1, j),
                      products + j * kLanes, i, j, head.vectors->read + i, u);
        }
      }
      return;
    }
    const bf16* v = v_row(i);
    const int64_t stride = v_stride;
    const float* read = head.vectors->read;
    const SplitMatrix to = u;
    for (; i < end; i += 2, products += 2 * kPanel, v += 2 * stride) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        residual_of(load(v + j * kLanes), load(v + stride + j * kLanes), products + j * kLanes, i,
                    j, read + i, to);
      }
    }
  }
  // U, split.
  HWY_NOINLINE void split(const float* products, int64_t i, int64_t end) const {
    products += i % kBlock * kPanel;
    if (HWY_UNLIKELY(kept_v_new != nullptr)) keep_v_new(products, i, end);
    const SplitMatrix to = u;
    for (; i < end; i += 2, products += 2 * kPanel) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const float* from = products + j * kLanes;
        split_at(load(from), load(from + kPanel), i, j, to);
      }
    }
  }
  HWY_NOINLINE void output(const float* products, int64_t i, int64_t end) const {
    products += i % kBlock * kPanel;
    const float* factors = head.vectors->output;
    const bool full = panel.width == kPanel, past = past_caches;
    bf16* to = out_row(i);
    const int64_t stride = out_stride;
    end = std::min(end, count);
    for (; i < end; ++i, products += kPanel, to += stride) {
      const Vec factor = hn::Set(F32(), factors[i]);
      Vec x[kVecs];
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) x[j] = hn::Mul(factor, load(products + j * kLanes));
      if (HWY_UNLIKELY(!full)) {
        store_part_of_row(x, to);
      } else if (past) {
        store_vectors<true>(x, to);
      } else {
        store_vectors<false>(x, to);
      }
    }
  }
  // S <- exp(G_last) S + the change, and the copy; rows of the state.
  HWY_NOINLINE void add_change(const float* change, int64_t i, int64_t end) const {
    const Vec whole = hn::Set(F32(), head.vectors->whole);
    const Vec factor = hn::Set(F32(), head.vectors->change);
    float* s = panel.state + i * kPanel;
    uint32_t* to = copy + i / 2 * kPanel;
    change += i % kBlock * kPanel;
    for (; i < end; i += 2, s += 2 * kPanel, change += 2 * kPanel, to += kPanel) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        const int64_t even = j * kLanes, odd = kPanel + j * kLanes;
        const Vec a = hn::MulAdd(whole, load(s + even), hn::Mul(factor, load(change + even)));
        const Vec b = hn::MulAdd(whole, load(s + odd), hn::Mul(factor, load(change + odd)));
        store(a, s + even);
        store(b, s + odd);
        _mm512_storeu_si512(to + j * kLanes, make_pairs(a, b));
      }
    }
  }

 private:
  static HWY_INLINE void split_at(Vec even, Vec odd, int64_t i, int j, const SplitMatrix& to) {
    const int64_t at = i / 2 * kPanel + j * kLanes;
    split_pairs(even, odd, to.high + at, to.low + at);
  }
  static HWY_INLINE void residual_of(Vec even_v, Vec odd_v, const float* products, int64_t i, int j,
                                     const float* read, const SplitMatrix& to) {
    const Vec even = hn::NegMulAdd(hn::Set(F32(), read[0]), load(products), even_v);
    const Vec odd = hn::NegMulAdd(hn::Set(F32(), read[1]), load(products + kPanel), odd_v);
    split_at(even, odd, i, j, to);
  }
  void keep_v_new(const float* products, int64_t i, int64_t end) const {
    for (; i < end; ++i, products += kPanel) {
      const Vec inverse = hn::Set(F32(), head.vectors->inverse_to_u[i]);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        store(hn::Mul(inverse, load(products + j)), kept_v_new + i * kPanel + j);
      }
    }
  }
};

// Rows of a block that some vectors' work is still to be done on, two at a time.
class RowsLeft {
 public:
  RowsLeft() = default;
  HWY_INLINE explicit RowsLeft(int64_t first) : next_(first), end_(first + kBlock) {}
  // work(i, end) of the next rows, if any: kPairs pairs, or what is left.
  template <int kPairs, class Work>
  HWY_INLINE void some(const Work& work) {
    if (next_ == end_) return;
    const int64_t end = std::min(next_ + 2 * kPairs, end_);
    work(next_, end);
    next_ = end;
  }
  template <class Work>
  HWY_INLINE void all(const Work& work) {
    if (next_ != end_) work(next_, end_);
    next_ = end_;
  }

 private:
  int64_t next_ = 0, end_ = 0;
};

// Chunks on panels, a panel of a chunk at a time. Each vectors' work on a block is done beside a
// later product or two, so that no product waits for what vectors have only just stored: it would
// have to wait until that has left the processor.
class PanelsAmx {
 public:
  // Where products go to, [kBlocks][kBlock][kPanel].
  static constexpr int64_t kBlocks = 3;
  static constexpr int64_t kBlockFloats = int64_t{kBlock} * kPanel;

  HWY_INLINE PanelsAmx(Tiles& tiles, int64_t K, float* blocks)
      : sums_(tiles, blocks),
        words_(K / 2),
        a_(blocks),
        b_(a_ + kBlockFloats),
        c_(b_ + kBlockFloats) {}

  // All of it but the last 32 rows of the state, which are updated when the next panel is begun, or
  // by end(); the panel has to stay where it is until then.
  void run(PanelAmx& panel) {
    begin(panel);
    update(panel);
  }
  void end() {
    if (before_ == nullptr) return;
    sums_.end();
    finish_change();
  }
  // For one who updates the state himself.
  void run_without_update(PanelAmx& panel) {
    begin(panel);
    sums_.end();
    last_outputs_.all([&](int64_t i, int64_t end) { panel.output(a_, i, end); });
    RowsLeft(0).all([&](int64_t i, int64_t end) { panel.output(c_, i, end); });
  }

 private:
  void begin(PanelAmx& now);
  void update(PanelAmx& now);

  // The groups of four products that blocks are made of; beside() after each.
  // Rows of k or q times S: [kBlock][K] [K][kPanel]; before_last() before the last group.
  template <class Beside, class BeforeLast>
  HWY_INLINE void state_times(const uint32_t* rows, const uint32_t* copy, float* to,
                              const Beside& beside, const BeforeLast& before_last) {
    sums_.begin({rows, words_}, {copy, kPanel}, to);
    beside();
    for (int64_t w = kTileWords; w < words_; w += kTileWords) {
      if (w + kTileWords == words_) before_last();
      sums_.add({rows + w, words_}, {copy + w * kPanel, kPanel});
      beside();
    }
  }
  template <class Beside>
  HWY_INLINE void state_times(const uint32_t* rows, const uint32_t* copy, float* to,
                              const Beside& beside) {
    state_times(rows, copy, to, beside, [] {});
  }
  // Rows from `first` on of T or P times 32 rows of R or U, from 2 w on; both in two parts, of
  // which low times low is less than what the split drops. start(a, b) does the first product.
  template <class Start, class Beside>
  HWY_INLINE void triangle_times(const SplitMatrix& left, int64_t first, int64_t w,
                                 const SplitMatrix& right, const Start& start,
                                 const Beside& beside) {
    const int64_t at = first * kTokenWords + w;
    const Operand low{left.low + at, kTokenWords}, high{left.high + at, kTokenWords};
    start(low, Operand{right.high + w * kPanel, kPanel});
    beside();
    sums_.add_same_b(high);
    beside();
    sums_.add_same_a({right.low + w * kPanel, kPanel});
    beside();
  }
  // Rows of k^T times U: [kBlock][rows] [rows][kPanel].
  template <class Beside>
  HWY_INLINE void keys_times(const uint32_t* keys, const SplitMatrix& u, int64_t rows, float* to,
                             const Beside& beside) {
    sums_.begin({keys, kTokenWords}, {u.low, kPanel}, to);
    beside();
    sums_.add_same_a({u.high, kPanel});
    beside();
    for (int64_t w = kTileWords; w < rows / 2; w += kTileWords) {
      sums_.add({keys + w, kTokenWords}, {u.low + w * kPanel, kPanel});
      beside();
      sums_.add_same_a({u.high + w * kPanel, kPanel});
      beside();
    }
  }
  // Of the panel before, on what changed its state last.
  template <int kPairs>
  HWY_INLINE void some_change() {
    change_.template some<kPairs>(
        [&](int64_t i, int64_t end) { before_->add_change(change_at_, i, end); });
  }
  HWY_INLINE void finish_change() {
    change_.all([&](int64_t i, int64_t end) { before_->add_change(change_at_, i, end); });
    before_ = nullptr;
  }

  BlockSums sums_;
  int64_t words_;
  // Of a panel's last 32 rows S K, then U, then the outputs; of its first 32 S K and U; their
  // outputs. The first two again for what the state changes by.
  float *a_, *b_, *c_;
  PanelAmx* before_ = nullptr;
  RowsLeft change_;
  const float* change_at_ = nullptr;
  RowsLeft last_outputs_;  // in a_
};

// Up to the outputs, of which some are not yet written, and U.
inline void PanelsAmx::begin(PanelAmx& now) {
  const AmxHead& head = now.head;
  const uint32_t* keys = head.operands->rows;
  const int64_t last = rows_of_blocks(now.count) - kBlock, last_w = last / 2;
  const auto residual_last = [&](int64_t i, int64_t end) { now.residual(a_, i, end); };
  const auto residual_first = [&](int64_t i, int64_t end) { now.residual(b_, i, end); };
  const auto split_last = [&](int64_t i, int64_t end) { now.split(a_, i, end); };
  const auto split_first = [&](int64_t i, int64_t end) { now.split(b_, i, end); };
  const auto begin_at = [&](float* to) {
    return [this, to](Operand a, Operand b) { sums_.begin(a, b, to); };
  };
  const auto resume_at = [&](float* to) {
    return [this, to](Operand a, Operand b) { sums_.resume(a, b, to); };
  };
  const auto more = [&](Operand a, Operand b) { sums_.add(a, b); };
  const auto fetch = [&] { now.ahead.values(); };
  // The panel before may be this one, a chunk earlier; the last group is of its last rows of S.
  const auto beside_change = [&] {
    some_change<6>();
    fetch();
  };
  if (words_ == kTileWords) end();

  RowsLeft last_rows(last), first_rows(0);
  if (last > 0) {
    state_times(keys + last * words_, now.copy, a_, beside_change, [&] { finish_change(); });
    state_times(keys, now.copy, b_, [&] {
      last_rows.some<4>(residual_last);
      fetch();
    });
    last_rows.all(residual_last);
  } else {
    state_times(keys, now.copy, b_, beside_change, [&] { finish_change(); });
  }
  state_times(head.queries, now.copy, c_, [&] {
    first_rows.some<4>(residual_first);
    fetch();
  });
  first_rows.all(residual_first);

  first_rows = RowsLeft(0);
  if (last > 0) {
    triangle_times(head.t, last, last_w, now.u, begin_at(a_), fetch);
    triangle_times(head.t, last, 0, now.u, more, fetch);
    last_rows = RowsLeft(last);
    triangle_times(head.t, 0, 0, now.u, begin_at(b_), [&] {
      last_rows.some<4>(split_last);
      fetch();
    });
    state_times(head.queries + last * words_, now.copy, a_, [&] {
      last_rows.some<4>(split_last);
      first_rows.some<4>(split_first);
      fetch();
    });
    last_rows.all(split_last);
    triangle_times(head.p, last, last_w, now.u, more, fetch);
    first_rows.all(split_first);
    triangle_times(head.p, last, 0, now.u, more, fetch);
    last_outputs_ = RowsLeft(last);
  } else {
    triangle_times(head.t, 0, 0, now.u, begin_at(b_), fetch);
    sums_.end();
    first_rows.all(split_first);
    last_outputs_ = RowsLeft();
  }
  triangle_times(head.p, 0, 0, now.u, resume_at(c_), [&] {
    last_outputs_.some<2>([&](int64_t i, int64_t end) { now.output(a_, i, end); });
    fetch();
  });
}

inline void PanelsAmx::update(PanelAmx& now) {
  const auto output_last = [&](int64_t i, int64_t end) { now.output(a_, i, end); };
  const auto output_first = [&](int64_t i, int64_t end) { now.output(c_, i, end); };
  RowsLeft first_outputs(0);
  const int64_t blocks = words_ * 2 / kBlock;
  before_ = &now;
  change_ = RowsLeft();
  for (int64_t n = 0; n < blocks; ++n) {
    float* to = n % 2 == 0 ? b_ : a_;
    keys_times(now.head.token_pairs + n * kBlock * kTokenWords, now.u, rows_of_blocks(now.count),
               to, [&] {
                 some_change<4>();
                 if (n < 2) {
                   last_outputs_.some<2>(output_last);
                 } else {
                   first_outputs.some<2>(output_first);
                 }
                 now.ahead.keys();
               });
    change_.all([&](int64_t i, int64_t end) { now.add_change(change_at_, i, end); });
    if (n == 1 || n == blocks - 1) last_outputs_.all(output_last);
    change_ = RowsLeft(n * kBlock);
    change_at_ = to;
  }
  first_outputs.all(output_first);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
