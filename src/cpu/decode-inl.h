// Decode: a single token of a sequence, on a state that is read from its slot and written to its
// slot in one pass. While a task waits for anything else, nothing of a state is on its way: so q, k
// and the gates of all its value heads are prepared together, and what comes next is prefetched.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Consecutive value heads of a token: as floats what they and their q/k heads have, and room for
// one head's columns at a time.
class DecodeHeads {
 public:
  static constexpr int64_t kMost = kMostOperands;

  static int64_t floats(int64_t K, int64_t V) { return kMost * 2 * padded(K) + 3 * padded(V); }

  DecodeHeads(const DeltaRuleProblem& problem, const Sequence& sequence, Carver& carver)
      : problem_(problem),
        sequence_(sequence),
        q_{carver.take(kMost * padded(problem.shape.K)), padded(problem.shape.K)},
        k_{carver.take(kMost * padded(problem.shape.K)), padded(problem.shape.K)},
        columns_{nullptr, nullptr, nullptr},
        v_(carver.take(problem.shape.V)) {
    columns_ = {v_, carver.take(problem.shape.V), carver.take(problem.shape.V)};
  }

  // Value heads first .. first + count - 1 (count <= kMost), q/k heads first_qk .. last_qk. The
  // gates first: they are a long chain of operations, beside which the rows of q and k are taken.
  // rows: also as floats.
  void load(int64_t first, int64_t count, int64_t first_qk, int64_t last_qk, bool rows) {
    first_ = first;
    first_qk_ = first_qk;
    load_gates_of_heads(problem_.gates, sequence_, first, count, decay_, beta_);
    for (int64_t i = 0; i < kMost; i += kLanes)
      store(exp(gdn::cpu::GDN_ISA::load(decay_ + i)), decay_ + i);
    for (int64_t head = first_qk; head <= last_qk; ++head) {
      const int64_t i = operand(head);
      given_[i] = given_head(problem_, sequence_, 0, head);
      if (rows) kq_[i] = load_heads(problem_, given_[i], q_.at(i), k_.at(i));
    }
  }
  // Of a q/k head: its number among those that are loaded.
  int64_t operand(int64_t qk) const { return qk - first_qk_; }

  const GivenHead& given(int64_t qk) const { return given_[operand(qk)]; }
  Token token(int64_t qk, int64_t head) const {
    const int64_t i = operand(qk);
    return {q_.at(i),      k_.at(i), kq_[i], decay_[head - first_], beta_[head - first_],
            problem_.scale};
  }

  // v of some columns to where a step reads it, out from where it writes it.
  const TokenColumns& load_values(const HeadColumns& at) {
    load_value_row(problem_.v, sequence_, 0, at, v_);
    return columns_;
  }
  void store_out(const HeadColumns& at) const {
    store_out_row(columns_.out, problem_.out, sequence_, 0, at);
  }

 private:
  const DeltaRuleProblem& problem_;
  const Sequence sequence_;
  int64_t first_ = 0, first_qk_ = 0;
  Rows q_, k_;
  GivenHead given_[kMost];
  TokenColumns columns_;
  float* v_;
  alignas(64) float kq_[kMost] = {};
  alignas(64) float decay_[kMost] = {};
  alignas(64) float beta_[kMost] = {};
};

// One token and a state: the business of decode().
inline bool is_decode(const DeltaRuleProblem& problem, int64_t n) {
  const InitialState initial = problem.initial(n);
  return problem.sequences.at(n).length == 1 && !initial.skip && initial.data != nullptr;
}

// Prefetches what a step reads of v and writes of out.
inline void prefetch_values(const DeltaRuleProblem& problem, const Sequence& sequence,
                            const HeadColumns& at) {
  const auto lines = [&](const TokenTensor& tensor, const auto& prefetch) {
    const std::byte* row = tensor.at(sequence, 0, at.head);
    const int64_t size = size_of(tensor.dtype);
    for (int64_t byte = at.begin * size; byte < at.end * size; byte += 64) prefetch(row + byte);
  };
  lines(problem.v, [](const std::byte* p) {
    __builtin_prefetch(p);
    asm volatile("");  // an effect, so that the calls are not dropped
  });
  lines(problem.out, [](const std::byte* p) { prefetch_for_write(p); });
}

// Where the worker goes on after these tasks, for prefetches. (Their q, k and gates are not worth
// any: they are read all at once.)
struct NextTasks {
  Sequence sequence = {};
  HeadColumns columns = {};         // the first, if there is a token
  const std::byte* rows = nullptr;  // those of the state, if it is read

  NextTasks(const DeltaRuleProblem& problem, const Split& split, const SplitTasks& tasks) {
    if (!tasks.more) return;
    const Split::Task task = split.task(tasks.end);
    const int64_t units = units_of(split.V), unit = split.first_unit(task.part);
    sequence = problem.sequences.at(task.n);
    columns = {task.head * split.group + unit / units, unit % units * kUnit, split.V};
    const InitialState initial = problem.initial(task.n);
    if (initial.data == nullptr) return;
    const StateShape state = {problem.shape.layout, problem.shape.K, problem.shape.V};
    rows = state
               .in_slot(const_cast<std::byte*>(initial.data), problem.initial_state.dtype,
                        columns.head, columns.begin)
               .data;
  }
};

// Tasks of one sequence, for which is_decode().
template <class Dots>
void decode(const DeltaRuleProblem& problem, const Split& split, const SplitTasks& tasks,
            Carver carver, Dots& dots) {
  const int64_t n = split.task(tasks.begin).n;
  const Sequence sequence = problem.sequences.at(n);
  const StateShape state = {problem.shape.layout, problem.shape.K, problem.shape.V};
  std::byte* const from = const_cast<std::byte*>(problem.initial(n).data);
  std::byte* const to = problem.final_slot(n);
  const NextTasks next(problem, split, tasks);
  DecodeHeads heads(problem, sequence, carver);
  const bool rows = dots.reads_rows(state, problem.final_state.dtype);

  HeadColumns columns[DecodeHeads::kMost];
  int64_t qk[DecodeHeads::kMost];  // their q/k heads
  int64_t count = 0;
  const auto run = [&](bool last) {
    heads.load(columns[0].head, count, qk[0], qk[count - 1], rows);
    for (int64_t i = 0; i < count; ++i) {
      if (i > 0 && qk[i] == qk[i - 1]) continue;
      dots.prepare(heads.operand(qk[i]), heads.token(qk[i], columns[i].head), heads.given(qk[i]));
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto [head, begin, end] = columns[i];
      StateBlock source = state.in_slot(from, problem.initial_state.dtype, head, begin);
      const bool more = i + 1 < count;
      if (!more && last) {
        // Behind the last column lies what another worker may be writing. The way is one for what
        // is read and what is written, so that it goes on where they are the same.
        source.next = next.rows == nullptr || to != from ? source.data : next.rows;
      }
      StateBlock target;
      if (to != nullptr) target = state.in_slot(to, problem.final_state.dtype, head, begin);
      if (more) {
        prefetch_values(problem, sequence, columns[i + 1]);
      } else if (last && next.sequence.length > 0) {
        prefetch_values(problem, next.sequence, next.columns);
      }
      dots.step(state, source, target, heads.token(qk[i], head), heads.load_values(columns[i]),
                end - begin, heads.operand(qk[i]), more ? heads.operand(qk[i + 1]) : int64_t{-1});
      heads.store_out(columns[i]);
    }
    count = 0;
  };

  for (int64_t i = tasks.begin; i < tasks.end; ++i) {
    const Split::Task task = split.task(i);
    split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
      if (count == DecodeHeads::kMost) run(false);
      columns[count] = {head, begin, end};
      qk[count++] = task.head;
    });
  }
  run(true);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
