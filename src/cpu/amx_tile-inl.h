// The eight tile registers of AMX, 16 rows of up to 64 bytes each, and the few things done with
// them. Everything that knows of AMX instructions is here; the chunk kernel and decode are written
// over it.
//
// With GDN_EMULATE_AMX the registers are an array and the product is made of vector dot products,
// so that the kernel can be tested where there is no AMX. (The order of summation inside a product
// of 32 pairs differs, and with it the last bits.)

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows of a tile, and 32-bit words of a row: float columns, or pairs of bfloat16.
constexpr int kTileRows = 16, kTileWords = 16;

// Words that a row of each of the eight registers has.
using TileWords = std::array<uint8_t, 8>;
constexpr TileWords kFullTiles = {16, 16, 16, 16, 16, 16, 16, 16};

#if defined(GDN_EMULATE_AMX)

class Tiles {
 public:
  HWY_INLINE explicit Tiles(const TileWords& words = kFullTiles) : row_words_(words) {}

  template <int kT>
  HWY_INLINE void zero() {
    std::memset(words_[kT], 0, sizeof words_[kT]);
  }
  template <int kT>
  HWY_INLINE void load(const void* from, int64_t stride) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(words_[kT][r], static_cast<const char*>(from) + r * stride * 4,
                  size_t{4} * row_words_[kT]);
    }
  }
  template <int kT>
  HWY_INLINE void load_past_l1(const void* from, int64_t stride) {
    load<kT>(from, stride);
  }
  template <int kT>
  HWY_INLINE void store(void* to, int64_t stride) {
    for (int r = 0; r < kTileRows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride * 4, words_[kT][r],
                  size_t{4} * row_words_[kT]);
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
  TileWords row_words_;
  alignas(64) uint32_t words_[8][kTileRows][kTileWords] = {};
};

#else

// The registers belong to the thread while this lives: configured as eight tiles of 16 rows, and
// released after, so that a context switch need not save them. Strides are in 32-bit words.
//
// In asm, because the compiler's intrinsics (GCC 12's) do not say that they read and write memory.
class Tiles {
 public:
  HWY_INLINE explicit Tiles(const TileWords& words = kFullTiles) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes_of_row[16] = {};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int i = 0; i < 8; ++i) config.bytes_of_row[i] = uint16_t{4} * words[i];
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
  // Leaves no copy in the first-level cache, and so what is there in peace.
  template <int kT>
  HWY_INLINE void load_past_l1(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,4), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kT) : "memory");
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

// A float matrix as the sum of two of bfloat16, which keep 16 of its 24 bits.
struct SplitMatrix {
  uint32_t* high;
  uint32_t* low;
};

// Operands of one step of a block, and their strides: A [32][16 pairs], B [16 pairs][32].
struct Operand {
  const uint32_t* at;
  int64_t stride;
};

// The sums of one block after the other. What a block came to is stored when the next one begins,
// register by register, each as its first product of the next block is about to need it: stored all
// at once, the four would keep the products waiting.
//
// A comes past the first-level cache: a chunk's A are more than that holds and used once by each
// panel, while the blocks and B are used again soon.
class BlockSums {
 public:
  HWY_INLINE BlockSums(Tiles& tiles, float* unused) : tiles_(tiles), to_(unused) {}

  // The first four products of a block that goes to `to` [32][kStride].
  HWY_INLINE void begin(Operand a, Operand b, float* to) { begin<false>(a, b, to); }
  // The same, added to what is at `to`.
  HWY_INLINE void resume(Operand a, Operand b, float* to) { begin<true>(a, b, to); }
  // Four more; where one of the operands is that of the products before, it is not loaded again.
  HWY_INLINE void add(Operand a, Operand b) {
    load_b(b);
    add_same_b(a);
  }
  HWY_INLINE void add_same_b(Operand a) {
    tiles_.load_past_l1<4>(a.at, a.stride);
    tiles_.load_past_l1<5>(a.at + kTileRows * a.stride, a.stride);
    dot();
  }
  HWY_INLINE void add_same_a(Operand b) {
    load_b(b);
    dot();
  }
  // Stores the last block.
  HWY_INLINE void end() {
    tiles_.store<0>(to_, kStride);
    tiles_.store<1>(to_ + kTileWords, kStride);
    tiles_.store<2>(to_ + kBelow, kStride);
    tiles_.store<3>(to_ + kBelow + kTileWords, kStride);
  }

  static constexpr int64_t kStride = kBlock;

 private:
  HWY_INLINE void load_b(Operand b) {
    tiles_.load<6>(b.at, b.stride);
    tiles_.load<7>(b.at + kTileWords, b.stride);
  }
  HWY_INLINE void dot() {
    tiles_.dot<0, 4, 6>();
    tiles_.dot<1, 4, 7>();
    tiles_.dot<2, 5, 6>();
    tiles_.dot<3, 5, 7>();
  }
  template <int kSum, bool kFrom>
  HWY_INLINE void replace(int64_t at, const float* to) {
    tiles_.store<kSum>(to_ + at, kStride);
    if constexpr (kFrom) {
      tiles_.load<kSum>(to + at, kStride);
    } else {
      tiles_.zero<kSum>();
    }
  }
  template <bool kFrom>
  HWY_INLINE void begin(Operand a, Operand b, float* to) {
    tiles_.load_past_l1<4>(a.at, a.stride);
    tiles_.load<6>(b.at, b.stride);
    replace<0, kFrom>(0, to);
    tiles_.dot<0, 4, 6>();
    tiles_.load<7>(b.at + kTileWords, b.stride);
    replace<1, kFrom>(kTileWords, to);
    tiles_.dot<1, 4, 7>();
    tiles_.load_past_l1<5>(a.at + kTileRows * a.stride, a.stride);
    replace<2, kFrom>(kBelow, to);
    tiles_.dot<2, 5, 6>();
    replace<3, kFrom>(kBelow + kTileWords, to);
    tiles_.dot<3, 5, 7>();
    to_ = to;
  }

  static constexpr int64_t kBelow = kTileRows * kStride;
  Tiles& tiles_;
  float* to_;  // where the sums in the registers go
};

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
