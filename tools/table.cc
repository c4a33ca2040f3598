#include "table.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace gdn::tools {

Table::Table(const std::vector<std::string>& headings) {
  std::vector<std::string> first;
  for (const std::string& heading : headings) {
    right_.push_back(heading.rfind('>', 0) == 0);
    first.push_back(right_.back() ? heading.substr(1) : heading);
  }
  rows_.push_back(first);
}

std::string Table::to_string() const {
  std::string lines;
  std::vector<size_t> width(right_.size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(width[i] - row[i].size(), ' ');
      line += (i ? "  " : "") + (right_[i] ? pad + row[i] : row[i] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    lines += line + "\n";
  }
  return lines;
}

void Table::print() const { std::fputs(to_string().c_str(), stdout); }

std::string text(const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

}  // namespace gdn::tools
