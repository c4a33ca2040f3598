// What a call should write, and the comparison of what it wrote with that.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gdn/plan.h"
#include "verify/case.h"
#include "verify/run.h"
#include "verify/tensor.h"
#include "verify/tolerance.h"

namespace gdn::verify {

// What a written tensor should hold: values by block (a slot, a row), and by element inside it.
struct Wanted {
  int64_t block_elements = 0;
  // Blocks to be written, and where their values begin in `values`, whose order inside a block is
  // that of the tensor.
  std::vector<std::pair<int64_t, int64_t>> blocks;
  std::vector<double> values;
  // A run of so many elements that is all zero in the reference has to be exactly zero.
  int64_t zero_run = 1;
  // Values below are as good as this one.
  double floor = -std::numeric_limits<double>::infinity();
};

// Everything that is compared in one call.
class Comparer {
 public:
  Comparer(const Case& about, const Plan& plan, Result* result)
      : about_(about), plan_(plan), result_(result) {}

  // `before` is the tensor before the call. Blocks that are not wanted must not have changed.
  void compare(const std::string& name, Quantity quantity, const Tensor& got, const Tensor& before,
               const Wanted& wanted);
  void defect(const std::string& name, const std::string& what);

 private:
  void check_untouched(const std::string& name, const Tensor& got, const Tensor& before,
                       int64_t block_elements, const std::vector<bool>& written);

  const Case& about_;
  const Plan& plan_;
  Result* result_;
};

// Of tensors and all around them, so that a write to an input shows.
uint64_t hash_of(const std::vector<const Tensor*>& tensors);

// Whether two tensors and all around them are the same; absent ones are.
bool same_memory(const Tensor& a, const Tensor& b);

}  // namespace gdn::verify
