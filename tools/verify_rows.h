// What `gdn verify` collects: a row is one call on one kernel, compared.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gdn/gdn.h"
#include "verify/captures.h"
#include "verify/case.h"
#include "verify/run.h"

namespace gdn::tools {

struct Row {
  Row(std::string row_name, std::string row_op, std::string row_kernel, std::string row_dtype)
      : name(std::move(row_name)),
        op(std::move(row_op)),
        kernel(std::move(row_kernel)),
        dtype(std::move(row_dtype)) {}

  std::string name;  // "layer0", "identical_keys", ...
  std::string op, kernel, dtype;
  std::vector<verify::Comparison> comparisons;
  std::vector<std::string> defects;  // what is wrong besides
  std::string repeat;                // the command that shows it again

  bool ok() const;
};

// Adds a row for each kernel. `show` is told what comes next.
struct Collector {
  Executor* executor = nullptr;
  std::vector<std::string> kernels;
  std::function<void(const std::string&)> show;
  std::vector<Row> rows;

  Context context(const std::string& kernel) const;
};

// The captured layers: against the reference and against the stored expectations.
void verify_capture(const verify::Capture& capture, bool quick, Collector* to);
// A generated case. A replay case is one like the others.
void verify_case(const std::string& name, const verify::Case& c, Collector* to);
// A call that somebody wrote down, through both operators, with what they expect.
void verify_file(const std::string& name, const verify::DeltaRuleFile& file,
                 const std::string& repeat, Collector* to);

// Gating, l2norm and solve_tril. The definition is the reference kernel with float32 outputs.
void verify_gating(const verify::Capture& capture, Collector* to);
void verify_elementwise(uint64_t seed, bool quick, Collector* to);

}  // namespace gdn::tools
