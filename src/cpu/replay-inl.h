// Replay: fold the records of the accepted tokens into the state, store it, then run this call's
// tokens on the running copy and leave their records. A task has a whole group of value heads,
// because they share the records of k: the old ones are read until the last head has folded them.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

inline size_t replay_scratch(const Shape& shape, const Split&) {
  const StateShape state = {shape.layout, shape.K, shape.V};
  // A whole head's state: how many records there are to fold is not known here.
  const int64_t floats = padded(state.scratch_floats(shape.V)) +
                         kTile * (padded(shape.K) + padded(shape.V)) +
                         TokenTile::floats(tile_tokens(shape), shape.K, shape.V);
  return static_cast<size_t>(floats) * sizeof(float);
}

template <class Body>
HWY_INLINE void with_record(const SlotTensor& records, int64_t slot, int64_t offset,
                            const Body& body) {
  with_element(records.dtype, [&](auto element) {
    body(reinterpret_cast<decltype(element)*>(records.at(slot, offset)));
  });
}

// A tile of records as floats.
class RecordTile {
 public:
  RecordTile(Carver& carver, int64_t K, int64_t V)
      : k{carver.take(kTile * padded(K)), padded(K)},
        v_new{carver.take(kTile * padded(V)), padded(V)} {}

  // Records m0 .. m0 + count - 1; k, which the heads of a group share, only where it is not there
  // already.
  void load_records(const ReplayProblem& problem, int64_t slot, int64_t head, int64_t value_head,
                    int64_t m0, int64_t count) {
    const int64_t K = problem.shape.K, V = problem.shape.V;
    const bool has_k = loaded_ == m0;
    loaded_ = m0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t m = m0 + i;
      if (!has_k) {
        with_record(problem.record_k, slot, (m * problem.shape.heads + head) * K,
                    [&](const auto* from) { load_row(from, K, k.at(i)); });
        std::fill(k.at(i) + K, k.at(i) + padded(K), 0.0f);
      }
      const int64_t row = m * problem.shape.value_heads + value_head;
      with_record(problem.record_v, slot, row * V, [&](const auto* from) {
        load_row(from, V, v_new.at(i));
        std::fill(v_new.at(i) + V, v_new.at(i) + padded(V), 0.0f);
      });
      decay[i] = load_float(problem.record_g.at(slot, row), problem.record_g.dtype);
    }
    for (int64_t i = 0; i < kTile; i += kLanes) store(exp(load(decay + i)), decay + i);
  }

  Rows k, v_new;
  alignas(64) float decay[kTile] = {};

 private:
  int64_t loaded_ = -1;
};

// v_new and g of the tile's tokens, which are tokens t0 .. t0 + count - 1.
inline void store_value_records(const ReplayProblem& problem, int64_t slot, int64_t value_head,
                                const TokenTile& tile, int64_t t0, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = (t0 + i) * problem.shape.value_heads + value_head;
    with_record(problem.record_v, slot, row * problem.shape.V,
                [&](auto* to) { store_row(tile.v_new.at(i), problem.shape.V, to); });
    store_float(problem.record_g.at(slot, row), problem.record_g.dtype, tile.g[i]);
  }
}

inline void replay(const ReplayProblem& problem, const Split& split, int64_t task_index,
                   std::byte* scratch) {
  const Split::Task task = split.task(task_index);
  const int64_t n = task.n;
  const int64_t slot = problem.slot(n);
  const Sequence sequence = problem.verifies() ? problem.sequences.at(n) : Sequence{};
  const int64_t first_head = task.head * split.group, end_head = first_head + split.group;
  if (slot < 0) {
    for (int64_t head = first_head; head < end_head; ++head) {
      zero_columns(problem.out, sequence, head, 0, problem.shape.V);
    }
    return;
  }
  const int64_t length = sequence.length;
  const int64_t accepted = problem.num_accepted.at(n);
  const StateShape state = {problem.shape.layout, problem.shape.K, problem.shape.V};

  Carver carver(scratch);
  float* const running_state = carver.take(state.scratch_floats(state.V));
  RecordTile records(carver, state.K, state.V);
  TokenTile tile(carver, tile_tokens(problem.shape), state.K, state.V);

  // Where records and tokens each fit a tile, a block of columns goes all the way before the next.
  const int64_t span =
      std::max(accepted, length) > kTile ? state.V : std::min(state.V, state.block());
  for (int64_t head = first_head; head < end_head; ++head) {
    for (int64_t begin = 0; begin < state.V; begin += span) {
      const int64_t end = std::min(state.V, begin + span);
      const auto blocks = [&](const auto& body) {
        for (int64_t column = begin; column < end; column += state.block()) {
          body(column, std::min(state.block(), end - column),
               state.in_slot(problem.state.at(slot), problem.state.dtype, head, column),
               state.in_scratch(running_state, span, column - begin));
        }
      };

      if (accepted == 0 && length > 0) {
        blocks([&](int64_t, int64_t width, const StateBlock& pool, const StateBlock& running) {
          copy_state(state, pool, running, width);
        });
      }
      for (int64_t m0 = 0; m0 < accepted; m0 += kTile) {
        const int64_t count = std::min(kTile, accepted - m0);
        if (begin == 0) records.load_records(problem, slot, task.head, head, m0, count);
        blocks(
            [&](int64_t column, int64_t width, const StateBlock& pool, const StateBlock& running) {
              for (int64_t i = 0; i < count; ++i) {
                // The last fold of a commit goes straight to the slot.
                const bool last = m0 + i + 1 == accepted;
                fold(state, m0 + i == 0 ? pool : running, last && length == 0 ? pool : running,
                     records.k.at(i), records.decay[i], records.v_new.at(i) + column, width);
                if (last && length > 0) copy_state(state, running, pool, width);
              }
            });
      }

      for (int64_t t0 = 0; t0 < length; t0 += kTile) {
        const int64_t count = std::min(kTile, length - t0);
        tile.load_qk(problem, sequence, task.head, t0, count);
        if (begin == 0) tile.load_values(problem, sequence, head, t0, count, 0, state.V);
        blocks([&](int64_t column, int64_t width, const StateBlock&, const StateBlock& running) {
          VectorDots dots;
          advance(dots, state, tile, t0, count, length, problem.scale, running, running, column,
                  width, [](int64_t) { return StateBlock(); });
        });
        if (end < state.V) continue;
        tile.store_out(problem, sequence, head, t0, count, 0, state.V);
        // No record of this head is folded any more.
        store_value_records(problem, slot, head, tile, t0, count);
      }
    }
  }

  for (int64_t t0 = 0; t0 < length; t0 += kTile) {
    const int64_t count = std::min(kTile, length - t0);
    tile.load_qk(problem, sequence, task.head, t0, count);
    for (int64_t i = 0; i < count; ++i) {
      with_record(problem.record_k, slot, ((t0 + i) * problem.shape.heads + task.head) * state.K,
                  [&](auto* to) { store_row(tile.k.at(i), state.K, to); });
    }
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
