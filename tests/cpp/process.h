// Runs a command as its user would and keeps what it said.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace gdn::tests {

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Output {
  int code = -1;
  std::string out, err;
};

// A line for the shell, without redirections. Both streams are files, as they are in a pipe: no
// terminal.
inline Output run_process(const std::string& line) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string stem = std::string("gdn_") + test->test_suite_name() + "_" + test->name();
  for (char& c : stem) {
    if (c == '/') c = '_';
  }
  const std::string out = ::testing::TempDir() + stem + "_out",
                    err = ::testing::TempDir() + stem + "_err";
  const int status = std::system((line + " >'" + out + "' 2>'" + err + "' </dev/null").c_str());
  Output output{WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out), contents(err)};
  std::remove(out.c_str());
  std::remove(err.c_str());
  return output;
}

}  // namespace gdn::tests
