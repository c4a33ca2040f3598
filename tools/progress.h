// A line on a terminal's stderr that says what long work is at; nothing in a pipe.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

namespace gdn::tools {

class Progress {
 public:
  Progress() = default;
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }

  void show(const std::string& what) {
    if (!terminal_) return;
    std::fprintf(stderr, "\r\033[K%.100s", what.c_str());
    std::fflush(stderr);
    shown_ = true;
  }
  void clear() {
    if (shown_) std::fprintf(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
};

}  // namespace gdn::tools
