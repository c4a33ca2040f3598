// The running state of a chunk task: float panels [K][kPanel], contiguous along V, one after the
// other for the columns that the task owns; and the way between them and a slot in memory.

GDN_BEFORE_KERNELS()
namespace gdn::cpu::GDN_ISA {

// Rows of a panel: K rounded up to whole tiles. The rows past K are zero and stay so.
constexpr int64_t padded_k(int64_t K) { return (K + 7) / 8 * 8; }

// Columns [column, column + width) of a value head, width <= kPanel, in a panel.
struct Panel {
  int64_t head;    // value head
  int64_t column;  // first column
  int64_t width;
  float* state;  // [padded_k][kPanel]
};

// Calls body(panel) for every panel of a task, value head by value head.
template <class Body>
HWY_INLINE void for_each_panel(const Split& split, const Split::Task& task, int64_t head_k,
                               float* state, const Body& body) {
  split.for_each_range(task, [&](int64_t head, int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; column += kPanel) {
      body(Panel{head, column, std::min<int64_t>(kPanel, end - column), state});
      state += head_k * kPanel;
    }
  });
}

constexpr int64_t panel_floats(int64_t units, int64_t head_k) { return units * kUnit * head_k; }

// Element offset, inside a slot, of a panel's first row.
inline int64_t offset_in_slot(const Shape& shape, const Panel& panel) {
  const int64_t head = panel.head * shape.V * shape.K;
  return shape.layout == StateLayout::kVK ? head + panel.column * shape.K : head + panel.column;
}

// Fills a panel from a slot; nullptr: with zeros. `rows` is scratch of [kPanel][K].
inline void load_panel(const Shape& shape, const std::byte* slot, DType dtype, const Panel& panel,
                       float* rows) {
  const int64_t K = shape.K;
  std::fill_n(panel.state, padded_k(K) * kPanel, 0.0f);
  if (slot == nullptr) return;
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    const T* from = reinterpret_cast<const T*>(slot) + offset_in_slot(shape, panel);
    if (shape.layout == StateLayout::kKV) {
      for (int64_t k = 0; k < K; ++k)
        load_row(from + k * shape.V, panel.width, panel.state + k * kPanel);
      return;
    }
    for (int64_t v = 0; v < panel.width; ++v) load_row(from + v * K, K, rows + v * K);
    transpose(rows, K, panel.width, K, panel.state, kPanel);
  });
}

// Rounds a panel once into a slot.
inline void store_panel(const Shape& shape, const Panel& panel, std::byte* slot, DType dtype,
                        float* rows) {
  const int64_t K = shape.K;
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    T* to = reinterpret_cast<T*>(slot) + offset_in_slot(shape, panel);
    if (shape.layout == StateLayout::kKV) {
      for (int64_t k = 0; k < K; ++k)
        store_row(panel.state + k * kPanel, panel.width, to + k * shape.V);
      return;
    }
    transpose(panel.state, kPanel, K, panel.width, rows, K);
    for (int64_t v = 0; v < panel.width; ++v) store_row(rows + v * K, K, to + v * K);
  });
}

}  // namespace gdn::cpu::GDN_ISA
GDN_AFTER_KERNELS()
