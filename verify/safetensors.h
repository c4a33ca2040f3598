// Reading and writing safetensors files: 8 bytes of header length, a JSON header that names dtype,
// shape and place of every tensor, then their data (github.com/huggingface/safetensors).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gdn/status.h"
#include "gdn/tensor.h"

namespace gdn::verify {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as the file spells it: "F32", "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes of the file
  // Into the file's memory, which lives as long as the SafetensorsFile. Not given where TensorView
  // has no such dtype or not so many axes.
  TensorView view;
};

// A file, whole, in memory. Whatever is wrong with it is a Status that names the file, the tensor
// and the byte.
class SafetensorsFile {
 public:
  static Status open(const std::string& path, SafetensorsFile* file);
  // The same from memory, which is copied; `name` stands in messages.
  static Status parse(std::span<const std::byte> bytes, const std::string& name,
                      SafetensorsFile* file);

  const std::string& name() const { return name_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // by place in the file
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;  // nullptr: there is none
  // "Not given" where there is no such tensor or it cannot be viewed.
  TensorView view(std::string_view name) const;

 private:
  struct Source;
  struct Free {
    void operator()(std::byte* p) const;
  };
  Status read(const Source& source);
  Status read_header(const std::string& header, uint64_t data_bytes);
  Status check_places(uint64_t data_bytes) const;
  Status make_views();
  Status error(const std::string& message) const;

  std::string name_;
  std::unique_ptr<std::byte, Free> data_;  // aligned, whatever the length of the header
  uint64_t data_begin_ = 0;                // byte of the file
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensors of any strides, contiguous in the file. The names are distinct.
Status write_safetensors(const std::string& path,
                         const std::vector<std::pair<std::string, TensorView>>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace gdn::verify
