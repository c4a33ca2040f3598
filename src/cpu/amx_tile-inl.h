// The eight tile registers of AMX, 16 rows of 64 bytes each, and the four things done with them.
// Everything that knows of AMX instructions is here; chunk_amx-inl.h is written over it.
//
// With GDN_EMULATE_AMX the registers are an array and the product is made of vector dot products,
// so that the kernel can be tested where there is no AMX. (The order of summation inside a product
// of 32 pairs differs, and with it the last bits.)

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows of a tile, and 32-bit words of a row: float columns, or pairs of bfloat16.
constexpr int kTileRows = 16, kTileWords = 16;

#if defined(GDN_EMULATE_AMX)

class Tiles {
 public:
  template <int kT>
  HWY_INLINE void zero() {
    std::memset(words_[kT], 0, sizeof words_[kT]);
  }
  template <int kT>
  HWY_INLINE void load(const void* from, int64_t stride) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(words_[kT][r], static_cast<const char*>(from) + r * stride * 4, 64);
    }
  }
  template <int kT>
  HWY_INLINE void store(void* to, int64_t stride) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride * 4, words_[kT][r], 64);
    }
  }
  template <int kSum, int kA, int kB>
  HWY_INLINE void dot() {
    for (int r = 0; r < kTileRows; ++r) {
      auto* sum = reinterpret_cast<float*>(words_[kSum][r]);
      Vec x = gdn::cpu::GDN_ISA::load(sum);
      for (int i = 0; i < kTileWords; ++i) {
        const __m512i a = _mm512_set1_epi32(static_cast<int>(words_[kA][r][i]));
        x = dot_pairs(x, a, _mm512_loadu_si512(words_[kB][i]));
      }
      gdn::cpu::GDN_ISA::store(x, sum);
    }
  }

 private:
  alignas(64) uint32_t words_[8][kTileRows][kTileWords];
};

#else

// The registers belong to the thread while this lives: configured as eight full tiles, and released
// after, so that a context switch need not save them. Strides are in 32-bit words.
//
// In asm, because the compiler's intrinsics (GCC 12's) do not say that they read and write memory.
class Tiles {
 public:
  HWY_INLINE Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  HWY_INLINE ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kT>
  HWY_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kT));
  }
  template <int kT>
  HWY_INLINE void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,4), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kT) : "memory");
  }
  template <int kT>
  HWY_INLINE void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,4)" : : "r"(to), "r"(stride), "i"(kT) : "memory");
  }
  // Tile kSum += A B: A is [16][16 pairs], B [16 pairs][16].
  template <int kSum, int kA, int kB>
  HWY_INLINE void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

#endif

// Blocks of 2 x 2 tiles: registers 0 to 3 are sums [32][32], 4 and 5 two tiles of A below one
// another, 6 and 7 two tiles of B side by side. That is one load a product, and of all blocks that
// eight registers hold the fewest.
constexpr int kBlock = 2 * kTileRows;

HWY_INLINE void zero_block(Tiles& tiles) {
  tiles.zero<0>();
  tiles.zero<1>();
  tiles.zero<2>();
  tiles.zero<3>();
}
HWY_INLINE void store_block(Tiles& tiles, float* to, int64_t stride) {
  tiles.store<0>(to, stride);
  tiles.store<1>(to + kTileWords, stride);
  tiles.store<2>(to + kTileRows * stride, stride);
  tiles.store<3>(to + kTileRows * stride + kTileWords, stride);
}
// Sums += A B of one step: A [32][16 pairs], B [16 pairs][32].
HWY_INLINE void add_to_block(Tiles& tiles, const uint32_t* a, int64_t a_stride, const uint32_t* b,
                             int64_t b_stride) {
  tiles.load<4>(a, a_stride);
  tiles.load<6>(b, b_stride);
  tiles.load<7>(b + kTileWords, b_stride);
  tiles.load<5>(a + kTileRows * a_stride, a_stride);
  tiles.dot<0, 4, 6>();
  tiles.dot<1, 4, 7>();
  tiles.dot<2, 5, 6>();
  tiles.dot<3, 5, 7>();
}

// A float matrix as the sum of two of bfloat16, which keep 16 of its 24 bits.
struct SplitMatrix {
  uint32_t* high;
  uint32_t* low;
};

// A block [32][32] of A B, or of the sum of some products, step by step, so that other work can go
// in between. A is [32][16 steps], B [16 steps][32].
template <int kTerms>
struct BlockProduct {
  const uint32_t* a[kTerms];
  int64_t a_stride;
  const uint32_t* b[kTerms];
  int64_t b_stride;
  int64_t steps;

  // Sums of all terms over the 16 pairs from 16 s on.
  HWY_INLINE void step(Tiles& tiles, int64_t s) const {
    const int64_t at = s * kTileWords;
#pragma GCC unroll 3
    for (int term = 0; term < kTerms; ++term) {
      add_to_block(tiles, a[term] + at, a_stride, b[term] + at * b_stride, b_stride);
    }
  }
};

HWY_INLINE BlockProduct<1> product_of(const uint32_t* a, int64_t a_stride, const uint32_t* b,
                                      int64_t b_stride, int64_t steps) {
  return {{a}, a_stride, {b}, b_stride, steps};
}
HWY_INLINE BlockProduct<2> product_of(const uint32_t* a, int64_t a_stride, const SplitMatrix& b,
                                      int64_t b_stride, int64_t steps) {
  return {{a, a}, a_stride, {b.low, b.high}, b_stride, steps};
}
// A from row `first` on. Low times low is less than what the split drops.
HWY_INLINE BlockProduct<3> product_of(const SplitMatrix& a, int64_t first, int64_t a_stride,
                                      const SplitMatrix& b, int64_t b_stride, int64_t steps) {
  const uint32_t *high = a.high + first * a_stride, *low = a.low + first * a_stride;
  return {{low, high, high}, a_stride, {b.high, b.low, b.high}, b_stride, steps};
}

// Computes the block to `to` [32][stride], and does work(0) to work(kParts - 1), which has nothing
// to do with it, between its steps: the matrix unit and the vector units run side by side only as
// far as the processor looks ahead. A part is a tile's rows, enough to be worth a call.
constexpr int kParts = 4;
template <class Product, class Work>
HWY_INLINE void multiply_beside(Tiles& tiles, const Product& product, float* to, int64_t stride,
                                const Work& work) {
  zero_block(tiles);
  int64_t done = 0;
  for (int part = 0; part < kParts; ++part) {
    for (; done * kParts < product.steps * (part + 1); ++done) product.step(tiles, done);
    work(part);
  }
  store_block(tiles, to, stride);
}
template <class Product>
HWY_INLINE void multiply(Tiles& tiles, const Product& product, float* to, int64_t stride) {
  zero_block(tiles);
  for (int64_t s = 0; s < product.steps; ++s) product.step(tiles, s);
  store_block(tiles, to, stride);
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
