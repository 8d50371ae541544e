// The float32 matrix product that MLX uses, against OpenBLAS on one thread: GFLOP/s by shape.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

extern "C" void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha,
                            const float* a, int lda, const float* b, int ldb, float beta, float* c,
                            int ldc);

namespace {

struct Times {  // seconds
  double median, p90;
};

template <class F>
Times time_of(F run) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  const auto end = Clock::now() + std::chrono::milliseconds(300);
  do {
    const auto begin = Clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  } while (Clock::now() < end || seconds.size() < 5);
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds[seconds.size() * 9 / 10]};
}

}  // namespace

int main() {
  using namespace lmxlab::kernels;
  const int all = threads();
  std::printf("%s, %s build\n", gemm_name().c_str(),
#ifdef NDEBUG
              "release"
#else
              "debug"
#endif
  );
  std::printf("%6s %6s %6s  %22s  %22s\n", "m", "n", "k", "1 thread", "all threads");
  std::printf("%6s %6s %6s  %7s %7s %6s  %7s %7s %6s\n", "", "", "", "us", "p90", "GF/s", "us",
              "p90", "GF/s");
  for (const auto& [m, n, k] : {std::tuple{64, 64, 32},
                                {768, 384, 128},
                                {768, 512, 128},
                                {768, 128, 512},
                                {512, 128, 768},
                                {512, 512, 512},
                                {64, 2048, 512},
                                {512, 4096, 1024},
                                {1, 4096, 4096},
                                {8, 4096, 4096}}) {
    const std::vector<float> a(size_t(m) * k, 0.5f), b(size_t(n) * k, 0.25f);
    std::vector<float> c(size_t(m) * n);
    std::printf("%6d %6d %6d", m, n, k);
    for (const int use : {1, all}) {
      set_threads(use);
      // x W^T, as in a linear layer.
      const auto t = time_of([&, m = m, n = n, k = k] {
        cblas_sgemm(101, 111, 112, m, n, k, 1, a.data(), k, b.data(), k, 0, c.data(), n);
      });
      std::printf("  %7.0f %7.0f %6.1f", t.median * 1e6, t.p90 * 1e6,
                  2.0 * m * n * k / t.median / 1e9);
    }
    std::printf("\n");
  }
}
