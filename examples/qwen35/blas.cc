#include "blas.h"

#include <cblas.h>

#include <algorithm>

namespace qwen35 {

void multiply_transposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                         const float* b, int64_t ldb, float* c, int64_t ldc) {
  const auto M = static_cast<int>(m), N = static_cast<int>(n), K = static_cast<int>(k);
  const auto A = static_cast<int>(lda), B = static_cast<int>(ldb), C = static_cast<int>(ldc);
  if (m == 1) {
    cblas_sgemv(CblasRowMajor, CblasNoTrans, N, K, 1, b, B, a, 1, 0, c, 1);
  } else {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, a, A, b, B, 0, c, C);
  }
}

void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
              int64_t ldb, float* c, int64_t ldc) {
  const auto M = static_cast<int>(m), N = static_cast<int>(n), K = static_cast<int>(k);
  const auto A = static_cast<int>(lda), B = static_cast<int>(ldb), C = static_cast<int>(ldc);
  if (m == 1) {
    cblas_sgemv(CblasRowMajor, CblasTrans, K, N, 1, b, B, a, 1, 0, c, 1);
  } else {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, N, K, 1, a, A, b, B, 0, c, C);
  }
}

Values apply(gdn::Context& context, const Linear& linear, const Values& x) {
  constexpr int64_t kRows = 256;  // of W in a task
  const int64_t out = linear.out, in = linear.in;
  const int64_t tokens = static_cast<int64_t>(x.size()) / in;
  Values y(static_cast<size_t>(tokens * out));
  parallel_for(context, (out + kRows - 1) / kRows, tokens * out * in, [&](int64_t task, int) {
    const int64_t first = task * kRows, rows = std::min(kRows, out - first);
    multiply_transposed(tokens, rows, in, x.data(), in, &linear.weight[first * in], in, &y[first],
                        out);
    if (linear.bias.empty()) return;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = first; i < first + rows; ++i) y[t * out + i] += linear.bias[i];
    }
  });
  return y;
}

void keep_blas_on_one_thread() { openblas_set_num_threads(1); }

}  // namespace qwen35
