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
        group_(problem.shape.value_heads / problem.shape.heads),
        q_{carver.take(kMost * padded(problem.shape.K)), padded(problem.shape.K)},
        k_{carver.take(kMost * padded(problem.shape.K)), padded(problem.shape.K)},
        columns_{nullptr, nullptr, nullptr},
        v_(carver.take(problem.shape.V)) {
    columns_ = {v_, carver.take(problem.shape.V), carver.take(problem.shape.V)};
  }

  // Value heads first .. first + count - 1 (count <= kMost).
  void load(int64_t first, int64_t count) {
    first_ = first;
    const int64_t heads = operand(first + count - 1) + 1;
    for (int64_t i = 0; i < heads; ++i) {
      load_head(problem_, problem_.q, sequence_, 0, first / group_ + i, q_.at(i));
      load_head(problem_, problem_.k, sequence_, 0, first / group_ + i, k_.at(i));
      kq_[i] = dot(k_.at(i), q_.at(i), padded(problem_.shape.K));
    }
    load_gates_of_heads(problem_.gates, sequence_, first, count, decay_, beta_);
    for (int64_t i = 0; i < kMost; i += kLanes)
      store(exp(gdn::cpu::GDN_ISA::load(decay_ + i)), decay_ + i);
  }
  // Which of the q/k heads, in order, is a value head's.
  int64_t operand(int64_t head) const { return head / group_ - first_ / group_; }

  Token token(int64_t head) const {
    const int64_t i = operand(head);
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
  const int64_t group_;
  int64_t first_ = 0;
  Rows q_, k_;
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

  const auto run = [&](const HeadColumns* columns, int64_t count, bool last) {
    heads.load(columns[0].head, count);
    for (int64_t i = 0; i < count; ++i) {
      if (i == 0 || heads.operand(columns[i].head) != heads.operand(columns[i - 1].head)) {
        dots.prepare(heads.operand(columns[i].head), heads.token(columns[i].head));
      }
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
      dots.step(state, source, target, heads.token(head), heads.load_values(columns[i]),
                end - begin, heads.operand(head),
                more ? heads.operand(columns[i + 1].head) : int64_t{-1});
      heads.store_out(columns[i]);
    }
  };

  HeadColumns columns[DecodeHeads::kMost];
  int64_t count = 0;
  for (int64_t i = tasks.begin; i < tasks.end; ++i) {
    split.for_each_range(split.task(i), [&](int64_t head, int64_t begin, int64_t end) {
      if (count == DecodeHeads::kMost) {
        run(columns, count, false);
        count = 0;
      }
      columns[count++] = {head, begin, end};
    });
  }
  run(columns, count, true);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
