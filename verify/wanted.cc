#include "verify/wanted.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "reference/rounding.h"

namespace gdn::verify {
namespace {

struct Norms {
  double reference = 0, rounding_error = 0;
};

Norms norms_of(const Wanted& wanted, DType dtype) {
  double norm = 0, rounding = 0;
  for (const auto& [block, begin] : wanted.blocks) {
    for (int64_t i = begin; i < begin + wanted.block_elements; ++i) {
      const double x = std::max(wanted.values[static_cast<size_t>(i)], wanted.floor);
      const double difference = reference::rounded(x, dtype) - x;
      norm += x * x;
      rounding += difference * difference;
    }
  }
  return {std::sqrt(norm), std::sqrt(rounding)};
}

}  // namespace

void Comparer::compare(const std::string& name, Quantity quantity, const Tensor& got,
                       const Tensor& before, const Wanted& wanted) {
  Comparison comparison;
  comparison.tensor = name;
  double error = 0;
  int64_t unwritten = 0, not_zero = 0;
  std::vector<bool> written(
      static_cast<size_t>(wanted.block_elements == 0 ? 0 : got.size() / wanted.block_elements));
  for (const auto& [block, begin] : wanted.blocks) {
    written[static_cast<size_t>(block)] = true;
    for (int64_t run = 0; run < wanted.block_elements; run += wanted.zero_run) {
      bool zero = true;
      double largest = 0;
      for (int64_t i = run; i < run + wanted.zero_run; ++i) {
        const int64_t at = block * wanted.block_elements + i;
        const double want = wanted.values[static_cast<size_t>(begin + i)];
        const double value = got.get(at);
        const double difference =
            (value < wanted.floor ? wanted.floor : value) - std::max(want, wanted.floor);
        error += difference * difference;
        unwritten += got.unwritten(at);
        zero = zero && want == 0;
        largest = std::isnan(value) ? value : std::max(largest, std::fabs(value));
      }
      not_zero += zero && largest != 0;
    }
  }
  const Norms norms = norms_of(wanted, got.dtype());
  comparison.error = std::sqrt(error);
  comparison.norm = norms.reference;
  comparison.bound =
      error_bound({.quantity = quantity,
                   .dtype = got.dtype(),
                   .compute = plan_.compute,
                   .hard = about_.input != Input::kUsual,
                   .elements = static_cast<int64_t>(wanted.blocks.size()) * wanted.block_elements,
                   .norm = norms.reference,
                   .rounding_error = norms.rounding_error});
  result_->comparisons.push_back(comparison);
  if (unwritten > 0) defect(name, std::to_string(unwritten) + " elements were not written");
  if (not_zero > 0) {
    defect(name, std::to_string(not_zero) + " rows are zero in the reference and not here");
  }
  check_untouched(name, got, before, wanted.block_elements, written);
}

void Comparer::defect(const std::string& name, const std::string& what) {
  result_->defects.push_back(name + ": " + what);
}

void Comparer::check_untouched(const std::string& name, const Tensor& got, const Tensor& before,
                               int64_t block_elements, const std::vector<bool>& written) {
  int64_t changed = 0;
  for (size_t block = 0; block < written.size(); ++block) {
    if (written[block]) continue;
    const auto first = static_cast<int64_t>(block) * block_elements;
    for (int64_t i = first; i < first + block_elements; ++i)
      changed += !got.same_bits(i, before, i);
  }
  if (changed > 0) {
    defect(name, std::to_string(changed) + " elements changed that the call does not name");
  }
  if (!got.only_elements_changed(before)) {
    defect(name, "bytes between or around the elements changed");
  }
}

uint64_t hash_of(const std::vector<const Tensor*>& tensors) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, by words
  for (const Tensor* tensor : tensors) {
    if (!tensor->given()) continue;
    const Buffer& buffer = tensor->buffer();
    for (size_t at = 0; at < buffer.size();) {
      uint64_t word = 0;
      const size_t bytes = std::min(sizeof word, buffer.size() - at);
      std::memcpy(&word, buffer.data() + at, bytes);
      hash = (hash ^ word) * 0x100000001b3u;
      at += bytes;
    }
    hash ^= tensor->buffer().guards_intact() ? 0 : 1;
  }
  return hash;
}

bool same_memory(const Tensor& a, const Tensor& b) {
  if (!a.given()) return true;
  return std::memcmp(a.buffer().data(), b.buffer().data(), a.buffer().size()) == 0 &&
         a.buffer().guards_intact();
}

}  // namespace gdn::verify
