// `gdn tril` against data/stats.json, where an independent program wrote down how the iteration
// behaves on the same systems.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "cli_support.h"
#include "gdn/gdn.h"
#include "verify/captures.h"
#include "verify/safetensors.h"

namespace gdn::tests {
namespace {

constexpr const char* kMeasures[] = {"residual_max", "residual_median", "rel_err_max",
                                     "rel_err_median", "abs_err_max"};

class CliTrilTest : public CliTest {
 protected:
  static std::string study(const std::string& more) {
    return "tril --data '" GDN_DATA_DIR "' --min-time 0 --json " + more;
  }
};

// What float32 leaves of a value is noise where the iteration went through values a million times
// as large, and at the level of its own rounding; there the order of magnitude is right.
bool is_noise(const json& rows, const char* measure, double value, bool fp32) {
  double largest = 0;
  for (const json& row : rows) largest = std::max(largest, row.at(measure).get<double>());
  return value < 1e-5 || (fp32 && value < 1e-6 * largest);
}

void expect_agreement(const json& got, const json& want, bool fp32) {
  ASSERT_EQ(got.size(), want.size());
  for (const char* measure : kMeasures) {
    for (size_t i = 0; i < want.size(); ++i) {
      const double x = got[i].at(measure), y = want[i].at(measure);
      SCOPED_TRACE(testing::Message() << measure << " after " << i << " iterations");
      if (is_noise(want, measure, y, fp32)) {
        EXPECT_GT(x, y / 4);
        EXPECT_LT(x, y * 4);
      } else {
        EXPECT_NEAR(x, y, 0.03 * y);
      }
    }
  }
}

// Of values computed in double by two programs: a number, or one for each quantile.
void expect_same_numbers(const json& got, const json& want) {
  if (want.is_number()) {
    EXPECT_NEAR(got.get<double>(), want.get<double>(), 1e-6 * std::abs(want.get<double>()) + 1e-9);
    return;
  }
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [quantile, value] : want.items()) {
    SCOPED_TRACE(quantile);
    expect_same_numbers(got.at(quantile), value);
  }
}

TEST_F(CliTrilTest, AgreesWithTheIndependentStatistics) {
  std::ifstream in(GDN_DATA_DIR "/stats.json");
  const json stats = json::parse(in);
  // Not the reference: it iterates in double, without the noise of float32.
  for (const char* kernel : {"", "--kernel scalar"}) {
    const json result = json_of(study(kernel));
    ASSERT_EQ(result.at("layers").size(), 2u);
    for (const json& layer : result.at("layers")) {
      const std::string number = layer.at("name").get<std::string>().substr(5);
      ASSERT_EQ(layer.at("series").size(), 6u);
      for (const json& series : layer.at("series")) {
        const std::string dtype = series.at("dtype"), chunk = series.at("chunk").dump();
        const json& expected = stats.at("layers").at(number).at("chunk").at(chunk);
        SCOPED_TRACE("layer " + number + ", " + dtype + ", chunk " + chunk + " " + kernel);
        EXPECT_EQ(series.at("systems"), expected.at("systems"));
        expect_agreement(series.at("neumann"), expected.at("newton_" + dtype), dtype == "fp32");
      }
      for (const auto& [chunk, got] : layer.at("chunk").items()) {
        const json& expected = stats.at("layers").at(number).at("chunk").at(chunk);
        for (const auto& [name, value] : got.items()) {
          SCOPED_TRACE("layer " + number + ", chunk " + chunk + ", " + name);
          expect_same_numbers(value, expected.at(name));
        }
        EXPECT_EQ(got.size(), 6u);
      }
    }
  }
}

TEST_F(CliTrilTest, TheExactInverseIsAsGoodAsTheLastIteration) {
  const json result = json_of(study("--chunks 64"));
  for (const json& layer : result.at("layers")) {
    for (const json& series : layer.at("series")) {
      if (series.at("dtype") == "bf16_mm") continue;  // no operator, and so no exact one beside it
      for (const char* measure : kMeasures) {
        EXPECT_LE(series.at("exact").at(measure),
                  1.5 * series.at("neumann").back().at(measure).get<double>());
      }
      EXPECT_GT(series.at("exact").at("us_per_matrix"), 0);
    }
  }
}

TEST_F(CliTrilTest, AFileNeedsOnlyWhatASystemIsMadeOf) {
  std::vector<verify::Capture> captures;
  ASSERT_TRUE(verify::read_captures(GDN_DATA_DIR, &captures).ok());
  const verify::DeltaRuleData& data = captures[0].file.data;
  const std::string file = path("keys.safetensors"), svg = path("plot.svg");
  ASSERT_TRUE(verify::write_safetensors(file, {{"k", data.k.view()},
                                               {"a", data.a.view()},
                                               {"A_log", data.A_log.view()},
                                               {"dt_bias", data.dt_bias.view()},
                                               {"b", data.b.view()},
                                               {"cu_seqlens", data.cu_seqlens.view()}})
                  .ok());
  const json of_file = json_of("tril --file '" + file + "' --l2norm --chunks 64 --iterations 4 " +
                               "--min-time 0 --json --svg '" + svg + "'");
  const json of_layer = json_of(study("--chunks 64 --iterations 4"));
  for (const size_t i : {0, 1}) {
    const json& got = of_file.at("layers")[0].at("series")[i];
    const json& want = of_layer.at("layers")[0].at("series")[i];
    ASSERT_EQ(got.at("neumann").size(), 5u);
    for (size_t row = 0; row < 5; ++row) {
      for (const char* measure : kMeasures)
        EXPECT_EQ(got.at("neumann")[row].at(measure), want.at("neumann")[row].at(measure));
    }
  }
  const std::string picture = contents(svg);
  EXPECT_EQ(picture.rfind("<svg", 0), 0u);
  EXPECT_EQ(picture.find("nan"), std::string::npos);
  std::remove(svg.c_str());
  std::remove(file.c_str());
}

TEST_F(CliTrilTest, ANaNInAFileShows) {
  std::vector<verify::Capture> captures;
  ASSERT_TRUE(verify::read_captures(GDN_DATA_DIR, &captures).ok());
  verify::DeltaRuleData data = captures[0].file.data;
  data.k.set(3, std::nan(""));
  const std::string file = path("nan.safetensors");
  ASSERT_TRUE(verify::write_safetensors(file, {{"k", data.k.view()},
                                               {"a", data.a.view()},
                                               {"A_log", data.A_log.view()},
                                               {"b", data.b.view()}})
                  .ok());
  const json layer = json_of("tril --file '" + file + "' --chunks 16 --iterations 2 --min-time 0 " +
                             "--json --kernel scalar")
                         .at("layers")[0];
  const json& distribution = layer.at("chunk").at("16").at("inverse_inf_norm");
  EXPECT_TRUE(distribution.at("1").is_null()) << distribution;
  EXPECT_TRUE(distribution.at("0.5").is_number()) << distribution;
  const json& last = layer.at("series")[0].at("neumann").back();
  EXPECT_TRUE(last.at("residual_max").is_null()) << last;
  EXPECT_TRUE(last.at("residual_median").is_number()) << last;
  EXPECT_TRUE(last.at("abs_err_max").is_null()) << last;
  std::remove(file.c_str());
}

TEST_F(CliTrilTest, Mistakes) {
  expect_mistake("tril --chunks 257", "--chunks");
  expect_mistake("tril --iterations 0", "--iterations");
  expect_mistake("tril --kernel fpga", "fpga");
  expect_mistake("tril --data /nowhere", "/nowhere");
  expect_mistake("tril --file /nowhere", "/nowhere");
  expect_mistake("tril --file '" GDN_DATA_DIR "/gdn_captures.safetensors' --prefix layer1.",
                 "\"layer1.k\"");
  expect_mistake(study("--chunks 16 --iterations 1 --svg /nowhere/plot.svg"), "--svg");
}

}  // namespace
}  // namespace gdn::tests
