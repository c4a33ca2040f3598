#include "verify/inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <numeric>
#include <utility>

namespace gdn::verify {
namespace {

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Every tensor has streams of its own, one per sequence where it has tokens, so that the contents
// of a sequence do not depend on its neighbours.
enum Stream : uint64_t {
  kQ,
  kKeys,
  kDirection,
  kValues,
  kDecay,
  kDtBias,
  kA,
  kB,
  kState,
  kHasInitial,
  kSlots,
  kAcceptedTokens,
  kRecordK,
  kRecordV,
  kRecordG,
  kCommit,
};
Random stream(const Case& c, Stream s, int64_t sequence = 0) {
  return Random(c.seed, (static_cast<uint64_t>(c.first + sequence) << 8) + s);
}

// Rows and axes of the tensors of tokens.
struct Layout {
  explicit Layout(const Case& c)
      : packed(c.packing != Packing::kRows),
        batch(packed ? 1 : c.sequences()),
        rows(packed ? c.tokens() + c.tail : c.max_length()) {}
  bool packed;
  int64_t batch, rows;
};

// Row-major strides with gaps after every axis but the last.
std::vector<int64_t> padded_strides(const std::vector<int64_t>& shape, bool last_contiguous) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = last_contiguous ? 1 : 2;
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride = stride * std::max<int64_t>(1, shape[axis]) + 3;
  }
  return strides;
}

// [B,T,heads] or, with dim > 0, [B,T,heads,dim].
Tensor token_tensor(const Case& c, DType dtype, int64_t heads, int64_t dim = 0) {
  const Layout layout(c);
  std::vector<int64_t> shape = {layout.batch, layout.rows, heads};
  if (dim > 0) shape.push_back(dim);
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) placement.strides = padded_strides(shape, dim > 0);
  return Tensor(dtype, std::move(shape), std::move(placement));
}

// [slots, ...]: a gap after every slot alone, padded.
Tensor slot_tensor(const Case& c, DType dtype, std::vector<int64_t> shape) {
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) {
    placement.strides.resize(shape.size());
    int64_t stride = 1;
    for (size_t axis = shape.size(); axis-- > 0;) {
      placement.strides[axis] = stride;
      stride *= std::max<int64_t>(1, shape[axis]);
    }
    placement.strides[0] += 7;
  }
  return Tensor(dtype, std::move(shape), std::move(placement));
}

Tensor state_tensor(const Case& c, DType dtype, int64_t slots) {
  const bool vk = c.layout == StateLayout::kVK;
  return slot_tensor(c, dtype, {slots, c.HV, vk ? c.V : c.K, vk ? c.K : c.V});
}

// A_log, dt_bias, indices.
Tensor small_tensor(const Case& c, DType dtype, std::vector<int64_t> shape) {
  Placement placement{{}, c.shift};
  if (c.strides == Strides::kPadded) placement.strides = padded_strides(shape, false);
  return Tensor(dtype, std::move(shape), std::move(placement));
}

Tensor cu_seqlens_tensor(const Case& c) {
  if (c.packing == Packing::kRows) return {};
  Tensor cu =
      small_tensor(c, c.packing == Packing::kCu64 ? DType::kI64 : DType::kI32, {c.sequences() + 1});
  int64_t begin = 0;
  for (int64_t n = 0; n <= c.sequences(); ++n) {
    cu.set_int(n, begin);
    if (n < c.sequences()) begin += c.lengths[static_cast<size_t>(n)];
  }
  return cu;
}

// Parts of one buffer [B,T,sum of widths], as a fused projection gives them.
std::vector<Tensor> fused_tensors(const Case& c, DType dtype,
                                  const std::vector<std::pair<int64_t, int64_t>>& heads_and_dims) {
  const Layout layout(c);
  int64_t width = 0;
  for (const auto& [heads, dim] : heads_and_dims) width += heads * std::max<int64_t>(1, dim);
  const int64_t elements = c.shift + layout.batch * layout.rows * width;
  const auto buffer = std::make_shared<Buffer>(static_cast<size_t>(elements * size_of(dtype)));
  std::vector<Tensor> parts;
  int64_t offset = c.shift;
  for (const auto& [heads, dim] : heads_and_dims) {
    std::vector<int64_t> shape = {layout.batch, layout.rows, heads};
    std::vector<int64_t> strides = {layout.rows * width, width, std::max<int64_t>(1, dim)};
    if (dim > 0) {
      shape.push_back(dim);
      strides.push_back(1);
    }
    parts.emplace_back(buffer, dtype, std::move(shape), Placement{std::move(strides), offset});
    offset += heads * std::max<int64_t>(1, dim);
  }
  return parts;
}

// Calls body(t, row) for the tokens of sequence n; row counts [B,T] flattened.
template <class Body>
void for_each_token(const Case& c, int64_t n, const Body& body) {
  int64_t row = 0;
  for (int64_t m = 0; m < n; ++m) row += c.lengths[static_cast<size_t>(m)];
  for (int64_t t = 0; t < c.lengths[static_cast<size_t>(n)]; ++t) body(t, row + t);
}

void normalise(std::vector<double>* x) {
  double sum = 0;
  for (double e : *x) sum += e * e;
  for (double& e : *x) e /= std::sqrt(sum);
}

std::vector<double> normals(Random* random, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = random->normal();
  return values;
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

void fill_state(const Case& c, Tensor* states, int64_t slot, int64_t sequence) {
  Random random = stream(c, kState, sequence);
  const int64_t elements = c.HV * c.V * c.K;
  for (int64_t i = 0; i < elements; ++i) states->set(slot * elements + i, .1 * random.normal());
}

constexpr int64_t kSpareSlots = 3;       // that no sequence names
constexpr int64_t kWildIndex = 1 << 30;  // where an index is to be ignored

// Gives out distinct slots, in no order, never the null slot.
class Slots {
 public:
  Slots(int64_t count, std::optional<int64_t> null_slot, Random* random)
      : order_(random->permutation(count)) {
    if (null_slot) std::erase(order_, *null_slot);
  }
  int64_t take() {
    const int64_t slot = order_.back();
    order_.pop_back();
    return slot;
  }

 private:
  std::vector<int64_t> order_;
};

// Which sequences are padding: the kinds alternate, and N = 1 has either.
bool is_padding_read(const Case& c, int64_t n) {
  return c.padding != Padding::kNone && (n + static_cast<int64_t>(c.seed % 3)) % 3 == 0;
}
bool is_padding_write(const Case& c, int64_t n, int64_t t) {
  return c.padding != Padding::kNone && (n + t + static_cast<int64_t>(c.seed % 3)) % 3 == 1;
}
int64_t padding_index(const Case& c, std::optional<int64_t> null_slot, int64_t n) {
  const bool null = c.padding == Padding::kNullSlot || (c.padding == Padding::kBoth && n % 2 == 0);
  return null ? *null_slot : n % 4 == 1 ? -5 : -1;
}
std::optional<int64_t> null_slot_of(const Case& c) {
  if (c.padding == Padding::kNullSlot) return 0;  // vLLM's
  if (c.padding == Padding::kBoth) return 2;
  return std::nullopt;
}

// Slots, indices, initial states, has_initial_state and num_accepted.
void make_states(const Case& c, DeltaRuleData* data) {
  const int64_t N = c.sequences();
  const bool reads = c.states != States::kFinalOnly && c.states != States::kNone;
  const bool writes = c.states != States::kInitialOnly && c.states != States::kNone;
  const bool in_place = c.states == States::kInPlace;
  const bool indexed = c.indices != Indices::kNone;
  const bool columns = c.indices == Indices::kPerToken || c.indices == Indices::kAccepted;
  const int64_t M = columns ? c.max_length() + 2 : 0;
  const DType index_dtype =
      c.indices == Indices::kPool32 || c.indices == Indices::kPerToken ? DType::kI32 : DType::kI64;
  Random random = stream(c, kSlots);
  if (indexed) data->null_slot = null_slot_of(c);

  // The most slots that each pool is asked for, and some that no sequence names.
  const int64_t reads_named = c.indices == Indices::kAccepted ? N * M : N + 1;
  const int64_t writes_named = columns ? c.tokens() : N;
  const int64_t initial_count =
      indexed ? reads_named + (in_place ? writes_named : 0) + kSpareSlots : N;
  const int64_t final_count = indexed ? writes_named + kSpareSlots : N;
  if (reads) data->initial_state = state_tensor(c, c.state, initial_count);
  if (writes) {
    data->final_state =
        in_place ? data->initial_state : state_tensor(c, c.final_state, final_count);
  }
  if (c.has_initial) {
    data->has_initial_state = small_tensor(c, DType::kBool, {N});
    for (int64_t n = 0; n < N; ++n) {
      data->has_initial_state.set_int(n, stream(c, kHasInitial, n).below(3) != 0);
    }
  }
  // NaN stays in the slots that has_initial_state says not to read.
  const auto fill = [&](int64_t slot, int64_t n) {
    if (!c.has_initial || data->has_initial_state.get_int(n)) {
      fill_state(c, &data->initial_state, slot, n);
    }
  };
  if (!indexed) {
    for (int64_t n = 0; reads && n < N; ++n) fill(n, n);
    return;
  }

  Slots initial_slots(initial_count, data->null_slot, &random);
  Slots final_slots(final_count, data->null_slot, &random);
  const auto fresh_final = [&] { return (in_place ? initial_slots : final_slots).take(); };
  std::vector<int64_t> read_slot(static_cast<size_t>(N), -1);
  if (reads && c.indices == Indices::kAccepted) {
    data->initial_state_indices = small_tensor(c, index_dtype, {N, M});
    data->num_accepted = small_tensor(c, index_dtype, {N});
    for (int64_t n = 0; n < N; ++n) {
      const int64_t accepted = 1 + stream(c, kAcceptedTokens, n).below(M);
      data->num_accepted.set_int(n, accepted);
      for (int64_t t = 0; t < M; ++t) {
        data->initial_state_indices.set_int(n * M + t, initial_slots.take());
      }
      const int64_t at = n * M + accepted - 1;
      if (is_padding_read(c, n)) {
        data->initial_state_indices.set_int(at, padding_index(c, data->null_slot, n));
      } else {
        fill(data->initial_state_indices.get_int(at), n);
      }
    }
  } else if (reads) {
    data->initial_state_indices = small_tensor(c, index_dtype, {N});
    const int64_t shared = initial_slots.take();
    fill_state(c, &data->initial_state, shared, 0);
    for (int64_t n = 0; n < N; ++n) {
      const bool alone = c.indices != Indices::kShared;
      const int64_t slot = alone ? initial_slots.take() : shared;
      if (is_padding_read(c, n)) {
        data->initial_state_indices.set_int(n, padding_index(c, data->null_slot, n));
        continue;
      }
      data->initial_state_indices.set_int(n, slot);
      if (alone) fill(slot, n);
      read_slot[static_cast<size_t>(n)] = alone ? slot : -1;
    }
  }
  if (!writes) return;
  data->final_state_indices =
      columns ? small_tensor(c, index_dtype, {N, M}) : small_tensor(c, index_dtype, {N});
  for (int64_t n = 0; n < N; ++n) {
    const int64_t length = c.lengths[static_cast<size_t>(n)];
    for (int64_t t = 0; t < std::max<int64_t>(1, M); ++t) {
      const int64_t at = columns ? n * M + t : n;
      int64_t slot = kWildIndex;  // of the columns past the sequence
      if (!columns || t < length) {
        const bool last = !columns || t == length - 1;
        const int64_t own = read_slot[static_cast<size_t>(n)];
        if (is_padding_write(c, n, t)) {
          slot = padding_index(c, data->null_slot, n + t);
        } else if (in_place && c.indices == Indices::kAccepted) {
          // The columns that are read and written are the same slots.
          slot = data->initial_state_indices.get_int(at);
        } else if (in_place && last && own >= 0 && n % 2 == 0) {
          slot = own;
        } else {
          slot = fresh_final();
        }
      }
      data->final_state_indices.set_int(at, slot);
    }
  }
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

Random::Random(uint64_t seed, uint64_t stream)
    : state_(mix(mix(seed + 0x9e3779b97f4a7c15u) + stream * 0xd1342543de82ef95u)) {}

uint64_t Random::bits() {
  state_ += 0x9e3779b97f4a7c15u;
  return mix(state_);
}

double Random::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

double Random::normal() {
  if (spare_) return *std::exchange(spare_, std::nullopt);
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));  // Box and Muller
  const double angle = 2 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

int64_t Random::below(int64_t n) {
  return static_cast<int64_t>(bits() % static_cast<uint64_t>(std::max<int64_t>(1, n)));
}

std::vector<int64_t> Random::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(below(i + 1))]);
  }
  return order;
}

ChunkArgs DeltaRuleData::chunk_args() const {
  ChunkArgs args(about.layout);
  set_delta_rule_args(*this, &args);
  args.chunk_size = about.chunk_size;
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
