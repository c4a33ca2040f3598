// The register tile that every matrix product is made of: kRows rows by kVecs vectors of
// accumulators. All products have the form "broadcast an element of a row, times a vector along V":
// no gathers, no horizontal sums.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// As many accumulators as the register file holds beside kVecs operands and a broadcast. On 32
// registers 8 x 2 beats 4 x 4 by a fifth (10 loads for 16 products).
#if HWY_TARGET == HWY_AVX2
constexpr int kRows = 4, kVecs = 2;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kRows = 4, kVecs = 8;
#else
constexpr int kRows = 8, kVecs = 2;
#endif

// Columns of V that a tile covers. What is contiguous in V is kept in panels of this width.
constexpr int kPanel = kVecs * kLanes;
static_assert(kUnit % kPanel == 0 && kChunk % kRows == 0);

template <int kR, int kN>
struct Tile {
  Vec at[kR][kN];

  // Leaves the vectors unset. Not defaulted: an implicit constructor would be compiled without the
  // instruction set's attributes.
  HWY_INLINE Tile() {}
};

template <int kR, int kN>
HWY_INLINE void set_zero(Tile<kR, kN>& tile) {
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) tile.at[r][j] = hn::Zero(F32());
  }
}

// tile[r][:] += sum over i < count of a[r * kRowStride + i * step] * b[i * b_stride + :], i in
// order.
template <int kRowStride, int kR, int kN>
HWY_INLINE void add_product(Tile<kR, kN>& tile, const float* HWY_RESTRICT a, int64_t step,
                            const float* HWY_RESTRICT b, int64_t b_stride, int64_t count) {
  const F32 d;
  for (int64_t i = 0; i < count; ++i) {
    Vec vectors[kN];
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) vectors[j] = hn::LoadU(d, b + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
      const Vec x = hn::Set(d, a[r * kRowStride]);
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) tile.at[r][j] = hn::MulAdd(x, vectors[j], tile.at[r][j]);
    }
    a += step;
    b += b_stride;
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
