// What benches share: a kernel of ours timed against the same function in MLX's ordinary ops, both
// in turn, and one JSON line a case. bench/kernels_NAME.cpp is:
//
//   int main(int argc, char** argv) {
//     lmxlab::bench::Bench bench("norm", argc, argv);
//     bench.ops("layer_norm f32 4096x384", {x, w, b}, ours, plain, {.bytes = 2.0 * x.nbytes()});
//     return bench.done();
//   }
//
// Arguments: [--quick] [--only PART-OF-A-CASE] [--cpu SET] [--threads N] [--check].
// --check: exit code 1 if any case is slower than its plain form by more than 5 %.
#pragma once

#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::bench {

using Clock = std::chrono::steady_clock;
using Arrays = std::vector<mlx::core::array>;

inline double median(std::vector<double> v) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/// Seconds of one call, over `calls` calls.
template <class F>
double seconds_of(F& run, int calls) {
  const auto begin = Clock::now();
  for (int i = 0; i < calls; i++) run();
  return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
}

/// What a case moves and computes at least, where that is known.
struct Work {
  double flops = 0, bytes = 0;
};

class Bench {
 public:
  Bench(std::string name, int argc, char** argv) : name_(std::move(name)) {
    for (int i = 1; i < argc; i++) {
      const std::string_view word = argv[i];
      const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
      if (word == "--quick") {
        quick_ = true;
      } else if (word == "--check") {
        check_ = true;
      } else if (word == "--only" && value) {
        only_ = argv[++i];
      } else if (word == "--cpu" && value) {
        kernels::set_isa(kernels::isa_named(argv[++i]));
      } else if (word == "--threads" && value) {
        kernels::set_threads(std::atoi(argv[++i]));
      } else {
        std::fprintf(stderr,
                     "usage: %s [--quick] [--only PART-OF-A-CASE] [--cpu SET] [--threads N] "
                     "[--check]\n",
                     argv[0]);
        std::exit(2);
      }
    }
    std::printf(
        "{\"bench\":\"%s\",\"cpu\":\"%s\",\"threads\":%d,\"gemm\":\"%s\",\"build\":\"%s\"}\n",
        name_.c_str(), std::string(kernels::name(kernels::isa())).c_str(), kernels::threads(),
        kernels::gemm_name().c_str(),
#ifdef NDEBUG
        "release"
#else
        "debug"
#endif
    );
  }

  bool quick() const {
    return quick_;
  }

  /// Whether the arguments ask for a case; run() and ops() look themselves.
  bool wanted(const std::string& title) const {
    return title.find(only_) != std::string::npos;
  }

  /// Times two functions in turn. Times are medians; the ratio, plain over ours, is the median of
  /// the rounds' ratios, so a slow drift of the machine cancels. With no `plain` the case has times
  /// of ours only. `group`: how often a call of a function does the work; figures are of once.
  void run(const std::string& title, std::function<void()> ours, std::function<void()> plain = {},
           Work work = {}, int group = 1) {
    if (!wanted(title)) return;
    const auto calls = [](std::function<void()>& f) {  // enough that a round takes 1 ms
      f();
      const double once = std::max(1e-7, std::min(seconds_of(f, 1), seconds_of(f, 1)));
      return static_cast<int>(std::clamp(1e-3 / once, 1.0, 10000.0));
    };
    const int calls_ours = calls(ours), calls_plain = plain ? calls(plain) : 0;
    const double budget = quick_ ? 0.1 : 0.5;  // seconds of a case
    const size_t least = quick_ ? 5 : 9;
    std::vector<double> a, b, ratios;
    const auto begin = Clock::now();
    for (size_t round = 0;; round++) {
      const double spent = std::chrono::duration<double>(Clock::now() - begin).count();
      if (round >= least && spent > budget) break;
      if (round >= 3 && spent > 10 * budget) break;
      if (plain && round % 2) b.push_back(seconds_of(plain, calls_plain) / group);
      a.push_back(seconds_of(ours, calls_ours) / group);
      if (plain && round % 2 == 0) b.push_back(seconds_of(plain, calls_plain) / group);
      if (plain) ratios.push_back(b.back() / a.back());
    }
    const double best = *std::min_element(a.begin(), a.end());
    std::printf("{\"bench\":\"%s\",\"case\":\"%s\",\"ours_us\":%.3f", name_.c_str(), title.c_str(),
                median(a) * 1e6);
    if (plain) {
      const double ratio = median(ratios);
      std::printf(",\"plain_us\":%.3f,\"ratio\":%.3f", median(b) * 1e6, ratio);
      cases_++;
      if (ratio < worst_) worst_ = ratio, worst_case_ = title;
    }
    std::printf(",\"best_us\":%.3f", best * 1e6);
    if (work.flops > 0) std::printf(",\"gflops\":%.2f", work.flops / best / 1e9);
    if (work.bytes > 0) std::printf(",\"gbytes_per_s\":%.2f", work.bytes / best / 1e9);
    std::printf("}\n");
    std::fflush(stdout);
  }

  /// The same for functions of arrays, evaluated. The inputs are held, so nothing is donated. A
  /// call alone is some 50 us of waking MLX's thread, whoever computes: small ones are evaluated in
  /// a group, as a model's are.
  void ops(const std::string& title, Arrays inputs, std::function<Arrays(const Arrays&)> ours,
           std::function<Arrays(const Arrays&)> plain, Work work = {}) {
    if (!wanted(title)) return;
    mlx::core::eval(inputs);
    size_t bytes = 1;
    for (const auto& x : ours(inputs)) bytes += x.nbytes();
    const auto once = [&] { mlx::core::eval(plain(inputs)); };
    once();
    const bool small = seconds_of(once, 1) < 1e-3;
    const int group = small ? static_cast<int>(std::clamp<size_t>(kGroupBytes / bytes, 1, 16)) : 1;
    const auto grouped = [&](const std::function<Arrays(const Arrays&)>& f) {
      Arrays all;
      for (int i = 0; i < group; i++) {
        for (auto& x : f(inputs)) all.push_back(std::move(x));
      }
      mlx::core::eval(std::move(all));
    };
    run(
        title, [&] { grouped(ours); }, [&] { grouped(plain); }, work, group);
  }

  /// Last thing in main: its exit code.
  int done() const {
    if (cases_ > 0)
      std::fprintf(stderr, "%s: worst ratio %.2f of %d cases: %s\n", name_.c_str(), worst_, cases_,
                   worst_case_.c_str());
    return check_ && cases_ > 0 && worst_ < 0.95 ? 1 : 0;
  }

 private:
  static constexpr size_t kGroupBytes = 4 << 20;  // of outputs that live at once

  std::string name_, only_, worst_case_;
  bool quick_ = false, check_ = false;
  double worst_ = 1e30;
  int cases_ = 0;
};

}  // namespace lmxlab::bench
