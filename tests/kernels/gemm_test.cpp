#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <atomic>
#include <cfloat>
#include <cmath>
#include <random>
#include <thread>

#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

namespace mx = mlx::core;

extern "C" void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha,
                            const float* a, int lda, const float* b, int ldb, float beta, float* c,
                            int ldc);

namespace lmxlab::kernels {
namespace {

constexpr int kRowMajor = 101, kColMajor = 102, kNoTrans = 111, kTrans = 112;

std::vector<float> noise(size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (auto& x : out) {
    x = normal(engine);
  }
  return out;
}

struct Case {
  int order, ta, tb, m, n, k;
  float alpha, beta;
  int pad;  // columns (rows) between two rows (columns)
};

// Offset of element (i, j) of a stored rows x columns matrix.
size_t at(int order, int i, int j, int ld) {
  return order == kRowMajor ? size_t(i) * ld + j : size_t(j) * ld + i;
}

void check(const Case& t) {
  const bool row = t.order == kRowMajor;
  const int ar = t.ta == kTrans ? t.k : t.m, ac = t.ta == kTrans ? t.m : t.k;
  const int br = t.tb == kTrans ? t.n : t.k, bc = t.tb == kTrans ? t.k : t.n;
  const int lda = (row ? ac : ar) + t.pad, ldb = (row ? bc : br) + t.pad,
            ldc = (row ? t.n : t.m) + t.pad;
  const auto a = noise(size_t(row ? ar : ac) * lda, 1), b = noise(size_t(row ? br : bc) * ldb, 2);
  const auto c0 = noise(size_t(row ? t.m : t.n) * ldc, 3);
  auto c = c0;
  cblas_sgemm(t.order, t.ta, t.tb, t.m, t.n, t.k, t.alpha, a.data(), lda, b.data(), ldb, t.beta,
              c.data(), ldc);
  double worst = 0;
  std::string where;
  auto touched = std::vector<bool>(c.size());
  for (int i = 0; i < t.m; i++) {
    for (int j = 0; j < t.n; j++) {
      double sum = 0, size = 0;
      for (int k = 0; k < t.k; k++) {
        const double x = a[t.ta == kTrans ? at(t.order, k, i, lda) : at(t.order, i, k, lda)];
        const double y = b[t.tb == kTrans ? at(t.order, j, k, ldb) : at(t.order, k, j, ldb)];
        sum += x * y;
        size += std::abs(x * y);
      }
      const size_t p = at(t.order, i, j, ldc);
      touched[p] = true;
      const double expected = t.alpha * sum + t.beta * double(c0[p]);
      // The error of a float sum of k products, with four partial roundings to spare.
      const double bound = FLT_EPSILON * (std::sqrt(double(t.k)) + 4) *
                           (std::abs(t.alpha) * size + std::abs(t.beta * c0[p]) + FLT_MIN);
      const double ratio = std::abs(c[p] - expected) / bound;
      if (!(ratio <= worst)) {
        worst = ratio;
        where = std::to_string(i) + ", " + std::to_string(j) + ": expected " +
                std::to_string(expected) + ", got " + std::to_string(c[p]);
      }
    }
  }
  EXPECT_LE(worst, 1) << "order " << t.order << " trans " << t.ta << " " << t.tb << " m n k " << t.m
                      << " " << t.n << " " << t.k << " alpha " << t.alpha << " beta " << t.beta
                      << " pad " << t.pad << ", worst at " << where;
  for (size_t i = 0; i < c.size(); i++) {
    ASSERT_TRUE(touched[i] || c[i] == c0[i]) << "written between the rows, at " << i;
  }
}

TEST(Gemm, AgreesWithADoubleLoop) {
  const int shapes[][3] = {{1, 1, 1},     {3, 5, 7},     {17, 1, 33},   {1, 17, 33},
                           {64, 64, 32},  {65, 63, 67},  {129, 97, 65}, {1, 513, 700},
                           {513, 1, 700}, {2, 600, 300}, {200, 9, 300}, {31, 257, 129}};
  for (int n : {1, 2, 3, 7}) {
    set_threads(n);
    for (const auto& s : shapes) {
      for (int order : {kRowMajor, kColMajor}) {
        for (int ta : {kNoTrans, kTrans}) {
          for (int tb : {kNoTrans, kTrans}) {
            check({order, ta, tb, s[0], s[1], s[2], 1.0f, 0.0f, 0});
            check({order, ta, tb, s[0], s[1], s[2], -0.5f, 2.0f, 3});
          }
        }
      }
    }
  }
  set_threads(0);
}

TEST(Gemm, BetaZeroDoesNotReadTheOutput) {
  const auto a = noise(64 * 128, 1), b = noise(128 * 96, 2);
  for (int m : {1, 64}) {
    std::vector<float> c(size_t(m) * 96, NAN);
    cblas_sgemm(kRowMajor, kNoTrans, kNoTrans, m, 96, 128, 1, a.data(), 128, b.data(), 96, 0,
                c.data(), 96);
    for (float x : c) {
      ASSERT_TRUE(std::isfinite(x));
    }
  }
}

// A library whose work buffers have no lock gives about one wrong product in a thousand here.
TEST(Gemm, ManyAtOnceAreAllRight) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&wrong, t] {
      const int m = 160 + 8 * t, n = 130, k = 120;
      std::vector<float> a(size_t(m) * k), b(size_t(k) * n), c(size_t(m) * n), expected(c.size());
      for (size_t i = 0; i < a.size(); i++) a[i] = float((i * 7 + t) % 13) - 6;  // exact sums
      for (size_t i = 0; i < b.size(); i++) b[i] = float((i * 5 + t) % 11) - 5;
      for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
          for (int p = 0; p < k; p++)
            expected[size_t(j) * m + i] += a[size_t(p) * m + i] * b[size_t(j) * k + p];
      for (int run = 0; run < 2000; run++) {
        cblas_sgemm(kColMajor, kNoTrans, kNoTrans, m, n, k, 1, a.data(), m, b.data(), k, 0,
                    c.data(), m);
        wrong += c != expected;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Gemm, SameBitsEachTime) {
  set_threads(3);
  const int m = 301, n = 257, k = 333;
  const auto a = noise(size_t(m) * k, 1), b = noise(size_t(n) * k, 2);
  std::vector<float> first(size_t(m) * n), again(size_t(m) * n);
  cblas_sgemm(kRowMajor, kNoTrans, kTrans, m, n, k, 1, a.data(), k, b.data(), k, 0, first.data(),
              n);
  for (int i = 0; i < 30; i++) {
    cblas_sgemm(kRowMajor, kNoTrans, kTrans, m, n, k, 1, a.data(), k, b.data(), k, 0, again.data(),
                n);
    ASSERT_EQ(first, again);
  }
  set_threads(0);
}

TEST(Gemm, ServesMlx) {
  ASSERT_TRUE(own_gemm()) << gemm_name();
  EXPECT_NE(gemm_name().find("lmxlab ("), std::string::npos) << gemm_name();
  auto calls_of = [](const mx::array& lazy) {
    const auto before = gemm_calls();
    mx::eval(lazy);
    mx::synchronize();
    return gemm_calls() - before;
  };
  const auto x = mx::random::normal({64, 48}, mx::random::key(1));
  const auto w = mx::random::normal({32, 48}, mx::random::key(2));
  const auto q = mx::random::normal({2, 3, 8, 16}, mx::random::key(3));
  mx::eval(x, w, q);
  EXPECT_EQ(calls_of(mx::matmul(x, mx::transpose(w))), 1u);
  EXPECT_EQ(calls_of(mx::matmul(q, mx::swapaxes(q, -1, -2))), 6u);
  EXPECT_EQ(calls_of(mx::addmm(mx::array(1.0f), x, mx::transpose(w))), 1u);
}

}  // namespace
}  // namespace lmxlab::kernels
