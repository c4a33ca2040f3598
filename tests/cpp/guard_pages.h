// Memory whose end, or beginning, shows any access past it.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <list>
#include <utility>

#include "gdn/tensor.h"

namespace gdn::tests {

// Copies of tensors that end, or begin, where the next byte of memory may not be touched.
class GuardPages {
 public:
  enum class Side { kAfter, kBefore };
  explicit GuardPages(Side side) : side_(side) {}
  ~GuardPages() {
    for (const auto& [base, bytes] : maps_) munmap(base, bytes);
  }
  GuardPages(const GuardPages&) = delete;
  GuardPages& operator=(const GuardPages&) = delete;

  // Replaces the memory of a view without gaps.
  void move(TensorView* view) {
    if (!view->given()) return;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const auto bytes = static_cast<size_t>(view->size() * size_of(view->dtype));
    const size_t body = (bytes + page - 1) / page * page;
    auto* base = static_cast<std::byte*>(
        mmap(nullptr, body + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(static_cast<void*>(base), MAP_FAILED);
    maps_.emplace_back(base, body + 2 * page);
    ASSERT_EQ(mprotect(base, page, PROT_NONE), 0);
    ASSERT_EQ(mprotect(base + page + body, page, PROT_NONE), 0);
    std::byte* data = base + page + (side_ == Side::kAfter ? body - bytes : 0);
    std::memcpy(data, view->data, bytes);
    view->data = data;
  }

 private:
  Side side_;
  std::list<std::pair<std::byte*, size_t>> maps_;
};

}  // namespace gdn::tests
