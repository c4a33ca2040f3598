#pragma once

#include <exception>
#include <new>
#include <string>

#include "gdn/status.h"

namespace gdn {

// "<operator>: <text>", or the text alone where there is no memory for that.
inline Status failure(StatusCode code, const char* op, const char* text) {
  try {
    return {code, std::string(op) + ": " + text};
  } catch (...) {
    return {code, "out of memory"};  // short enough to need none
  }
}

// No exception crosses the API.
template <class Body>
Status guarded(const char* op, const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return failure(StatusCode::kOutOfMemory, op, "out of memory");
  } catch (const std::exception& error) {
    return failure(StatusCode::kInternal, op, error.what());
  } catch (...) {
    return failure(StatusCode::kInternal, op, "unknown error");
  }
}

}  // namespace gdn
