#include "backend.h"
namespace gdn {
const Backend& reference_backend() {
  static const Backend b{};
  return b;
}
}  // namespace gdn
