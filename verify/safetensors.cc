#include "verify/safetensors.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

namespace gdn::verify {
namespace {

using nlohmann::json;

constexpr size_t kAlignment = 64;
constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct FileDType {
  const char* name;
  int bits;
  std::optional<DType> dtype;  // absent: listed, not viewable
};
constexpr FileDType kDTypes[] = {
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16},
    {"I32", 32, DType::kI32},
    {"I64", 64, DType::kI64},
    {"BOOL", 8, DType::kBool},
    {"F64", 64, {}},
    {"C64", 64, {}},
    {"U64", 64, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
};

const FileDType* dtype_named(const std::string& name) {
  for (const FileDType& d : kDTypes) {
    if (name == d.name) return &d;
  }
  return nullptr;
}

const char* name_in_file(DType dtype) {
  for (const FileDType& d : kDTypes) {
    if (d.dtype == dtype) return d.name;
  }
  return "";
}

std::string join(const std::vector<int64_t>& shape) {
  std::string text(1, '[');
  for (size_t i = 0; i < shape.size(); ++i) {
    text.append(i > 0 ? "," : "").append(std::to_string(shape[i]));
  }
  return text.append("]");
}

// A name of the file in a message: short, and with nothing that a terminal would obey.
std::string shown(const std::string& name) {
  std::string text(1, '"');
  for (char c : name.substr(0, 80)) text += c >= ' ' && c != 127 ? c : '?';
  return text.append(name.size() > 80 ? "...\"" : "\"");
}

std::string at_byte(uint64_t byte) { return "at byte " + std::to_string(byte); }

// Bytes of a tensor; absent where they, or a stride, overflow or are no whole number.
std::optional<uint64_t> bytes_of(const std::vector<int64_t>& shape, int bits) {
  int64_t elements = 1, strides = 1;
  for (int64_t extent : shape) {
    if (__builtin_mul_overflow(elements, extent, &elements) ||
        __builtin_mul_overflow(strides, std::max<int64_t>(1, extent), &strides)) {
      return {};
    }
  }
  int64_t total = 0;
  if (__builtin_mul_overflow(strides, int64_t{bits}, &total)) return {};
  total = elements * bits;
  if (total % 8 != 0) return {};
  return static_cast<uint64_t>(total / 8);
}

// Whether j is an array of non-negative integers that fit int64; those.
bool read_integers(const json& j, std::vector<int64_t>* to) {
  if (!j.is_array()) return false;
  for (const json& x : j) {
    if (!x.is_number_unsigned()) return false;
    const uint64_t value = x.get<uint64_t>();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
    to->push_back(static_cast<int64_t>(value));
  }
  return true;
}

Status out_of_memory(const std::string& name) {
  return {StatusCode::kOutOfMemory, name + ": not enough memory to read it"};
}

}  // namespace

// Where bytes come from.
struct SafetensorsFile::Source {
  uint64_t size = 0;
  std::FILE* file = nullptr;
  const std::byte* memory = nullptr;

  // The next n bytes, in order; false: they could not be read.
  bool next(void* to, uint64_t n) const {
    if (n == 0) return true;
    if (file != nullptr) return std::fread(to, 1, n, file) == n;
    std::memcpy(to, memory + position, n);
    position += n;
    return true;
  }
  mutable uint64_t position = 0;
};

void SafetensorsFile::Free::operator()(std::byte* p) const {
  ::operator delete(p, std::align_val_t(kAlignment));
}

Status SafetensorsFile::error(const std::string& message) const {
  return {StatusCode::kInvalidArgument, name_ + ": " + message};
}

Status SafetensorsFile::open(const std::string& path, SafetensorsFile* file) {
  *file = SafetensorsFile();
  file->name_ = path;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(path.c_str(), "rb"),
                                                               &std::fclose);
  if (!stream) return file->error(std::string("cannot be opened: ") + std::strerror(errno));
  // A directory opens, and fails here or at the first read.
  if (std::fseek(stream.get(), 0, SEEK_END) != 0)
    return file->error(std::string("cannot be read: ") + std::strerror(errno));
  const long size = std::ftell(stream.get());
  if (size < 0 || size == std::numeric_limits<long>::max() ||
      std::fseek(stream.get(), 0, SEEK_SET) != 0) {
    return file->error("cannot be read: it is no regular file");
  }
  Source source;
  source.size = static_cast<uint64_t>(size);
  source.file = stream.get();
  return file->read(source);
}

Status SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name,
                              SafetensorsFile* file) {
  *file = SafetensorsFile();
  file->name_ = name;
  Source source;
  source.size = bytes.size();
  source.memory = bytes.data();
  return file->read(source);
}

Status SafetensorsFile::read(const Source& source) {
  const auto failed = [this](Status status) {
    entries_.clear();
    metadata_.clear();
    data_.reset();
    return status;
  };
  try {
    if (source.size < kLengthBytes) {
      return error("the file ends at byte " + std::to_string(source.size) +
                   ", expected 8 bytes of header length");
    }
    unsigned char length[kLengthBytes];
    if (!source.next(length, kLengthBytes)) return error("cannot be read at byte 0");
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | length[i];
    if (header_bytes > kMaxHeaderBytes) {
      return error("header length " + std::to_string(header_bytes) + " at byte 0, expected " +
                   std::to_string(kMaxHeaderBytes) + " at most");
    }
    if (header_bytes > source.size - kLengthBytes) {
      return error("header length " + std::to_string(header_bytes) +
                   " at byte 0, but the file ends at byte " + std::to_string(source.size));
    }
    std::string header(header_bytes, '\0');
    if (!source.next(header.data(), header_bytes)) return error("cannot be read at byte 8");

    data_begin_ = kLengthBytes + header_bytes;
    const uint64_t data_bytes = source.size - data_begin_;
    Status status = read_header(header, data_bytes);
    if (status.ok()) status = check_places(data_bytes);
    if (!status.ok()) return failed(status);

    data_.reset(static_cast<std::byte*>(
        ::operator new(std::max<uint64_t>(1, data_bytes), std::align_val_t(kAlignment))));
    if (!source.next(data_.get(), data_bytes)) {
      return failed(error("cannot be read " + at_byte(data_begin_)));
    }
    status = make_views();
    return status.ok() ? status : failed(status);
  } catch (const std::bad_alloc&) {
    return failed(out_of_memory(name_));
  } catch (const std::exception& e) {
    return failed(error(std::string("header at byte 8: ") + e.what()));
  }
}

Status SafetensorsFile::read_header(const std::string& header, uint64_t data_bytes) {
  // The parser keeps the last of two equal keys; the format allows none.
  std::set<std::string> seen;
  std::optional<std::string> twice;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!seen.insert(key).second && !twice) twice = key;
    }
    return true;
  };
  json root;
  try {
    root = json::parse(header.begin(), header.end(), watch);
  } catch (const json::parse_error& e) {
    return error("header is no JSON " + at_byte(kLengthBytes + (e.byte > 0 ? e.byte - 1 : 0)));
  }
  if (!root.is_object()) return error("header at byte 8 is no JSON object");

  // The byte of the file where a key stands; that of the header where it is spelled with escapes.
  const auto place = [&](const std::string& key) {
    const size_t found = header.find(std::string(1, '"').append(key).append(1, '"'));
    return kLengthBytes + (found == std::string::npos ? 0 : found);
  };
  if (twice)
    return error("tensor " + shown(*twice) + " stands twice, first " + at_byte(place(*twice)));

  for (const auto& [key, value] : root.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) return error("__metadata__ " + at_byte(place(key)) + " is no object");
      for (const auto& [name, text] : value.items()) {
        if (!text.is_string()) {
          return error("__metadata__ " + shown(name) + " " + at_byte(place(name)) +
                       " is no string");
        }
        metadata_[name] = text.get<std::string>();
      }
      continue;
    }
    const std::string where = "tensor " + shown(key) + " " + at_byte(place(key)) + ": ";
    if (!value.is_object()) return error(where + "no object");
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!value.contains(field)) return error(where + "has no " + field);
    }
    SafetensorsEntry entry;
    entry.name = key;
    if (!value["dtype"].is_string()) return error(where + "dtype is no string");
    entry.dtype = value["dtype"].get<std::string>();
    const FileDType* dtype = dtype_named(entry.dtype);
    if (dtype == nullptr) return error(where + "unknown dtype " + shown(entry.dtype));
    if (!read_integers(value["shape"], &entry.shape)) {
      return error(where + "shape is no list of non-negative integers");
    }
    std::vector<int64_t> offsets;
    if (!read_integers(value["data_offsets"], &offsets) || offsets.size() != 2) {
      return error(where + "data_offsets is no pair of non-negative integers");
    }
    const auto begin = static_cast<uint64_t>(offsets[0]), end = static_cast<uint64_t>(offsets[1]);
    if (begin > end || end > data_bytes) {
      return error(where + "data_offsets " + join(offsets) + ", expected an interval in [0," +
                   std::to_string(data_bytes) + "]");
    }
    const auto bytes = bytes_of(entry.shape, dtype->bits);
    if (!bytes || *bytes != end - begin) {
      return error(where + "data_offsets " + join(offsets) + " are " + std::to_string(end - begin) +
                   " bytes, but shape " + join(entry.shape) + " of " + entry.dtype + " takes " +
                   (bytes ? std::to_string(*bytes) : "more"));
    }
    const uint64_t alignment = static_cast<uint64_t>(std::max(1, dtype->bits / 8));
    if (begin % alignment != 0) {
      return error(where + "data begins " + at_byte(data_begin_ + begin) +
                   ", which is not aligned to its elements of " + std::to_string(alignment) +
                   " bytes");
    }
    entry.begin = data_begin_ + begin;
    entry.end = data_begin_ + end;
    entries_.push_back(std::move(entry));
  }
  std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  return {};
}

// The tensors cover the data without overlap and without gap.
Status SafetensorsFile::check_places(uint64_t data_bytes) const {
  uint64_t covered = data_begin_;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const SafetensorsEntry& entry = entries_[i];
    if (entry.begin < covered) {
      return error("tensor " + shown(entry.name) + " begins " + at_byte(entry.begin) +
                   ", inside of tensor " + shown(entries_[i - 1].name));
    }
    if (entry.begin > covered) {
      return error("bytes " + std::to_string(covered) + " to " + std::to_string(entry.begin) +
                   ", before tensor " + shown(entry.name) + ", belong to no tensor");
    }
    covered = entry.end;
  }
  if (covered != data_begin_ + data_bytes) {
    return error("the file goes on after its last tensor, " + at_byte(covered));
  }
  return {};
}

Status SafetensorsFile::make_views() {
  for (SafetensorsEntry& entry : entries_) {
    const FileDType* dtype = dtype_named(entry.dtype);
    if (!dtype->dtype || entry.shape.size() > static_cast<size_t>(TensorView::kMaxRank)) continue;
    TensorView view;
    view.data = data_.get() + (entry.begin - data_begin_);
    view.dtype = *dtype->dtype;
    view.rank = static_cast<int>(entry.shape.size());
    int64_t stride = 1;
    for (int i = view.rank - 1; i >= 0; --i) {
      view.shape[i] = entry.shape[static_cast<size_t>(i)];
      view.strides[i] = stride;
      stride *= std::max<int64_t>(1, view.shape[i]);
    }
    if (view.dtype == DType::kBool) {  // any other value read as a bool is undefined
      const auto* p = static_cast<const unsigned char*>(view.data);
      for (int64_t i = 0; i < view.size(); ++i) {
        if (p[i] > 1) {
          return error("tensor " + shown(entry.name) + ": BOOL " + std::to_string(p[i]) + " " +
                       at_byte(entry.begin + static_cast<uint64_t>(i)) + ", expected 0 or 1");
        }
      }
    }
    entry.view = view;
  }
  return {};
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  for (const SafetensorsEntry& entry : entries_) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

TensorView SafetensorsFile::view(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  return entry ? entry->view : TensorView();
}

namespace {

// Calls body(pointer, bytes) for every row of contiguous elements, in order; false from it stops.
template <class Body>
bool for_each_row(const TensorView& view, const Body& body) {
  if (view.size() == 0) return true;
  const auto* base = static_cast<const std::byte*>(view.data);
  const int64_t element = size_of(view.dtype);
  int axes = view.rank;  // of these the trailing ones are contiguous
  int64_t run = 1;
  while (axes > 0 && (view.strides[axes - 1] == run || view.shape[axes - 1] == 1)) {
    run *= view.shape[--axes];
  }
  int64_t index[TensorView::kMaxRank] = {};
  while (true) {
    int64_t offset = 0;
    for (int i = 0; i < axes; ++i) offset += index[i] * view.strides[i];
    if (!body(base + offset * element, static_cast<size_t>(run * element))) return false;
    int i = axes - 1;
    while (i >= 0 && ++index[i] == view.shape[i]) index[i--] = 0;
    if (i < 0) return true;
  }
}

}  // namespace

Status write_safetensors(const std::string& path,
                         const std::vector<std::pair<std::string, TensorView>>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  const auto error = [&](const std::string& message) {
    return Status(StatusCode::kInvalidArgument, path + ": " + message);
  };
  try {
    // Wide elements first, so that all are aligned.
    std::vector<const std::pair<std::string, TensorView>*> order;
    for (const auto& tensor : tensors) order.push_back(&tensor);
    std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return size_of(a->second.dtype) > size_of(b->second.dtype);
    });
    json header = json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    int64_t offset = 0;
    for (const auto* tensor : order) {
      const auto& [name, view] = *tensor;
      if (name == "__metadata__" || header.contains(name)) {
        return error("tensor " + shown(name) + ": the name is taken");
      }
      if (!view.given() || view.rank > TensorView::kMaxRank || view.device != DeviceType::kCPU ||
          (view.data == nullptr && view.size() > 0)) {
        return error("tensor " + shown(name) + ": no data on the CPU");
      }
      const int64_t end = offset + view.size() * size_of(view.dtype);
      header[name] = {{"dtype", name_in_file(view.dtype)},
                      {"shape", std::vector<int64_t>(view.shape, view.shape + view.rank)},
                      {"data_offsets", {offset, end}}};
      offset = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    unsigned char length[kLengthBytes];
    for (size_t i = 0; i < kLengthBytes; ++i) {
      length[i] = static_cast<unsigned char>(static_cast<uint64_t>(text.size()) >> (8 * i));
    }

    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr) return error(std::string("cannot be written: ") + std::strerror(errno));
    const auto put = [file](const void* p, size_t n) { return std::fwrite(p, 1, n, file) == n; };
    bool written = put(length, kLengthBytes) && put(text.data(), text.size());
    for (const auto* tensor : order) written = written && for_each_row(tensor->second, put);
    written = std::fclose(file) == 0 && written;
    if (!written) return error(std::string("cannot be written: ") + std::strerror(errno));
    return {};
  } catch (const std::bad_alloc&) {
    return {StatusCode::kOutOfMemory, path + ": not enough memory to write it"};
  } catch (const std::exception& e) {  // a name that is no UTF-8
    return error(e.what());
  }
}

}  // namespace gdn::verify
