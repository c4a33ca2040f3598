// Sums of g that rise and fall far within a chunk. g above 0 is computed as it is, on the CPU as
// far as float32 has an exponent for the decays.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels_under_test.h"
#include "verify/case.h"
#include "verify/inputs.h"
#include "verify/random.h"
#include "verify/run.h"

namespace gdn::tests {
namespace {

using verify::Case;
using verify::DeltaRuleData;
using verify::Random;

Case growth_case(DType dtype, uint64_t seed) {
  Case c;
  c.H = 1;
  c.HV = 2;
  c.K = quick() || seed % 2 == 1 ? 64 : 128;
  c.V = seed % 2 == 1 ? 96 : 64;
  c.l2norm = seed % 3 == 1;
  c.dtype = dtype;
  c.input = verify::Input::kForgetOnce;  // a hard one: its gates are replaced
  c.seed = seed;
  return c;
}

// In the third 16 tokens of each sequence g falls, rises by `rise` within four tokens, and falls by
// more than float32's exponent allows for a quotient; from there on it is usual. What is written
// before and on the rise is as small as the rise is large, so that it matters at the peak and
// everything is of the usual size there.
void rise_and_fall(DeltaRuleData* data) {
  const Case& c = data->about;
  Random random(c.seed);
  int64_t first = 0;
  for (int64_t length : c.lengths) {
    for (int64_t head = 0; head < c.HV; ++head) {
      const double rise = 38 + 12 * random.uniform();
      const int64_t bottom = random.below(6), peak = bottom + 4;
      const int64_t fall = peak + 1 + random.below(15 - peak);
      double below_peak = 0;
      for (int64_t t = 15; t >= 0; --t) {
        const int64_t row = (first + 32 + t) * c.HV + head;
        const double g = t == bottom               ? -rise
                         : t > bottom && t <= peak ? rise / 4
                         : t == fall               ? -(rise + 53)
                                                   : -.01;
        data->g.set(row, g);
        if (t < bottom || t >= peak) continue;
        below_peak += rise / 4;
        for (int64_t i = row * c.V; i < (row + 1) * c.V; ++i) {
          data->v.set(i, data->v.get(i) * std::exp(-below_peak));
        }
      }
    }
    first += length;
  }
}

// A token whose q, and with norms k, is so long that products with what G falls to overflow, though
// the output does not.
TEST(Growth, OfOneTokenWhileAllIsForgottenAgreesWithTheReference) {
  for (const bool l2norm : {true, false}) {
    SCOPED_TRACE(l2norm ? "with norms" : "without");
    Case c;
    c.H = 1;
    c.HV = 2;
    c.K = c.V = 128;
    c.dtype = DType::kBF16;
    c.l2norm = l2norm;
    c.lengths = {64};
    DeltaRuleData data = verify::make_delta_rule(c);
    for (int64_t i = 0; i < data.g.size(); ++i) data.g.set(i, -.98);
    const double longer = l2norm ? 0x1p42 : 0x1p84;
    for (int64_t i = 31 * c.K; i < 32 * c.K; ++i) {
      data.q.set(i, data.q.get(i) * longer);
      if (l2norm) data.k.set(i, data.k.get(i) * longer);
    }
    expect(verify::Expected(data));
  }
}

TEST(Growth, OfTheDecaysInsideAChunkAndTheirFallAfterItAgreeWithTheReference) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      SCOPED_TRACE("rise and fall, seed " + std::to_string(seed));
      Case c = growth_case(dtype, seed);
      c.lengths = {64, 48, 100};
      DeltaRuleData data = verify::make_delta_rule(c);
      rise_and_fall(&data);
      expect(verify::Expected(data));
    }
  }
}

// What little of them arrives at the chunk's end does not decide over their outputs.
TEST(Growth, SmallValuesBeforeAFallInTheirChunkKeepTheirOutputs) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const double fall : {-35.0, -50.0, -56.0}) {
      SCOPED_TRACE("fall of " + std::to_string(fall));
      Case c = growth_case(dtype, 1);
      c.lengths = {48};
      c.states = verify::States::kFinalOnly;
      DeltaRuleData data = verify::make_delta_rule(c);
      for (int64_t i = 0; i < data.v.size(); ++i) data.v.set(i, 1e-18 * data.v.get(i));
      for (int64_t i = 0; i < data.g.size(); ++i) data.g.set(i, i / c.HV == 40 ? fall : -.01);
      expect(verify::Expected(data));
    }
  }
}

// Decays past float32's exponent, which are the largest float then: times nothing they are nothing,
// for a beta of any sign. What is not nothing is the last token of each sequence.
TEST(Growth, PastFloat32LeavesZerosZero) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const double sign : {1.0, -1.0}) {
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        SCOPED_TRACE("overflow, seed " + std::to_string(seed));
        Case c = growth_case(dtype, seed);
        c.lengths = {16, 20, 70};
        c.states = verify::States::kFinalOnly;
        DeltaRuleData data = verify::make_delta_rule(c);
        for (int64_t row = 0; row < data.g.size(); ++row) {
          const int64_t token = row / c.HV;
          data.g.set(row, 8);
          data.beta.set(row, sign * data.beta.get(row));
          if (token == 15 || token == 35 || token == 105) continue;
          for (int64_t i = row * c.V; i < (row + 1) * c.V; ++i) data.v.set(i, 0);
        }
        expect(verify::Expected(data));
      }
    }
  }
}

// Short keys, whose norms' inverses are above 1: times the largest float an infinity. All v but the
// last are zero, and with them what arrives at the end of a chunk.
TEST(Growth, PastFloat32OfShortKeysLeavesZerosZero) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t length : {7, 16, 40}) {
      SCOPED_TRACE("short keys, length " + std::to_string(length));
      Case c = growth_case(dtype, 1);
      c.lengths = {length};
      c.l2norm = true;
      c.states = verify::States::kFinalOnly;
      DeltaRuleData data = verify::make_delta_rule(c);
      for (int64_t i = 0; i < data.k.size(); ++i) data.k.set(i, data.k.get(i) / 256);
      for (int64_t row = 0; row < data.g.size(); ++row) {
        data.g.set(row, 16);
        if (row / c.HV == length - 1) continue;
        for (int64_t i = row * c.V; i < (row + 1) * c.V; ++i) data.v.set(i, 0);
      }
      expect(verify::Expected(data));
    }
  }
}

}  // namespace
}  // namespace gdn::tests
