#include "verify/compare.h"

#include <cmath>
#include <limits>

#include "reference/rounding.h"

namespace gdn::verify {

Comparison compare(const std::string& name, const Tensor& got, const std::vector<double>& expected,
                   Comparand about) {
  Comparison result;
  result.tensor = name;
  if (got.size() != static_cast<int64_t>(expected.size())) {
    result.error = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  double error = 0, norm = 0, rounding = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double e = expected[static_cast<size_t>(i)];
    error += (got.get(i) - e) * (got.get(i) - e);
    const double difference = reference::rounded(e, got.dtype()) - e;
    rounding += difference * difference;
    norm += e * e;
  }
  about.dtype = got.dtype();
  about.elements = got.size();
  about.norm = result.norm = std::sqrt(norm);
  about.rounding_error = std::sqrt(rounding);
  result.error = std::sqrt(error);
  result.bound = error_bound(about);
  return result;
}

}  // namespace gdn::verify
