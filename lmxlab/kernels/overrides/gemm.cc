// cblas_sgemm for all of MLX's float32 matrix products: libmlx leaves the name undefined, and a
// definition in the program is found first. The product is cut over our pool, and OpenBLAS computes
// each part on one thread.
//
// The cut depends on shape and threads() only, so the same product has the same bits each time;
// another number of threads may change the last bits, as parts of another size meet other kernels
// inside OpenBLAS.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

#include "lmxlab/kernels/overrides/hooks.h"
#include "lmxlab/kernels/thread_pool.h"

extern "C" {
void sgemm_(const char* ta, const char* tb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void sgemv_(const char* trans, const int* m, const int* n, const float* alpha, const float* a,
            const int* lda, const float* x, const int* incx, const float* beta, float* y,
            const int* incy);
char* openblas_get_config();
char* openblas_get_corename();
void openblas_set_num_threads(int n);
int openblas_get_parallel();
}

namespace {

using lmxlab::kernels::parallel_parts;
using lmxlab::kernels::threads;

constexpr int kColMajor = 102;
constexpr int kNoTrans = 111;
constexpr int64_t kInline = int64_t{1}
                            << 18;  // multiply-adds below which waking the pool costs more

std::atomic<uint64_t> calls{0};

// libmlx brings a BLAS of its own that has the same Fortran names: take those of the library that
// OpenBLAS's own functions come from.
struct Engine {
  decltype(&sgemm_) gemm = &sgemm_;
  decltype(&sgemv_) gemv = &sgemv_;
  std::string name;
  bool concurrent = true;  // may be called from several threads at once

  Engine() {
    Dl_info blas{}, found{};
    if (dladdr(reinterpret_cast<void*>(&openblas_get_corename), &blas) &&
        dladdr(reinterpret_cast<void*>(gemm), &found) && blas.dli_fbase != found.dli_fbase) {
      if (void* library = dlopen(blas.dli_fname, RTLD_LAZY | RTLD_NOLOAD)) {
        if (void* symbol = dlsym(library, "sgemm_")) {
          gemm = reinterpret_cast<decltype(gemm)>(symbol);
        }
        if (void* symbol = dlsym(library, "sgemv_")) {
          gemv = reinterpret_cast<decltype(gemv)>(symbol);
        }
      }
    }
    openblas_set_num_threads(1);  // or two pools would fight
    // The build without threads has no lock around its work buffers either: two calls at once may
    // get the same one, and wrong sums.
    concurrent = openblas_get_parallel() != 0;
    std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_AFFINITY ..."
    const auto space = config.find(' ', config.find(' ') + 1);
    name = config.substr(0, space) + " (" + openblas_get_corename() + ")";
  }

  static const Engine& get() {
    static const Engine* engine = new Engine;
    return *engine;
  }
};

struct Cut {
  int rows = 1, columns = 1;
};

// Parts of about equal work, as square as can be: each packs its own share of both operands.
Cut choose_cut(int m, int n, int k) {
  const int64_t work = int64_t{m} * n * k;
  const int parts = static_cast<int>(std::min<int64_t>(threads(), work / (kInline / 2)));
  Cut best;
  int64_t best_cost = INT64_MAX;
  for (int rows = 1; rows <= parts; rows++) {
    const int columns = parts / rows;
    const int64_t tall = (m + rows - 1) / rows, wide = (n + columns - 1) / columns;
    const int64_t cost = tall * wide * 16 + tall + wide;  // the largest part first, then its edges
    if (cost < best_cost) {
      best_cost = cost;
      best = {rows, columns};
    }
  }
  return best;
}

// Begin of part i of n over `size`, on a multiple of 16 (a cache line, a register tile).
int begin_of(int64_t size, int64_t i, int64_t n) {
  return i == n ? static_cast<int>(size) : static_cast<int>(size * i / n / 16 * 16);
}

// Column-major, as Fortran: c [m, n] = alpha op(a) op(b) + beta c.
void product(bool ta, bool tb, int m, int n, int k, float alpha, const float* a, int lda,
             const float* b, int ldb, float beta, float* c, int ldc) {
  const auto& engine = Engine::get();
  const char* const trans_a = ta ? "T" : "N";
  const char* const trans_b = tb ? "T" : "N";
  const bool vector = n == 1 && k > 0;  // a row times a matrix, in MLX's order
  static std::mutex one_at_a_time;
  std::unique_lock<std::mutex> lock(one_at_a_time, std::defer_lock);
  if (!engine.concurrent) {
    lock.lock();
  }
  const bool small = int64_t{m} * n * k < kInline || threads() == 1 || !engine.concurrent;
  const Cut cut = small    ? Cut{}
                  : vector ? Cut{std::min(threads(), std::max(1, m / 16)), 1}
                           : choose_cut(m, n, k);
  auto part = [&](int64_t index) {
    const int r0 = begin_of(m, index % cut.rows, cut.rows);
    const int r1 = begin_of(m, index % cut.rows + 1, cut.rows);
    const int c0 = begin_of(n, index / cut.rows, cut.columns);
    const int c1 = begin_of(n, index / cut.rows + 1, cut.columns);
    const int rows = r1 - r0, columns = c1 - c0;
    if (rows == 0 || columns == 0) {
      return;
    }
    const float* const pa = a + (ta ? size_t(r0) * lda : size_t(r0));
    if (vector) {  // OpenBLAS's sgemm packs the whole matrix first; sgemv reads it once
      const int step = tb ? ldb : 1, one = 1;
      engine.gemv(trans_a, ta ? &k : &rows, ta ? &rows : &k, &alpha, pa, &lda, b, &step, &beta,
                  c + r0, &one);
      return;
    }
    const float* const pb = b + (tb ? size_t(c0) : size_t(c0) * ldb);
    engine.gemm(trans_a, trans_b, &rows, &columns, &k, &alpha, pa, &lda, pb, &ldb, &beta,
                c + r0 + size_t(c0) * ldc, &ldc);
  };
  parallel_parts(int64_t{cut.rows} * cut.columns, part);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void cblas_sgemm(int order, int ta, int tb, int m,
                                                                   int n, int k, float alpha,
                                                                   const float* a, int lda,
                                                                   const float* b, int ldb,
                                                                   float beta, float* c, int ldc) {
  calls.fetch_add(1, std::memory_order_relaxed);
  if (m <= 0 || n <= 0) {
    return;
  }
  if (order == kColMajor) {
    product(ta != kNoTrans, tb != kNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else {  // a row-major matrix is its transpose in columns: c' = op(b)' op(a)'
    product(tb != kNoTrans, ta != kNoTrans, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
  }
}

namespace {
const lmxlab::kernels::detail::GemmHooks hooks{reinterpret_cast<const void*>(&cblas_sgemm),
                                               [] { return calls.load(); },
                                               [] { return Engine::get().name.c_str(); }};
const bool registered = (lmxlab::kernels::detail::register_gemm(&hooks), true);
}  // namespace
