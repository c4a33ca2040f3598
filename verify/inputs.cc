#include "verify/inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "verify/case_tensors.h"
#include "verify/states.h"

namespace gdn::verify {
namespace {

void normalise(std::vector<double>* x) {
  double sum = 0;
  for (double e : *x) sum += e * e;
  for (double& e : *x) e /= std::sqrt(sum);
}

void set_row(Tensor* tensor, int64_t row, const std::vector<double>& values) {
  const auto width = static_cast<int64_t>(values.size());
  for (int64_t i = 0; i < width; ++i) tensor->set(row * width + i, values[static_cast<size_t>(i)]);
}

// The tokens of zeros of Input::kZeroChunk: the second 64, or the first where there are no more.
bool in_zero_chunk(const Case& c, int64_t n, int64_t t) {
  if (c.input != Input::kZeroChunk) return false;
  const int64_t begin = c.lengths[static_cast<size_t>(n)] >= 128 ? 64 : 0;
  return t >= begin && t < begin + 64;
}

// q, k, v of all sequences.
void fill_qkv(const Case& c, Tensor* q, Tensor* k, Tensor* v) {
  std::vector<std::vector<double>> directions;
  Random direction = stream(c, kDirection, -c.first);
  for (int64_t h = 0; h < c.H; ++h) {
    directions.push_back(normals(&direction, c.K));
    normalise(&directions.back());
  }
  const auto vector_of = [&](Random* random, int64_t length) {
    std::vector<double> x = normals(random, length);
    if (!c.l2norm) normalise(&x);
    return x;
  };
  const auto key_of = [&](Random* random, int64_t h) {
    const std::vector<double>& common = directions[static_cast<size_t>(h)];
    if (c.input == Input::kIdenticalKeys) return common;
    if (c.input != Input::kCommonKeys) return vector_of(random, c.K);
    std::vector<double> x = normals(random, c.K);
    normalise(&x);
    for (size_t i = 0; i < x.size(); ++i) x[i] = .9 * common[i] + std::sqrt(1 - .81) * x[i];
    normalise(&x);
    return x;
  };
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Random random_q = stream(c, kQ, n), random_k = stream(c, kKeys, n),
           random_v = stream(c, kValues, n);
    for_each_token(c, n, [&](int64_t t, int64_t row) {
      const double factor = in_zero_chunk(c, n, t) ? 0 : 1;
      const double v_factor = factor * (c.input == Input::kLargeValues ? 1e4 : 1);
      const auto scaled = [](std::vector<double> x, double by) {
        for (double& e : x) e *= by;
        return x;
      };
      for (int64_t h = 0; h < c.H; ++h) {
        set_row(q, row * c.H + h, scaled(vector_of(&random_q, c.K), factor));
        set_row(k, row * c.H + h, scaled(key_of(&random_k, h), factor));
      }
      for (int64_t h = 0; h < c.HV; ++h)
        set_row(v, row * c.HV + h, scaled(normals(&random_v, c.V), v_factor));
    });
  }
}

// Mamba's initialisation: A uniform in 1 .. 16, the time step log-uniform in .001 .. .1.
struct Decay {
  double A, dt_bias;
};
std::vector<Decay> decays(const Case& c) {
  Random random = stream(c, kDecay, -c.first);
  std::vector<Decay> all;
  for (int64_t h = 0; h < c.HV; ++h) {
    const double A = 1 + 15 * random.uniform();
    const double dt = std::exp(random.uniform() * std::log(.1 / .001) + std::log(.001));
    all.push_back({A, dt + std::log(-std::expm1(-dt))});
  }
  return all;
}

double usual_g(const Decay& decay, double a) {
  return -decay.A * std::log1p(std::exp(a + decay.dt_bias));
}

double g_of(const Case& c, int64_t n, int64_t t, double usual) {
  const int64_t middle = c.lengths[static_cast<size_t>(n)] / 2;
  switch (c.input) {
    case Input::kIdenticalKeys:
    case Input::kCommonKeys:
      return -1e-3;
    case Input::kForgetOnce:
      return t == middle ? -100 : usual;
    case Input::kForgetAlways:
      return -100;
    case Input::kForgetWhole:
      return t == middle ? -std::numeric_limits<double>::infinity() : usual;
    case Input::kNoDecay:
      return 0;
    default:
      return usual;
  }
}

double beta_of(const Case& c, double usual) {
  switch (c.input) {
    case Input::kIdenticalKeys:
    case Input::kCommonKeys:
      return .99;
    case Input::kBetaZero:
      return 0;
    case Input::kBetaOne:
      return 1;
    default:
      return usual;
  }
}

// Gates of either argument struct.
template <class Data>
void make_gates(const Case& c, Data* data) {
  const bool computed = c.gates != Gates::kGiven;
  const DType a_dtype = c.gates == Gates::kComputedF32 ? DType::kF32 : c.dtype;
  const bool from_b = c.beta == Beta::kFromB || c.beta == Beta::kFromBF32;
  const bool f32_beta = c.beta == Beta::kGivenF32 || c.beta == Beta::kFromBF32;
  const DType beta_dtype = f32_beta ? DType::kF32 : c.dtype;
  const std::vector<Decay> all_decays = decays(c);

  if (c.strides == Strides::kFused && computed && from_b && a_dtype == beta_dtype) {
    const std::vector<Tensor> parts = fused_tensors(c, a_dtype, {{c.HV, 0}, {c.HV, 0}});
    data->a = parts[0];
    data->b = parts[1];
  } else {
    if (computed) data->a = token_tensor(c, a_dtype, c.HV);
    if (from_b) data->b = token_tensor(c, beta_dtype, c.HV);
  }
  if (!computed) data->g = token_tensor(c, DType::kF32, c.HV);
  if (c.beta == Beta::kGiven || c.beta == Beta::kGivenF32)
    data->beta = token_tensor(c, beta_dtype, c.HV);

  if (computed) {
    data->A_log = small_tensor(c, c.gates == Gates::kComputedF32 ? c.dtype : DType::kF32, {c.HV});
    if (c.gates == Gates::kComputed) data->dt_bias = small_tensor(c, c.dtype, {c.HV});
    for (int64_t h = 0; h < c.HV; ++h) {
      const Decay& decay = all_decays[static_cast<size_t>(h)];
      data->A_log.set(h, std::log(decay.A));
      if (data->dt_bias.given()) data->dt_bias.set(h, decay.dt_bias);
    }
  }
  for (int64_t n = 0; n < c.sequences(); ++n) {
    Random random_a = stream(c, kA, n), random_b = stream(c, kB, n);
    for_each_token(c, n, [&](int64_t t, int64_t row) {
      for (int64_t h = 0; h < c.HV; ++h) {
        const Decay& decay = all_decays[static_cast<size_t>(h)];
        const int64_t i = row * c.HV + h;
        const double a = random_a.normal(), b = random_b.normal();
        if (data->g.given()) data->g.set(i, g_of(c, n, t, usual_g(decay, a)));
        if (data->a.given()) data->a.set(i, c.gates == Gates::kComputedF32 ? a + decay.dt_bias : a);
        if (data->beta.given()) data->beta.set(i, beta_of(c, 1 / (1 + std::exp(-b))));
        if (data->b.given()) data->b.set(i, b);
      }
    });
  }
}

template <class Data>
void make_tokens(const Case& c, Data* data) {
  if (c.strides == Strides::kFused) {
    const std::vector<Tensor> parts =
        fused_tensors(c, c.dtype, {{c.H, c.K}, {c.H, c.K}, {c.HV, c.V}});
    data->q = parts[0];
    data->k = parts[1];
    data->v = parts[2];
  } else {
    data->q = token_tensor(c, c.dtype, c.H, c.K);
    data->k = token_tensor(c, c.dtype, c.H, c.K);
    data->v = token_tensor(c, c.dtype, c.HV, c.V);
  }
  data->out = token_tensor(c, c.dtype, c.HV, c.V);
  fill_qkv(c, &data->q, &data->k, &data->v);
  make_gates(c, data);
  data->cu_seqlens = cu_seqlens_tensor(c);
}

void make_checkpoints(const Case& c, DeltaRuleData* data) {
  if (c.checkpoint_every == 0) return;
  data->checkpoint_cu =
      small_tensor(c, c.packing == Packing::kCu64 ? DType::kI64 : DType::kI32, {c.sequences() + 1});
  int64_t rows = 0;
  for (int64_t n = 0; n <= c.sequences(); ++n) {
    data->checkpoint_cu.set_int(n, rows);
    if (n < c.sequences()) rows += c.lengths[static_cast<size_t>(n)] / c.checkpoint_every;
  }
  data->checkpoints = state_tensor(c, c.final_state, rows);
}

// The part that every argument struct with tokens shares.
template <class Data, class Args>
void set_token_args(const Data& data, Args* args) {
  const Case& c = data.about;
  args->q = data.q.view();
  args->k = data.k.view();
  args->v = data.v.view();
  args->out = data.out.view();
  args->g = data.g.view();
  args->A_log = data.A_log.view();
  args->a = data.a.view();
  args->dt_bias = data.dt_bias.view();
  args->beta = data.beta.view();
  args->b = data.b.view();
  args->allow_neg_eigval = c.neg_eigval;
  args->cu_seqlens = data.cu_seqlens.view();
  args->null_slot = data.null_slot;
  if (c.scale != 0) args->scale = c.scale;
  args->use_qk_l2norm = c.l2norm;
  args->l2norm_eps = c.l2norm_eps;
  args->softplus_beta = static_cast<float>(c.softplus_beta);
  args->softplus_threshold = static_cast<float>(c.softplus_threshold);
}

template <class Args>
void set_delta_rule_args(const DeltaRuleData& data, Args* args) {
  set_token_args(data, args);
  args->initial_state = data.initial_state.view();
  args->final_state = data.final_state.view();
  args->initial_state_indices = data.initial_state_indices.view();
  args->final_state_indices = data.final_state_indices.view();
  args->has_initial_state = data.has_initial_state.view();
  args->num_accepted = data.num_accepted.view();
  args->compute = data.about.compute;
}

}  // namespace

ChunkArgs DeltaRuleData::chunk_args() const {
  ChunkArgs args(about.layout);
  set_delta_rule_args(*this, &args);
  args.chunk_size = about.chunk_size;
  args.context_split = about.context_split;
  args.checkpoint_every = about.checkpoint_every;
  args.checkpoints = checkpoints.view();
  args.checkpoint_cu = checkpoint_cu.view();
  return args;
}

RecurrentArgs DeltaRuleData::recurrent_args() const {
  RecurrentArgs args(about.layout);
  set_delta_rule_args(*this, &args);
  return args;
}

ReplayVerifyArgs ReplayData::verify_args() const {
  ReplayVerifyArgs args(about.layout);
  set_token_args(*this, &args);
  args.state = state.view();
  args.state_indices = state_indices.view();
  args.num_accepted = num_accepted.view();
  args.record_k = record_k.view();
  args.record_v = record_v.view();
  args.record_g = record_g.view();
  return args;
}

ReplayCommitArgs ReplayData::commit_args() const {
  ReplayCommitArgs args(about.layout);
  args.state = state.view();
  args.state_indices = state_indices.view();
  args.num_accepted = commit_accepted.view();
  args.record_k = record_k.view();
  args.record_v = record_v.view();
  args.record_g = record_g.view();
  args.null_slot = null_slot;
  return args;
}

DeltaRuleData make_delta_rule(const Case& c) {
  DeltaRuleData data;
  data.about = c;
  make_tokens(c, &data);
  make_states(c, &data);
  make_checkpoints(c, &data);
  return data;
}

ReplayData make_replay(const Case& c) {
  ReplayData data;
  data.about = c;
  make_tokens(c, &data);

  const int64_t N = c.sequences();
  const int64_t M = c.max_length() + 2;
  const bool indexed = c.indices != Indices::kNone;
  const int64_t count = indexed ? N + kSpareSlots : N;
  const DType index_dtype = c.indices == Indices::kPool64 ? DType::kI64 : DType::kI32;
  if (indexed) data.null_slot = null_slot_of(c);
  data.state = state_tensor(c, c.state, count);
  data.record_k = slot_tensor(c, c.state, {count, M, c.H, c.K});
  data.record_v = slot_tensor(c, c.state, {count, M, c.HV, c.V});
  data.record_g = slot_tensor(c, DType::kF32, {count, M, c.HV});
  data.num_accepted = small_tensor(c, index_dtype, {N});
  data.commit_accepted = small_tensor(c, index_dtype, {N});
  if (indexed) data.state_indices = small_tensor(c, index_dtype, {N});

  Random random = stream(c, kSlots);
  Slots slots(count, data.null_slot, &random);
  const std::vector<Decay> all_decays = decays(c);
  for (int64_t n = 0; n < N; ++n) {
    const int64_t accepted = stream(c, kAcceptedTokens, n).below(M + 1);
    data.num_accepted.set_int(n, accepted);
    data.commit_accepted.set_int(
        n, stream(c, kCommit, n).below(c.lengths[static_cast<size_t>(n)] + 1));
    const bool padding = indexed && is_padding_read(c, n);
    int64_t slot = indexed ? -1 : n;
    if (padding) {
      data.state_indices.set_int(n, padding_index(c, data.null_slot, n));
      continue;
    }
    if (indexed) {
      slot = slots.take();
      data.state_indices.set_int(n, slot);
    }
    fill_state(c, &data.state, slot, n);
    // The records past the accepted ones stay NaN: they are not to be read.
    Random random_k = stream(c, kRecordK, n), random_v = stream(c, kRecordV, n),
           random_g = stream(c, kRecordG, n);
    for (int64_t t = 0; t < accepted; ++t) {
      for (int64_t h = 0; h < c.H; ++h) {
        std::vector<double> key = normals(&random_k, c.K);
        normalise(&key);
        set_row(&data.record_k, (slot * M + t) * c.H + h, key);
      }
      for (int64_t h = 0; h < c.HV; ++h) {
        const int64_t row = (slot * M + t) * c.HV + h;
        set_row(&data.record_v, row, normals(&random_v, c.V));
        data.record_g.set(row, usual_g(all_decays[static_cast<size_t>(h)], random_g.normal()));
      }
    }
  }
  return data;
}

}  // namespace gdn::verify
