// Log-decay g and write strength beta: their one formula in vectors, the gating operator, and the
// gates of a few consecutive tokens for the delta-rule kernels.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// log(1 + u) for u in [0, 1], as 2 atanh(u / (2 + u)): keeps its relative accuracy as u goes to 0.
HWY_INLINE Vec log1p_unit(Vec u) {
  const F32 d;
  const Vec s = hn::Div(u, hn::Add(u, hn::Set(d, 2.0f)));
  const Vec z = hn::Mul(s, s);  // at most 1/9, so that seven terms of the series reach float32
  Vec tail = hn::Set(d, 1.0f / 15);
  for (int odd = 13; odd >= 3; odd -= 2) {
    tail = hn::MulAdd(tail, z, hn::Set(d, 1.0f / static_cast<float>(odd)));
  }
  const Vec twice = hn::Add(s, s);
  return hn::MulAdd(hn::Mul(twice, z), tail, twice);
}

// a b - product, where product is a b rounded.
HWY_INLINE Vec product_error(Vec a, Vec b, Vec product) {
#if HWY_TARGET == HWY_SCALAR  // whose MulSub rounds twice
  const double exact = static_cast<double>(hn::GetLane(a)) * hn::GetLane(b);
  return hn::Set(F32(), static_cast<float>(exact - hn::GetLane(product)));
#else
  return hn::MulSub(a, b, product);
#endif
}

struct Softplus {
  float beta, threshold;
};

// -exp_A softplus(a + dt_bias). The rounding errors of the sum and of its product with softplus
// beta are carried along: they would be relative errors of g where softplus(x) is nearly exp(x).
HWY_INLINE Vec log_decay(Vec a, Vec dt_bias, Vec exp_A, Softplus softplus) {
  const F32 d;
  const Vec zero = hn::Zero(d);
  const Vec factor = hn::Set(d, softplus.beta);
  const Vec sum = hn::Add(a, dt_bias);
  const Vec bias_part = hn::Sub(sum, a);
  const Vec sum_error = hn::Add(hn::Sub(a, hn::Sub(sum, bias_part)), hn::Sub(dt_bias, bias_part));
  const Vec x = hn::Mul(sum, factor);
  Vec error = hn::MulAdd(sum_error, factor, product_error(sum, factor, x));
  error = hn::IfThenElseZero(hn::Lt(hn::Abs(x), hn::Set(d, 1e4f)), error);  // no inf - inf

  // softplus(x) = max(x, 0) + log1p(exp(-|x|)), the exponential corrected to first order.
  const Vec u = exp(hn::Neg(hn::Abs(x)));
  const Vec signed_error = hn::IfThenElse(hn::Lt(x, zero), error, hn::Neg(error));
  const Vec log_part = log1p_unit(hn::MulAdd(u, signed_error, u));
  const Vec smooth = hn::Div(hn::Add(hn::Max(x, zero), log_part), factor);
  const auto linear = hn::Gt(hn::Add(hn::Sub(x, hn::Set(d, softplus.threshold)), error), zero);
  return hn::Neg(hn::Mul(exp_A, hn::IfThenElse(linear, sum, smooth)));
}

HWY_INLINE Vec sigmoid(Vec x) {
  const Vec one = hn::Set(F32(), 1.0f);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(x))));
}

// x sigmoid(x). What the range of the exponential lacks does not matter below, where 1 + e^-x is 1,
// nor for NaN, which the numerator has.
HWY_INLINE Vec silu(Vec x) {
  const F32 d;
  const Vec e = exp_in_range(hn::Neg(hn::Min(x, hn::Set(d, -kExpMin))));
  const auto overflows = hn::Lt(x, hn::Set(d, -kExpMax));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), hn::IfThenElse(overflows, hn::Inf(d), e)));
}

// Gates are handled this many at a time.
constexpr int64_t kGateBlock = 64;
struct alignas(64) GateBuffer {
  float x[kGateBlock] = {};
};

// n elements of any float dtype, `stride` apart, to floats and back.
HWY_INLINE void gather(const std::byte* from, DType dtype, int64_t stride, int64_t n, float* to) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    const T* p = reinterpret_cast<const T*>(from);
    if (stride == 1) {
      load_row(p, n, to);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        to[i] = load_float(reinterpret_cast<const std::byte*>(p + i * stride), dtype_of<T>);
      }
    }
  });
}
HWY_INLINE void scatter(const float* from, int64_t n, DType dtype, int64_t stride, std::byte* to) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    T* p = reinterpret_cast<T*>(to);
    if (stride == 1) {
      store_row(from, n, p);
    } else {
      // By way of the vector store, so that the stride decides nothing about rounding.
      T buffer[kGateBlock];
      for (int64_t i = 0; i < n; i += kGateBlock) {
        const int64_t count = std::min(kGateBlock, n - i);
        store_row(from + i, count, buffer);
        for (int64_t c = 0; c < count; ++c) {
          std::memcpy(static_cast<void*>(p + (i + c) * stride), buffer + c, sizeof(T));
        }
      }
    }
  });
}

// `count` gates along some axis: gather(tensor, to) takes that many of a tensor, constants(i) are
// dt_bias and exp(A_log) of kLanes gates from i on.
struct GateConstants {
  Vec dt_bias, exp_A;
};
template <class Gather, class Constants>
HWY_INLINE void load_gates_along(const GateInputs& gates, int64_t count, const Gather& gather,
                                 const Constants& constants, float* g, float* beta) {
  if (gates.g.given()) {
    gather(gates.g, g);
  } else {
    GateBuffer a;
    gather(gates.a, a.x);
    for (int64_t i = 0; i < count; i += kLanes) {
      const GateConstants c = constants(i);
      store(log_decay(load(a.x + i), c.dt_bias, c.exp_A,
                      {gates.softplus_beta, gates.softplus_threshold}),
            a.x + i);
    }
    std::copy_n(a.x, count, g);
  }

  if (gates.beta.given()) {
    gather(gates.beta, beta);
  } else if (gates.b.given()) {
    GateBuffer b;
    gather(gates.b, b.x);
    for (int64_t i = 0; i < count; i += kLanes) store(sigmoid(load(b.x + i)), b.x + i);
    std::copy_n(b.x, count, beta);
  } else {
    std::fill_n(beta, count, 1.0f);
  }
  if (gates.allow_neg_eigval) {
    for (int64_t i = 0; i < count; ++i) beta[i] *= 2;
  }
}

// g and beta of tokens t0 .. t0 + count - 1 (count <= 64) of a sequence and value head, given or
// computed; g as it is, however low.
inline void load_gates(const GateInputs& gates, const Sequence& sequence, int64_t t0, int64_t count,
                       int64_t head, float* g, float* beta) {
  const F32 d;
  GateConstants constants = {hn::Zero(d), hn::Zero(d)};
  if (!gates.g.given()) {
    if (gates.dt_bias.given()) {
      constants.dt_bias = hn::Set(d, load_float(gates.dt_bias.at(head), gates.dt_bias.dtype));
    }
    constants.exp_A = exp(hn::Set(d, load_float(gates.A_log.at(head), gates.A_log.dtype)));
  }
  load_gates_along(
      gates, count,
      [&](const TokenTensor& from, float* to) {
        gather(from.at(sequence, t0, head), from.dtype, from.token_stride, count, to);
      },
      [&](int64_t) { return constants; }, g, beta);
}

// The same of one token, value heads head .. head + count - 1 (count <= 64).
inline void load_gates_of_heads(const GateInputs& gates, const Sequence& sequence, int64_t head,
                                int64_t count, float* g, float* beta) {
  GateBuffer dt_bias, A_log;
  if (!gates.g.given()) {
    if (gates.dt_bias.given()) {
      gather(gates.dt_bias.at(head), gates.dt_bias.dtype, gates.dt_bias.stride, count, dt_bias.x);
    }
    gather(gates.A_log.at(head), gates.A_log.dtype, gates.A_log.stride, count, A_log.x);
  }
  load_gates_along(
      gates, count,
      [&](const TokenTensor& from, float* to) {
        gather(from.at(sequence, 0, head), from.dtype, from.head_stride, count, to);
      },
      [&](int64_t i) {
        return GateConstants{load(dt_bias.x + i), exp(load(A_log.x + i))};
      },
      g, beta);
}

// The same for kernels that sum g over tokens. A g below -150 becomes -150: its exponential is 0 in
// float32 either way, but the sum of a chunk that holds -1e4, or -infinity, has no digits left for
// the differences between the tokens after it. NaN passes.
inline void compute_gates(const GateInputs& gates, const Sequence& sequence, int64_t t0,
                          int64_t count, int64_t head, float* g, float* beta) {
  load_gates(gates, sequence, t0, count, head, g, beta);
  for (int64_t i = 0; i < count; ++i) g[i] = g[i] < -150.0f ? -150.0f : g[i];
}

// The operator walks blocks of heads, so that exp(A_log) is computed once for all rows.
inline void gating(const GatingProblem& problem, int64_t begin, int64_t end) {
  const GateInputs& in = problem.gates;
  const int64_t heads = problem.shape.value_heads;
  const int64_t T = problem.shape.max_length;
  for (int64_t head = 0; head < heads; head += kGateBlock) {
    const int64_t n = std::min(kGateBlock, heads - head);
    GateBuffer exp_A, dt_bias, x;
    gather(in.A_log.at(head), in.A_log.dtype, in.A_log.stride, n, exp_A.x);
    if (in.dt_bias.given()) {
      gather(in.dt_bias.at(head), in.dt_bias.dtype, in.dt_bias.stride, n, dt_bias.x);
    }
    for (int64_t i = 0; i < n; i += kLanes) store(exp(load(exp_A.x + i)), exp_A.x + i);

    for (int64_t row = begin; row < end; ++row) {
      const Sequence token = {row / T, row % T, 1};
      gather(in.a.at(token, 0, head), in.a.dtype, in.a.head_stride, n, x.x);
      for (int64_t i = 0; i < n; i += kLanes) {
        store(log_decay(load(x.x + i), load(dt_bias.x + i), load(exp_A.x + i),
                        {in.softplus_beta, in.softplus_threshold}),
              x.x + i);
      }
      scatter(x.x, n, problem.g.dtype, problem.g.head_stride, problem.g.at(token, 0, head));
      if (!in.b.given()) continue;
      gather(in.b.at(token, 0, head), in.b.dtype, in.b.head_stride, n, x.x);
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec y = sigmoid(load(x.x + i));
        store(in.allow_neg_eigval ? hn::Add(y, y) : y, x.x + i);
      }
      scatter(x.x, n, problem.beta.dtype, problem.beta.head_stride,
              problem.beta.at(token, 0, head));
    }
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
