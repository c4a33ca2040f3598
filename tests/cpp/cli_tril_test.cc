// `gdn tril` against data/stats.json, where an independent program wrote down how the iteration
// behaves on the same systems.
#include <gtest/gtest.h>

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

TEST_F(CliTrilTest, AgreesWithTheIndependentStatistics) {
  std::ifstream in(GDN_DATA_DIR "/stats.json");
  const json stats = json::parse(in);
  for (const KernelInfo& kernel : kernels()) {
    // The reference iterates in double, so that it shows none of float32's noise.
    if (!kernel.supported || kernel.name == "reference") continue;
    const json result = json_of(study("--kernel " + std::string(kernel.name)));
    ASSERT_EQ(result.at("layers").size(), 2u);
    for (const json& layer : result.at("layers")) {
      const std::string number = layer.at("name").get<std::string>().substr(5);
      ASSERT_EQ(layer.at("series").size(), 4u);
      for (const json& series : layer.at("series")) {
        const json& chunk = stats.at("layers").at(number).at("chunk").at(
            std::to_string(series.at("chunk").get<int>()));
        EXPECT_EQ(series.at("systems"), chunk.at("systems"));
        const json& expected = chunk.at("newton_" + series.at("dtype").get<std::string>());
        ASSERT_EQ(series.at("neumann").size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          for (const char* measure : kMeasures) {
            const double want = expected[i].at(measure), got = series.at("neumann")[i].at(measure);
            SCOPED_TRACE(testing::Message()
                         << kernel.name << ", layer " << number << ", " << series.at("dtype")
                         << ", chunk " << series.at("chunk") << ", iteration " << i << ", "
                         << measure);
            if (want > 1e-5) {
              EXPECT_NEAR(got, want, 0.03 * want);
            } else {  // the noise of float32
              EXPECT_GT(got, want / 4);
              EXPECT_LT(got, want * 4);
            }
          }
        }
      }
    }
  }
}

TEST_F(CliTrilTest, TheExactInverseIsAsGoodAsTheLastIteration) {
  const json result = json_of(study("--chunks 64"));
  for (const json& layer : result.at("layers")) {
    for (const json& series : layer.at("series")) {
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

TEST_F(CliTrilTest, Mistakes) {
  expect_mistake("tril --chunks 257", "--chunks");
  expect_mistake("tril --iterations 0", "--iterations");
  expect_mistake("tril --kernel fpga", "fpga");
  expect_mistake("tril --data /nowhere", "/nowhere");
  expect_mistake("tril --file /nowhere", "/nowhere");
  expect_mistake(study("--chunks 16 --iterations 1 --svg /nowhere/plot.svg"), "--svg");
}

}  // namespace
}  // namespace gdn::tests
