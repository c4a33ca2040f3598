// The `gdn` command as a process.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace gdn::tests {

using nlohmann::json;

struct Output {
  int code = -1;
  std::string out, err;
};

class CliTest : public ::testing::Test {
 protected:
  static std::string path(const std::string& name) {
    return ::testing::TempDir() + "gdn_cli_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name() + "_" + name;
  }
  static std::string contents(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  // Both streams are files, as they are in a pipe: no terminal.
  static Output run(const std::string& arguments) {
    const std::string out = path("out"), err = path("err");
    const std::string line = std::string("'") + GDN_COMMAND + "' " + arguments + " >'" + out +
                             "' 2>'" + err + "' </dev/null";
    const int status = std::system(line.c_str());
    Output output{WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out), contents(err)};
    std::remove(out.c_str());
    std::remove(err.c_str());
    return output;
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
