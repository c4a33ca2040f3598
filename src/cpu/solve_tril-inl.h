// The inverse of a unit lower triangular matrix: blocked forward substitution, or the iteration
// that the seed's interface asks for. Everything is a product of a few rows of one matrix with
// sixteen columns of another, in float32 scratch whose sides are padded to whole tiles.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

constexpr int64_t kTileColumns = 16;
constexpr int kTileVectors = static_cast<int>(kTileColumns) / kLanes;
constexpr int64_t kTileRows = kTileVectors == 1 ? 8 : 4;  // eight accumulators on x86
constexpr int64_t kSolveBlock = 8;  // rows by substitution, whose vectors fit 16 registers

// [padded(n), padded(n)], zero outside of what is said.
struct Square {
  float* data;
  int64_t stride;

  float* row(int64_t i) const { return data + i * stride; }
};

inline size_t solve_tril_scratch(const Shape& shape) {
  return static_cast<size_t>(3 * padded(shape.K) * padded(shape.K)) * sizeof(float);
}

using Tile = Vec[kTileRows][kTileVectors];

// Rows row .. of a times columns column .. of b, over the inner range [begin, end), in that order.
HWY_INLINE void multiply_tile(const Square& a, const Square& b, int64_t row, int64_t column,
                              int64_t begin, int64_t end, Tile& sums) {
  const F32 d;
  for (auto& sums_row : sums) {
    for (Vec& sum : sums_row) sum = hn::Zero(d);
  }
  for (int64_t m = begin; m < end; ++m) {
    for (int c = 0; c < kTileVectors; ++c) {
      const Vec y = load(b.row(m) + column + c * kLanes);
      for (int64_t r = 0; r < kTileRows; ++r) {
        sums[r][c] = hn::MulAdd(hn::Set(d, a.row(row + r)[m]), y, sums[r][c]);
      }
    }
  }
}

// Calls body(row, column) for the tiles of the lower triangle, the columns of a row in order.
template <class Body>
HWY_INLINE void for_each_tile(int64_t begin, int64_t end, const Body& body) {
  for (int64_t row = begin; row < end; row += kTileRows) {
    for (int64_t column = 0; column < row + kTileRows; column += kTileColumns) body(row, column);
  }
}

HWY_INLINE Vec strictly_lower(Vec x, int64_t row, int64_t column) {
  const F32 d;
  const Vec columns = hn::Iota(d, static_cast<float>(column));
  return hn::IfThenElseZero(hn::Lt(columns, hn::Set(d, static_cast<float>(row))), x);
}

// Calls body(row, column, elements) for every vector of strict_lower(L X).
template <class Body>
HWY_INLINE void for_each_defect(const Square& L, const Square& X, const Body& body) {
  for_each_tile(0, L.stride, [&](int64_t row, int64_t column) {
    Tile sums;
    multiply_tile(L, X, row, column, column, row + kTileRows, sums);
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTileVectors; ++c) {
        const int64_t at = column + c * kLanes;
        const Vec x = hn::Add(sums[r][c], load(X.row(row + r) + at));
        body(row + r, at, strictly_lower(x, row + r, at));
      }
    }
  });
}

// Block of rows I: X_I = L_II^-1 (E_I - sum over J < I of L_IJ X_J).
inline void invert_exact(const Square& L, const Square& X) {
  for (int64_t block = 0; block < L.stride; block += kSolveBlock) {
    const int64_t end = block + kSolveBlock;
    if (block > 0) {
      for_each_tile(block, end, [&](int64_t row, int64_t column) {
        Tile sums;
        multiply_tile(L, X, row, column, column, block, sums);
        for (int64_t r = 0; r < kTileRows; ++r) {
          for (int c = 0; c < kTileVectors; ++c) {
            float* x = X.row(row + r) + column + c * kLanes;
            store(hn::Sub(load(x), sums[r][c]), x);  // x is a part of E_I
          }
        }
      });
    }
    for (int64_t column = 0; column < end; column += kLanes) {
      Vec x[kSolveBlock];
      for (int64_t r = 0; r < kSolveBlock; ++r) {
        x[r] = load(X.row(block + r) + column);
        for (int64_t s = 0; s < r; ++s) {
          x[r] = hn::NegMulAdd(hn::Set(F32(), L.row(block + r)[block + s]), x[s], x[r]);
        }
        store(x[r], X.row(block + r) + column);
      }
    }
  }
}

HWY_INLINE Vec rounded_if(bool round, Vec x) {
  return round ? hn::BitCast(F32(), round_to_bf16(x)) : x;
}

// X <- X - X strict_lower(L X); with `round` both are rounded to bfloat16 each time, so that the
// products are of bfloat16 values with sums in float32.
inline void iterate_neumann(const Square& L, const Square& X, const Square& defect, bool round) {
  for_each_defect(L, X, [&](int64_t row, int64_t column, Vec x) {
    store(rounded_if(round, x), defect.row(row) + column);
  });
  // In place: columns from `column` on need X of these columns and later ones alone.
  for_each_tile(0, L.stride, [&](int64_t row, int64_t column) {
    Tile sums;
    multiply_tile(X, defect, row, column, column, row + kTileRows, sums);
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTileVectors; ++c) {
        float* x = X.row(row + r) + column + c * kLanes;
        store(rounded_if(round, hn::Sub(load(x), sums[r][c])), x);
      }
    }
  });
}

// max |strict_lower(L X)|; a NaN stays.
inline float largest_defect(const Square& L, const Square& X) {
  const F32 d;
  Vec largest = hn::Zero(d);
  for_each_defect(L, X, [&](int64_t, int64_t, Vec x) {
    const Vec size = hn::Abs(x);
    largest = hn::IfThenElse(hn::Or(hn::Gt(size, largest), hn::IsNaN(size)), size, largest);
  });
  float lanes[kLanes];
  store(largest, lanes);
  float result = 0;
  for (float x : lanes) {
    if (x > result || std::isnan(x)) result = x;
  }
  return result;
}

inline void solve_tril(const SolveTrilProblem& problem, int64_t matrix, std::byte* scratch) {
  const int64_t n = problem.shape.K, side = padded(n);
  Carver carver(scratch);
  const Square L = {carver.take(side * side), side};
  const Square X = {carver.take(side * side), side};
  const Square defect = {carver.take(side * side), side};
  std::fill_n(L.data, side * side, 0.0f);
  std::fill_n(X.data, side * side, 0.0f);
  std::fill_n(defect.data, side * side, 0.0f);
  for (int64_t i = 0; i < side; ++i) X.row(i)[i] = 1.0f;

  with_element(problem.dtype, [&](auto element) {
    using T = decltype(element);
    const T* lower = reinterpret_cast<const T*>(problem.lower) +
                     row_offset(problem.extents, problem.lower_strides, matrix);
    T* inverse = reinterpret_cast<T*>(problem.inverse) +
                 row_offset(problem.extents, problem.inverse_strides, matrix);
    for (int64_t i = 0; i < n; ++i) load_row(lower + i * problem.lower_row_stride, i, L.row(i));
    if (problem.method == SolveMethod::kExact) {
      invert_exact(L, X);
    } else {
      for (int64_t i = 0; i < problem.iterations; ++i) {
        iterate_neumann(L, X, defect, problem.bf16_steps);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      std::fill(X.row(i) + i + 1, X.row(i) + side, 0.0f);  // 0 times a NaN may stand there
      store_row(X.row(i), n, inverse + i * problem.inverse_row_stride);
    }
  });
  if (problem.residual != nullptr) {
    float* residual = reinterpret_cast<float*>(problem.residual) +
                      row_offset(problem.extents, problem.residual_strides, matrix);
    *residual = largest_defect(L, X);
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
