// What every call returns: a code and, unless ok, a message for the person who made the mistake.
#pragma once

#include <string>
#include <utility>

namespace gdn {

enum class StatusCode : int {
  kOk = 0,
  kInvalidArgument,  // a shape, dtype, stride, pointer or option is wrong
  kOutOfRange,       // a value stored in a tensor (cu_seqlens, an index) is wrong
  kUnsupported,      // right, but no backend or the forced kernel cannot do it
  kOutOfMemory,      // an allocation failed
  kInternal,         // a defect of the library
  kDeviceError,      // a device or its driver failed; the message has the error's name
};

// The messages read "gdn.<operator>: <argument> <got>, expected <expected>". When a Status is not
// ok, no output and no state was written.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace gdn
