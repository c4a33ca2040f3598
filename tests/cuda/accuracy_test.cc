// The errors themselves, for docs/kernels/: worst of output and of state over usual and hard
// inputs. That they are within their bounds other tests say too; here they are printed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::Input;
using verify::Operator;

TEST(Accuracy, OfChunkAndRecurrentOnUsualAndHardInputs) {
  for (const Operator op : {Operator::kChunk, Operator::kRecurrent}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const bool hard : {false, true}) {
        double out = 0, state = 0;
        std::string worst;
        for (int input = hard ? 1 : 0; input < (hard ? verify::kInputCount : 1); ++input) {
          for (const bool l2norm : {false, true}) {
            Case c;
            c.op = op;
            c.H = 1;
            c.HV = 2;
            c.K = c.V = 128;
            c.lengths = {700, 64, 17};
            c.dtype = dtype;
            c.l2norm = l2norm;
            c.input = static_cast<Input>(input);
            const verify::Expected expected(c);
            for_each_kernel([&](Context& context) {
              const verify::Result result = expected.run(context);
              EXPECT_TRUE(result.ok()) << verify::describe(result, c, context);
              if (result.comparisons.size() < 2) return;
              out = std::max(out, result.comparisons[0].relative_error());
              if (result.comparisons[1].relative_error() > state) {
                state = result.comparisons[1].relative_error();
                worst = verify::name_of(c.input);
              }
            });
          }
        }
        std::printf("%-10s %-8s %-5s inputs: output %.1e, state %.1e (%s)\n", verify::name_of(op),
                    name_of(dtype), hard ? "hard" : "usual", out, state, worst.c_str());
      }
    }
  }
}

}  // namespace
}  // namespace gdn::tests
