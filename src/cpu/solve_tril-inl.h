// The inverse of a unit lower triangular matrix: blocked forward substitution, or the iteration
// that the seed's interface asks for. Everything is a product of a few rows of one matrix with
// sixteen columns of another, in float32 scratch whose sides are padded to whole tiles.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// A tile is sixteen columns wide, so that none is cut on any instruction set.
constexpr int64_t kSolveColumns = 16;
constexpr int kSolveVecs = static_cast<int>(kSolveColumns) / kLanes;
constexpr int kSolveRows = kSolveVecs == 1 ? 8 : 4;  // eight accumulators on x86
using SolveTile = Tile<kSolveRows, kSolveVecs>;

constexpr int64_t kSolveBlock = 8;  // rows by substitution, whose vectors fit 16 registers

// [padded(n), padded(n)], zero outside of what is said.
struct Square {
  // Of a row. No power of two: the rows of a column would share a set of the cache.
  static constexpr int64_t kStride = 256 + 16;
  float* data;
  int64_t side;

  static int64_t floats(int64_t side) { return side * kStride; }
  float* row(int64_t i) const { return data + i * kStride; }
};

inline size_t solve_tril_scratch(const Shape& shape) {
  return static_cast<size_t>(3 * Square::floats(padded(shape.K))) * sizeof(float);
}

// Rows row .. of a times columns column .. of b, over the inner range [begin, end), in that order.
HWY_INLINE void multiply_tile(const Square& a, const Square& b, int64_t row, int64_t column,
                              int64_t begin, int64_t end, SolveTile& sums) {
  set_zero(sums);
  if (begin < end) {
    add_product<Square::kStride>(sums, a.row(row) + begin, 1, b.row(begin) + column,
                                 Square::kStride, end - begin);
  }
}

// Calls body(row, column) for the tiles of the lower triangle, the columns of a row in order.
template <class Body>
HWY_INLINE void for_each_tile(int64_t begin, int64_t end, const Body& body) {
  for (int64_t row = begin; row < end; row += kSolveRows) {
    for (int64_t column = 0; column < row + kSolveRows; column += kSolveColumns) body(row, column);
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
  for_each_tile(0, L.side, [&](int64_t row, int64_t column) {
    SolveTile sums;
    multiply_tile(L, X, row, column, column, row + kSolveRows, sums);
    for (int r = 0; r < kSolveRows; ++r) {
      for (int c = 0; c < kSolveVecs; ++c) {
        const int64_t at = column + c * kLanes;
        const Vec x = hn::Add(sums.at[r][c], load(X.row(row + r) + at));
        body(row + r, at, strictly_lower(x, row + r, at));
      }
    }
  });
}

// Block of rows I: X_I = L_II^-1 (E_I - sum over J < I of L_IJ X_J).
inline void invert_exact(const Square& L, const Square& X) {
  for (int64_t block = 0; block < L.side; block += kSolveBlock) {
    const int64_t end = block + kSolveBlock;
    if (block > 0) {
      for_each_tile(block, end, [&](int64_t row, int64_t column) {
        SolveTile sums;
        multiply_tile(L, X, row, column, column, block, sums);
        for (int r = 0; r < kSolveRows; ++r) {
          for (int c = 0; c < kSolveVecs; ++c) {
            float* x = X.row(row + r) + column + c * kLanes;
            store(hn::Sub(load(x), sums.at[r][c]), x);  // x is a part of E_I
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
  for_each_tile(0, L.side, [&](int64_t row, int64_t column) {
    SolveTile sums;
    multiply_tile(X, defect, row, column, column, row + kSolveRows, sums);
    for (int r = 0; r < kSolveRows; ++r) {
      for (int c = 0; c < kSolveVecs; ++c) {
        float* x = X.row(row + r) + column + c * kLanes;
        store(rounded_if(round, hn::Sub(load(x), sums.at[r][c])), x);
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
  const auto zeros = [&]() -> Square {
    float* data = carver.take(Square::floats(side));
    std::fill_n(data, Square::floats(side), 0.0f);
    return {data, side};
  };
  const Square L = zeros(), X = zeros(), defect = zeros();
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
