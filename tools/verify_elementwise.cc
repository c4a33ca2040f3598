// gdn verify of gating, l2norm, rms_norm_gated and solve_tril.
#include <algorithm>
#include <cmath>
#include <utility>

#include "command.h"
#include "verify/compare.h"
#include "verify/inputs.h"
#include "verify_rows.h"

namespace gdn::tools {
namespace {

using verify::Comparand;
using verify::Random;
using verify::Tensor;

template <class Draw>
Tensor drawn(DType dtype, std::vector<int64_t> shape, const Draw& draw) {
  Tensor tensor(dtype, std::move(shape));
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, draw(i));
  return tensor;
}

// One operator on inputs that are fixed: run(context, outputs) calls it, `outputs` are the dtypes
// and shapes of what it writes.
struct Output {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};
template <class Run>
void add_rows(const std::string& name, const std::string& op, DType dtype, bool hard,
              const std::vector<Output>& outputs, const std::vector<std::vector<double>>& expected,
              const Run& run, Collector* to) {
  for (const std::string& kernel : to->kernels) {
    Context context = to->context(kernel);
    Row row(name, op, kernel, short_name(dtype));
    row.repeat = "gdn verify --kernel " + kernel;
    std::vector<Tensor> written;
    for (const Output& output : outputs) written.emplace_back(output.dtype, output.shape);
    const Status status = run(context, written);
    if (!status.ok()) row.defects.push_back(status.message());
    for (size_t i = 0; status.ok() && i < outputs.size(); ++i) {
      Comparand about;
      about.hard = hard;
      row.comparisons.push_back(verify::compare(outputs[i].name, written[i], expected[i], about));
    }
    to->rows.push_back(std::move(row));
  }
}

// What the definition gives for the outputs, rounded to float32 alone.
template <class Run>
std::vector<std::vector<double>> by_reference(const std::vector<Output>& outputs, const Run& run) {
  Context context;
  context.kernel = "reference";
  std::vector<Tensor> written;
  for (const Output& output : outputs) written.emplace_back(DType::kF32, output.shape);
  require(run(context, written));
  std::vector<std::vector<double>> values;
  for (const Tensor& tensor : written) values.push_back(tensor.to_doubles());
  return values;
}

void verify_l2norm(DType dtype, int64_t rows, int64_t D, Random* random, Collector* to) {
  const Tensor x = drawn(dtype, {rows, D}, [&](int64_t i) {
    return i / D % 7 == 0 ? 0 : random->normal() * std::exp(random->normal());
  });
  const auto run = [&](Context& context, const std::vector<Tensor>& outputs) {
    L2normArgs args;
    args.x = x.view();
    args.y = outputs[0].view();
    return l2norm(context, args);
  };
  const std::vector<Output> outputs = {{"y", dtype, {rows, D}}};
  add_rows("rows of " + std::to_string(D), "l2norm", dtype, false, outputs,
           by_reference(outputs, run), run, to);
}

void verify_rms_norm_gated(DType dtype, int64_t rows, int64_t D, Random* random, Collector* to) {
  const Tensor x = drawn(dtype, {rows, D}, [&](int64_t i) {
    // Over many magnitudes, all of which float16 has.
    const double value = random->normal() * std::exp(3 * random->normal());
    return i / D % 7 == 0 ? 0 : std::clamp(value, -6e4, 6e4);
  });
  const Tensor z = drawn(dtype, {rows, D}, [&](int64_t) { return 4 * random->normal(); });
  const Tensor weight =
      drawn(DType::kF32, {D}, [&](int64_t) { return 1 + 0.3 * random->normal(); });
  const auto run = [&](Context& context, const std::vector<Tensor>& outputs) {
    RmsNormGatedArgs args;
    args.x = x.view();
    args.z = z.view();
    args.weight = weight.view();
    args.y = outputs[0].view();
    return rms_norm_gated(context, args);
  };
  const std::vector<Output> outputs = {{"y", dtype, {rows, D}}};
  add_rows("rows of " + std::to_string(D), "rms_norm_gated", dtype, false, outputs,
           by_reference(outputs, run), run, to);
}

void verify_random_gating(DType dtype, int64_t tokens, int64_t HV, Random* random, Collector* to) {
  const auto wide = [&](int64_t) { return 8 * random->normal(); };
  const Tensor a = drawn(dtype, {1, tokens, HV}, wide);
  const Tensor b = drawn(dtype, {1, tokens, HV}, wide);
  const Tensor A_log = drawn(DType::kF32, {HV}, [&](int64_t) { return 3 * random->uniform(); });
  const Tensor dt_bias = drawn(dtype, {HV}, [&](int64_t) { return random->normal(); });
  const auto run = [&](Context& context, const std::vector<Tensor>& outputs) {
    GatingArgs args;
    args.a = a.view();
    args.b = b.view();
    args.A_log = A_log.view();
    args.dt_bias = dt_bias.view();
    args.g = outputs[0].view();
    args.beta = outputs[1].view();
    return gating(context, args);
  };
  const std::vector<Output> outputs = {{"g", DType::kF32, {1, tokens, HV}},
                                       {"beta", dtype, {1, tokens, HV}}};
  add_rows("gates", "gating", dtype, false, outputs, by_reference(outputs, run), run, to);
}

// I + A of a chunk: usual keys, or the same key in every row with beta .99.
void verify_solve(DType dtype, int64_t matrices, int64_t n, bool hard, SolveMethod method,
                  Random* random, Collector* to) {
  const Tensor lower = drawn(dtype, {matrices, n, n}, [&](int64_t i) {
    const double x = random->normal() / std::sqrt(128.0);
    return i / n % n <= i % n ? 0 : hard ? 0.99 : x;
  });
  // The reference takes tensors of one dtype; these are the same values.
  const Tensor exact =
      drawn(DType::kF32, {matrices, n, n}, [&](int64_t i) { return lower.get(i); });
  const auto run = [&](const Tensor& from) {
    return [&from, method](Context& context, const std::vector<Tensor>& outputs) {
      SolveTrilArgs args;
      args.lower = from.view();
      args.inverse = outputs[0].view();
      args.method = method;
      return solve_tril(context, args);
    };
  };
  const std::vector<Output> outputs = {{"inverse", dtype, {matrices, n, n}}};
  std::string name = std::to_string(n) + " x " + std::to_string(n);
  name += hard ? ", identical keys" : method == SolveMethod::kNeumann ? ", neumann" : "";
  add_rows(name, "solve_tril", dtype, hard, outputs, by_reference(outputs, run(exact)), run(lower),
           to);
}

}  // namespace

void verify_gating(const verify::Capture& capture, Collector* to) {
  const verify::DeltaRuleData& data = capture.file.data;
  const std::vector<int64_t>& shape = capture.g_expected.shape();
  const auto run = [&](Context& context, const std::vector<Tensor>& outputs) {
    GatingArgs args;
    args.a = data.a.view();
    args.b = data.b.view();
    args.A_log = data.A_log.view();
    args.dt_bias = data.dt_bias.view();
    args.g = outputs[0].view();
    args.beta = outputs[1].view();
    return gating(context, args);
  };
  to->show(capture.layer + " gating");
  add_rows(capture.layer + ", stored", "gating", data.a.dtype(), false,
           {{"g", DType::kF32, shape}, {"beta", DType::kF32, shape}},
           {capture.g_expected.to_doubles(), capture.beta_expected.to_doubles()}, run, to);
}

void verify_elementwise(uint64_t seed, bool quick, Collector* to) {
  Random random(seed);
  to->show("gating, l2norm, rms_norm_gated, solve_tril");
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (quick && dtype == DType::kF16) continue;
    verify_random_gating(dtype, quick ? 300 : 3000, 6, &random, to);
    for (const int64_t D : {128, 200}) {
      verify_l2norm(dtype, quick ? 200 : 2000, D, &random, to);
      verify_rms_norm_gated(dtype, quick ? 200 : 2000, D, &random, to);
    }
    const int64_t matrices = quick ? 4 : 24;
    verify_solve(dtype, matrices, 64, false, SolveMethod::kExact, &random, to);
    verify_solve(dtype, matrices, 64, true, SolveMethod::kExact, &random, to);
    verify_solve(dtype, matrices, 64, false, SolveMethod::kNeumann, &random, to);
  }
}

}  // namespace gdn::tools
