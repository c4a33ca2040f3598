#include "verify_rows.h"

#include <algorithm>
#include <utility>

#include "command.h"
#include "verify/compare.h"

namespace gdn::tools {
namespace {

using verify::Case;
using verify::Comparand;
using verify::Comparison;
using verify::DeltaRuleData;
using verify::Expected;
using verify::Operator;
using verify::Quantity;
using verify::Tensor;

Status plan_call(const Context& context, const DeltaRuleData& data, Plan* plan) {
  if (data.about.op == Operator::kChunk) return gdn::plan(context, data.chunk_args(), plan);
  return gdn::plan(context, data.recurrent_args(), plan);
}

// The same inputs with outputs of its own, not yet written.
DeltaRuleData fresh(const DeltaRuleData& data) {
  DeltaRuleData copy = data;
  copy.out = Tensor(data.out.dtype(), data.out.shape());
  if (data.about.states == verify::States::kInPlace) {
    copy.initial_state = copy.final_state = data.initial_state.clone();
  } else if (data.final_state.given()) {
    copy.final_state = Tensor(data.final_state.dtype(), data.final_state.shape());
  }
  return copy;
}

std::string described(const Case& c) {
  std::string dtype = short_name(c.dtype);
  if (c.compute == Compute::kF32 && c.dtype != DType::kF32) dtype += ", fp32 products";
  return dtype;
}

// Against the reference, on every kernel.
void add_rows(const std::string& name, const Expected& expected, const std::string& repeat,
              Collector* to) {
  for (const std::string& kernel : to->kernels) {
    Context context = to->context(kernel);
    const verify::Result result = expected.run(context);
    Row row(name, name_of(expected.about().op), kernel, described(expected.about()));
    row.comparisons = result.comparisons;
    row.defects = result.defects;
    if (!result.status.ok()) row.defects.push_back(result.status.message());
    row.repeat = repeat.empty() ? verify::repeat_line(expected.about(), context)
                                : repeat + " --kernel " + kernel;
    to->rows.push_back(std::move(row));
  }
}

// Against what a file expects, on every kernel.
void add_stored_rows(const std::string& name, const DeltaRuleData& data, const Tensor& out,
                     const Tensor& final_state, const std::string& repeat, Collector* to) {
  if (!out.given() && !final_state.given()) return;
  for (const std::string& kernel : to->kernels) {
    Context context = to->context(kernel);
    const DeltaRuleData copy = fresh(data);
    Plan plan;
    Row row(name, name_of(data.about.op), kernel, described(data.about));
    row.repeat = repeat + " --kernel " + kernel;
    Status status = plan_call(context, copy, &plan);
    if (status.ok()) status = verify::call(context, copy);
    if (status.ok()) {
      Comparand about;
      about.compute = plan.compute;
      if (out.given())
        row.comparisons.push_back(verify::compare("out", copy.out, out.to_doubles(), about));
      about.quantity = Quantity::kState;
      if (final_state.given()) {
        row.comparisons.push_back(
            verify::compare("final_state", copy.final_state, final_state.to_doubles(), about));
      }
    } else {
      row.defects.push_back(status.message());
    }
    to->rows.push_back(std::move(row));
  }
}

}  // namespace

bool Row::ok() const {
  return defects.empty() && !comparisons.empty() &&
         std::all_of(comparisons.begin(), comparisons.end(),
                     [](const Comparison& c) { return c.ok(); });
}

Context Collector::context(const std::string& kernel) const {
  Context context;
  context.executor = executor;
  context.kernel = kernel.c_str();
  return context;
}

void verify_capture(const verify::Capture& capture, bool quick, Collector* to) {
  const std::string repeat = std::string("gdn verify") + (quick ? " --quick" : "");
  for (const Operator op : {Operator::kChunk, Operator::kRecurrent}) {
    if (quick && op == Operator::kRecurrent) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      DeltaRuleData data = verify::converted(capture.file.data, dtype);
      data.about.op = op;
      to->show(capture.layer + " " + name_of(op) + " " + short_name(dtype));
      add_rows(capture.layer, Expected(fresh(data)), repeat, to);
      add_stored_rows(capture.layer + ", stored", data, capture.file.out_expected,
                      capture.file.final_state_expected, repeat, to);
    }
  }
}

void verify_case(const std::string& name, const Case& c, Collector* to) {
  to->show(name + " " + name_of(c.op) + " " + short_name(c.dtype));
  add_rows(name, Expected(c), "", to);
}

void verify_file(const std::string& name, const verify::DeltaRuleFile& file,
                 const std::string& repeat, Collector* to) {
  for (const Operator op : {Operator::kChunk, Operator::kRecurrent}) {
    DeltaRuleData data = fresh(file.data);
    data.about.op = op;
    // The operator's own checks, before anything is computed from what a stranger wrote.
    Plan plan;
    require(plan_call(Context(), data, &plan));
    for (const auto& [tensor, expected, output] :
         {std::tuple("out_expected", &file.out_expected, &data.out),
          std::tuple("final_state_expected", &file.final_state_expected, &data.final_state)}) {
      if (expected->given() && expected->shape() != output->shape())
        throw Mistake(name + ": " + tensor + " has not the shape of its output");
    }
    to->show(name + " " + name_of(op));
    add_rows(name, Expected(fresh(data)), repeat, to);
    add_stored_rows(name + ", stored", data, file.out_expected, file.final_state_expected, repeat,
                    to);
  }
}

}  // namespace gdn::tools
