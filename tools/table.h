// A table of text.
#pragma once

#include <string>
#include <vector>

namespace gdn::tools {

class Table {
 public:
  // One entry a column; those of a heading that starts with '>' (not printed) are aligned right.
  explicit Table(const std::vector<std::string>& headings);
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string to_string() const;
  void print() const;  // on stdout

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// printf into a string, for cells.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);

}  // namespace gdn::tools
