#include "lmxlab/kernels/attention_parts.h"

namespace lmxlab::kernels {

void multiply_range(const panels::Format& f, Left a, Right b, int64_t m, int64_t n, int64_t first,
                    int64_t last, float* c, int64_t ld, bool add) {
  const int64_t k = last - first, element = f.element();
  // Strips of b follow one another only where all of k is wanted.
  const bool whole = first == 0 && f.padded_k(last) == f.padded_k(b.k);
  const int64_t step = whole ? n : f.nr;
  const bool rows_order = f.order == panels::Order::rows;
  for (int64_t j = 0; j < n; j += step) {
    const int64_t columns = std::min(step, n - j);
    const auto* const right =
        static_cast<const char*>(b.data) + j / f.nr * f.b_strip(b.k) + first * f.nr * element;
    for (int64_t i = 0; i < m; i += f.mr) {
      const int64_t rows = std::min<int64_t>(f.mr, m - i);
      float* const to = c + i * ld + j;
      if (f.bf16) {
        const auto* const left = static_cast<const char*>(a.data) + i / f.mr * f.a_strip(a.stride);
        panels::multiply_bf16(f, reinterpret_cast<const uint16_t*>(left) + first * f.mr,
                              reinterpret_cast<const uint16_t*>(right), rows, columns, k, to, ld,
                              add);
      } else {
        const auto* const left = static_cast<const float*>(a.data);
        const panels::Strip strip = rows_order
                                        ? panels::Strip{left + i * a.stride + first, a.stride, 1}
                                        : panels::Strip{left + first * a.stride + i, 1, a.stride};
        panels::multiply_f32(strip, reinterpret_cast<const float*>(right), rows, columns, k, to, ld,
                             add);
      }
    }
  }
}

}  // namespace lmxlab::kernels
