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
HWY_INLINE void load_a(Tiles& tiles, const uint32_t* a, int64_t stride) {
  tiles.load<4>(a, stride);
  tiles.load<5>(a + kTileRows * stride, stride);
}
HWY_INLINE void load_b(Tiles& tiles, const uint32_t* b, int64_t stride) {
  tiles.load<6>(b, stride);
  tiles.load<7>(b + kTileWords, stride);
}
HWY_INLINE void dot_block(Tiles& tiles) {
  tiles.dot<0, 4, 6>();
  tiles.dot<1, 4, 7>();
  tiles.dot<2, 5, 6>();
  tiles.dot<3, 5, 7>();
}

// Sums += A B over `steps` times 16 pairs: A [32][16 steps], B [16 steps][32].
HWY_INLINE void add_block(Tiles& tiles, const uint32_t* a, int64_t a_stride, const uint32_t* b,
                          int64_t b_stride, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    load_a(tiles, a + s * kTileWords, a_stride);
    load_b(tiles, b + s * kTileWords * b_stride, b_stride);
    dot_block(tiles);
  }
}

// A float matrix as the sum of two of bfloat16, which keep 16 of its 24 bits.
struct SplitMatrix {
  uint32_t* high;
  uint32_t* low;
};

// The same of an exact A and a split B.
HWY_INLINE void add_block(Tiles& tiles, const uint32_t* a, int64_t a_stride, const SplitMatrix& b,
                          int64_t b_stride, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    load_a(tiles, a + s * kTileWords, a_stride);
    load_b(tiles, b.high + s * kTileWords * b_stride, b_stride);
    dot_block(tiles);
    load_b(tiles, b.low + s * kTileWords * b_stride, b_stride);
    dot_block(tiles);
  }
}

// Of two split matrices; low times low is less than what the split drops. `first` is A's first row.
HWY_INLINE void add_block(Tiles& tiles, const SplitMatrix& a, int64_t first, int64_t a_stride,
                          const SplitMatrix& b, int64_t b_stride, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t from_a = first * a_stride + s * kTileWords, from_b = s * kTileWords * b_stride;
    load_a(tiles, a.high + from_a, a_stride);
    load_b(tiles, b.low + from_b, b_stride);
    dot_block(tiles);
    load_b(tiles, b.high + from_b, b_stride);
    dot_block(tiles);
    load_a(tiles, a.low + from_a, a_stride);
    dot_block(tiles);
  }
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
