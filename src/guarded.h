#pragma once

#include <exception>
#include <new>

#include "gdn/status.h"

namespace gdn {

// No exception crosses the API. The messages are short enough to need no allocation.
template <class Body>
Status guarded(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return {StatusCode::kOutOfMemory, "out of memory"};
  } catch (const std::exception& error) {
    try {
      return {StatusCode::kInternal, error.what()};
    } catch (...) {
    }
  } catch (...) {
  }
  return {StatusCode::kInternal, "unknown error"};
}

}  // namespace gdn
