// The `gdn` command as a process.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "process.h"

namespace gdn::tests {

using nlohmann::json;

class CliTest : public ::testing::Test {
 protected:
  static std::string path(const std::string& name) {
    return ::testing::TempDir() + "gdn_cli_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name() + "_" + name;
  }
  static Output run(const std::string& arguments) {
    return run_process(std::string("'") + GDN_COMMAND + "' " + arguments);
  }

  static json json_of(const std::string& arguments, int code = 0) {
    const Output output = run(arguments);
    EXPECT_EQ(output.code, code) << arguments << "\n" << output.err;
    EXPECT_EQ(output.err, "") << arguments;
    const json parsed = json::parse(output.out, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << arguments << "\n" << output.out;
    return parsed;
  }

  // A mistake: exit code 2, one line that says `what`, and nothing else.
  static void expect_mistake(const std::string& arguments, const std::string& what) {
    const Output output = run(arguments);
    EXPECT_EQ(output.code, 2) << arguments;
    EXPECT_EQ(output.out, "") << arguments;
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
    EXPECT_EQ(output.err.rfind("gdn", 0), 0u) << output.err;
    EXPECT_NE(output.err.find(what), std::string::npos)
        << arguments << "\n says: " << output.err << "\n wanted: " << what;
  }
};

}  // namespace gdn::tests
