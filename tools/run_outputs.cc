#include "run_outputs.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "command.h"

namespace gdn::tools {
namespace {

using verify::Tensor;

std::vector<int64_t> shape_of(const TensorView& view) {
  return {view.shape, view.shape + std::max(0, view.rank)};
}

// How many there are, in packed tokens or in rows of a batch.
int64_t sequences_of(const TensorView& cu_seqlens, const TensorView& tokens) {
  if (!cu_seqlens.given()) return tokens.shape[0];
  return cu_seqlens.rank == 1 ? std::max<int64_t>(0, cu_seqlens.shape[0] - 1) : 0;
}

std::vector<int64_t> states_shape(const DeltaRuleArgs& args, int64_t slots) {
  const int64_t HV = args.v.shape[2], K = args.q.shape[3], V = args.v.shape[3];
  if (args.state_layout == StateLayout::kVK) return {slots, HV, V, K};
  return {slots, HV, K, V};
}

// Of states that the tool makes.
template <class Args>
DType state_dtype(const Args& args) {
  return args.initial_state.given() ? args.initial_state.dtype : DType::kF32;
}

}  // namespace

TensorView Outputs::make(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  double elements = 1;
  for (int64_t extent : shape) elements *= static_cast<double>(std::max<int64_t>(1, extent));
  if (elements > 0x1p40) throw Mistake(name + " would fit in no memory");
  tensors_.emplace_back(name, Tensor(dtype, std::move(shape)));
  return tensors_.back().second.view();
}

TensorView Outputs::like(const std::string& name, DType dtype, const TensorView& view) {
  return make(name, dtype, shape_of(view));
}

TensorView Outputs::copy(const std::string& name, const TensorView& view) {
  tensors_.emplace_back(name, Tensor::copy_of(view));
  return tensors_.back().second.view();
}

template <class Args>
void Outputs::final_states(Args* args, const TensorView& start, std::vector<int64_t> shape) {
  if (start.given()) {
    args->final_state = copy("final_state", start);
  } else if (!args->final_state_indices.given()) {
    if (!shape.empty()) {
      args->final_state = make("final_state", state_dtype(*args), std::move(shape));
    }
  } else if (args->initial_state.given()) {
    args->final_state = copy("final_state", args->initial_state);
  } else {
    throw Mistake(
        "final_state_indices name slots of a pool, expected initial_state or final_state, from "
        "which it starts");
  }
}

void Outputs::delta_rule(DeltaRuleArgs* args, const TensorView& start, bool keep_final_state) {
  args->out = like("out", args->q.dtype, args->v);
  if (!keep_final_state) return;
  std::vector<int64_t> shape;
  if (args->q.rank == 4 && args->v.rank == 4)
    shape = states_shape(*args, sequences_of(args->cu_seqlens, args->q));
  final_states(args, start, std::move(shape));
}

// checkpoint_cu, where it is not given, follows from the lengths. Numbers of a file that cannot be
// right allocate nothing: the operator's check comes to them first.
void Outputs::checkpoints(ChunkArgs* args) {
  const int64_t every = args->checkpoint_every;
  if (every <= 0 || args->q.rank != 4 || args->v.rank != 4) return;
  const int64_t T = args->q.shape[1], most = args->q.shape[0] * (T / every);
  const auto as_integers = [](const TensorView& view) {
    return view.dtype == DType::kI32 || view.dtype == DType::kI64 ? Tensor::copy_of(view)
                                                                  : Tensor();
  };
  if (!args->checkpoint_cu.given()) {
    const int64_t N = sequences_of(args->cu_seqlens, args->q);
    const TensorView cu = make("checkpoint_cu", DType::kI64, {N + 1});
    auto* rows = static_cast<int64_t*>(cu.data);
    const Tensor seqlens = as_integers(args->cu_seqlens);
    const auto end_of = [&](int64_t n) {
      return std::clamp<int64_t>(seqlens.given() ? seqlens.get_int(n) : n * T, 0,
                                 seqlens.given() ? T : N * T);
    };
    rows[0] = 0;
    for (int64_t n = 0; n < N; ++n) {
      rows[n + 1] = rows[n] + std::max<int64_t>(0, end_of(n + 1) - end_of(n)) / every;
    }
    args->checkpoint_cu = cu;
  }
  int64_t rows = 0;
  const Tensor cu = as_integers(args->checkpoint_cu);
  if (cu.given() && args->checkpoint_cu.rank == 1 && cu.size() > 0) {
    rows = std::clamp<int64_t>(cu.get_int(cu.size() - 1), 0, most);
  }
  args->checkpoints = make("checkpoints", state_dtype(*args), states_shape(*args, rows));
}

void Outputs::allocate(ChunkArgs* args, const TensorView& start, bool keep_final_state) {
  delta_rule(args, start, keep_final_state);
  checkpoints(args);
}

void Outputs::allocate(RecurrentArgs* args, const TensorView& start, bool keep_final_state) {
  delta_rule(args, start, keep_final_state);
}

void Outputs::allocate(ReplayVerifyArgs* args, const TensorView&, bool) {
  args->out = like("out", args->q.dtype, args->v);
  args->state = copy("state", args->state);
  args->record_k = copy("record_k", args->record_k);
  args->record_v = copy("record_v", args->record_v);
  args->record_g = copy("record_g", args->record_g);
}

void Outputs::allocate(ReplayCommitArgs* args, const TensorView&, bool) {
  args->state = copy("state", args->state);
}

void Outputs::allocate(GatingArgs* args, const TensorView&, bool) {
  args->g = like("g", DType::kF32, args->a);
  if (args->b.given()) args->beta = like("beta", DType::kF32, args->b);
}

void Outputs::allocate(L2normArgs* args, const TensorView&, bool) {
  args->y = like("y", args->x.dtype, args->x);
}

void Outputs::allocate(RmsNormGatedArgs* args, const TensorView&, bool) {
  args->y = like("y", args->x.dtype, args->x);
}

void Outputs::allocate(CausalConv1dArgs* args, const TensorView& start, bool keep_final_state) {
  args->y = like("y", args->x.dtype, args->x);
  if (!keep_final_state) return;
  std::vector<int64_t> shape;
  if (args->x.rank == 3 && args->weight.rank == 2) {
    const bool given = args->initial_state.rank == 3;  // its history may be longer than needed
    shape = {sequences_of(args->cu_seqlens, args->x), args->x.shape[2],
             given ? args->initial_state.shape[2] : args->weight.shape[1] - 1};
  }
  final_states(args, start, std::move(shape));
}

void Outputs::allocate(SolveTrilArgs* args, const TensorView&, bool) {
  args->inverse = like("inverse", args->lower.dtype, args->lower);
  std::vector<int64_t> shape = shape_of(args->lower);
  if (shape.size() < 2) return;
  shape.resize(shape.size() - 2);
  args->residual = make("residual", DType::kF32, shape);
}

}  // namespace gdn::tools
