// The recurrent operator: token by token over the state of a range of V columns.
//
// A single token is decode-inl.h's. Over several tokens the columns are independent: a block of
// them stays in scratch, that is in the first-level cache, while the tokens of a tile pass over it.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

inline int64_t tile_tokens(const Shape& shape) {
  return std::clamp<int64_t>(shape.max_length, 1, kTile);
}

// Columns whose running state scratch holds at once: all of a head where a sequence has more tokens
// than a tile.
inline int64_t running_columns(const StateShape& state, int64_t tokens, int64_t width) {
  return tokens > kTile ? width : std::min(width, state.block());
}

inline size_t recurrent_scratch(const Shape& shape, const Split&) {
  const StateShape state = {shape.layout, shape.K, shape.V};
  const int64_t floats =
      dots_floats(state) +
      std::max(DecodeHeads::floats(shape.K, shape.V),
               TokenTile::floats(tile_tokens(shape), shape.K, shape.V) +
                   padded(state.scratch_floats(running_columns(state, shape.max_length, shape.V))));
  return static_cast<size_t>(floats) * sizeof(float);
}

// Tokens t0 .. t0 + count - 1, which are in the tile, over the block of columns that starts
// `column` columns into the tile's. The state comes from `from` for token 0 and is kept in
// `running` while more tokens follow; slot_after(t) is the block that the state after token t is
// written to, or nowhere. Token 0 is dots' operand 0.
template <class Dots, class SlotAfter>
HWY_INLINE void advance(Dots& dots, const StateShape& state, const TokenTile& tile, int64_t t0,
                        int64_t count, int64_t length, float scale, const StateBlock& from,
                        const StateBlock& running, int64_t column, int64_t width,
                        const SlotAfter& slot_after) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = t0 + i;
    const bool last = t + 1 == length;
    const StateBlock slot = slot_after(t);
    dots.step(state, t == 0 ? from : running, last ? slot : running, tile.token(i, scale),
              tile.columns(i, column), width, 0, -1);
    if (!last && slot.data != nullptr) copy_state(state, running, slot, width);
  }
}

// A sequence without tokens hands its state through.
inline void hand_through(const DeltaRuleProblem& problem, int64_t n, const InitialState& initial,
                         const StateShape& state, int64_t head, int64_t begin, int64_t end) {
  std::byte* to = problem.stores_every_state() ? nullptr : problem.final_slot(n);
  if (to == nullptr || to == initial.data) return;
  const StateBlock target = state.in_slot(to, problem.final_state.dtype, head, begin);
  if (initial.data == nullptr) {
    zero_state(state, target, end - begin);
  } else {
    copy_state(state,
               state.in_slot(const_cast<std::byte*>(initial.data), problem.initial_state.dtype,
                             head, begin),
               target, end - begin);
  }
}

// A task of the split whose sequence has several tokens, or starts from zero, or has nothing to do.
template <class Dots>
void recurrent_task(const DeltaRuleProblem& problem, const Split& split, const Split::Task& task,
                    Carver carver, Dots& dots) {
  const int64_t n = task.n;
  const Sequence sequence = problem.sequences.at(n);
  const InitialState initial = problem.initial(n);
  const int64_t length = sequence.length;
  const StateShape state = {problem.shape.layout, problem.shape.K, problem.shape.V};

  TokenTile tile(carver, tile_tokens(problem.shape), state.K, state.V);
  float* const running_state = carver.take(0);

  split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
    if (initial.skip) return zero_columns(problem.out, sequence, head, begin, end);
    if (length == 0) return hand_through(problem, n, initial, state, head, begin, end);

    const int64_t block = state.block();
    const int64_t kept = running_columns(state, length, end - begin);
    for (int64_t t0 = 0; t0 < length; t0 += kTile) {
      const int64_t count = std::min(kTile, length - t0);
      const bool loaded = tile.load_qk(problem, sequence, task.head, t0, count);
      if (loaded && t0 == 0) dots.prepare(0, tile.token(0, problem.scale), tile.first);
      tile.load_values(problem, sequence, head, t0, count, begin, end);
      for (int64_t column = begin; column < end; column += block) {
        const int64_t width = std::min(block, end - column);
        const StateBlock running =
            state.in_scratch(running_state, kept, length > kTile ? column - begin : 0);
        StateBlock from = running;
        if (initial.data != nullptr) {
          from = state.in_slot(const_cast<std::byte*>(initial.data), problem.initial_state.dtype,
                               head, column);
        } else if (t0 == 0) {
          zero_state(state, running, width);
        }
        advance(dots, state, tile, t0, count, length, problem.scale, from, running, column - begin,
                width, [&](int64_t t) -> StateBlock {
                  const bool stored = problem.stores_every_state() || t + 1 == length;
                  std::byte* slot = stored ? problem.final_slot(n, t) : nullptr;
                  if (slot == nullptr) return {};
                  return state.in_slot(slot, problem.final_state.dtype, head, column);
                });
      }
      tile.store_out(problem, sequence, head, t0, count, begin, end);
    }
  });
}

inline void recurrent(const DeltaRuleProblem& problem, const Split& split, const SplitTasks& tasks,
                      std::byte* scratch) {
  const StateShape state = {problem.shape.layout, problem.shape.K, problem.shape.V};
  Carver carver(scratch);
  with_dots(problem, state, carver, [&](auto& dots) {
    if (is_decode(problem, split.task(tasks.begin).n)) {
      return decode(problem, split, tasks, carver, dots);
    }
    for (int64_t i = tasks.begin; i < tasks.end; ++i) {
      recurrent_task(problem, split, split.task(i), carver, dots);
    }
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
