// Runs a Case through the public API and compares everything it wrote with the double reference.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gdn/context.h"
#include "gdn/plan.h"
#include "gdn/status.h"
#include "verify/case.h"
#include "verify/inputs.h"

namespace gdn::verify {

// One written tensor against the reference, in L2 norms.
struct Comparison {
  std::string tensor;  // "out", "final_state", "checkpoints", "record_k", ...
  double error = 0;
  double bound = 0;
  double norm = 0;                            // of the reference
  bool ok() const { return error <= bound; }  // false for NaN
  // Relative to the norm; 0 over 0 is 0.
  double relative_error() const;
  double relative_bound() const;
};

struct Result {
  Status status;  // of the calls
  Plan plan;
  std::vector<Comparison> comparisons;
  // Whatever else is wrong, in words: an element not written, a guard or an unnamed slot changed, a
  // skipped row that is not zero, an input written.
  std::vector<std::string> defects;

  bool ok() const;
};

// Everything about a failure, ending in the line that repeats it.
std::string describe(const Result& result, const Case& c, const Context& context);
// The line alone: gdn verify --kernel avx2 --threads 2 --case "...".
std::string repeat_line(const Case& c, const Context& context);

// What the reference says of a case, in double; computed once, compared with any number of kernels.
class Expected {
 public:
  explicit Expected(const Case& c);
  explicit Expected(DeltaRuleData data);  // data filled by hand, not yet run

  const Case& about() const;
  // Runs a fresh copy of the inputs.
  Result run(Context& context) const;

  struct Impl;

 private:
  std::shared_ptr<const Impl> impl_;
};

// The call itself: chunk() or recurrent(), as data.about.op says.
Status call(Context& context, const DeltaRuleData& data);

// Expected(c).run(context).
Result run(Context& context, const Case& c);

}  // namespace gdn::verify
