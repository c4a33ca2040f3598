#include "backend.h"

#include <algorithm>
#include <array>

namespace gdn {
namespace {

struct Table {
  std::array<const Backend*, 8> entries{&cpu_backend(), &reference_backend()};
  size_t count = 2;
};

Table& table() {
  static Table table;
  return table;
}

}  // namespace

std::span<const Backend* const> backends() { return {table().entries.data(), table().count}; }

bool install(const Backend* backend) {
  Table& t = table();
  const auto end = t.entries.begin() + t.count;
  if (std::find(t.entries.begin(), end, backend) != end) return true;
  if (t.count == t.entries.size()) return false;
  t.entries[t.count] = t.entries[t.count - 1];
  t.entries[t.count - 1] = backend;
  ++t.count;
  return true;
}

}  // namespace gdn
