// cblas_sgemm for all of MLX's float32 matrix products: libmlx leaves the name undefined, and a
// definition in the program is found first.
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "lmxlab/kernels/gemm.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/overrides/hooks.h"

namespace {

using lmxlab::kernels::gemm;
using lmxlab::kernels::MatrixView;
using lmxlab::kernels::Type;

constexpr int kColMajor = 102;
constexpr int kNoTrans = 111;

std::atomic<uint64_t> calls{0};

MatrixView view(const float* data, int ld, bool transposed) {
  const int64_t stride = ld;
  return transposed ? MatrixView{data, Type::f32, 1, stride}
                    : MatrixView{data, Type::f32, stride, 1};
}

// A rehearsal does not hear of MLX's own products, so their memory is not among MLX's.
// Row-major c [m, n] = alpha op(a) op(b) + beta c.
void product(bool ta, bool tb, int m, int n, int k, float alpha, const float* a, int lda,
             const float* b, int ldb, float beta, float* c, int ldc) {
  if (alpha == 1 && (beta == 0 || beta == 1)) {
    return gemm(m, n, k, view(a, lda, ta), view(b, ldb, tb), {c, Type::f32, ldc}, beta == 1, false);
  }
  std::vector<float> sums(size_t(m) * n);
  gemm(m, n, k, view(a, lda, ta), view(b, ldb, tb), {sums.data(), Type::f32, n}, false, false);
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < n; j++) {
      float& to = c[size_t(i) * ldc + j];
      to = alpha * sums[size_t(i) * n + j] + (beta == 0 ? 0 : beta * to);
    }
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void cblas_sgemm(int order, int ta, int tb, int m,
                                                                   int n, int k, float alpha,
                                                                   const float* a, int lda,
                                                                   const float* b, int ldb,
                                                                   float beta, float* c, int ldc) {
  const lmxlab::kernels::MemoryFor here(lmxlab::kernels::MemoryUse::task);  // one of MLX's
  calls.fetch_add(1, std::memory_order_relaxed);
  if (m <= 0 || n <= 0) {
    return;
  }
  if (order == kColMajor) {  // a matrix in columns is its transpose in rows: c' = op(b)' op(a)'
    product(tb != kNoTrans, ta != kNoTrans, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
  } else {
    product(ta != kNoTrans, tb != kNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
}

namespace {
const lmxlab::kernels::detail::GemmHooks hooks{
    reinterpret_cast<const void*>(&cblas_sgemm), [] { return calls.load(); },
    [] { return lmxlab::kernels::name(lmxlab::kernels::isa()).data(); }};
const bool registered = (lmxlab::kernels::detail::register_gemm(&hooks), true);
}  // namespace
