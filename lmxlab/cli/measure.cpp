#include "lmxlab/cli/measure.h"

#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/kernels/linear.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/norm.h"
#include "lmxlab/kernels/peaks.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string_view>

namespace lmxlab::cli {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

template <class F>
double best_of(int runs, F run) {  // seconds
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

std::string chip_name() {
#ifdef __APPLE__
  char name[256];
  size_t size = sizeof name;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#else
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") || line.starts_with("Hardware")) {
      const auto colon = line.find(':');
      if (colon != std::string::npos) return std::string(trim(line.substr(colon + 1)));
    }
#endif
  return "unknown";
}

bool on_cpu() {
  return std::string_view(LMXLAB_MLX_FLAVOUR) == "cpu";
}

double Rates::flops(DType dtype) const {
  return dtype == DType::f32 ? f32 : std::max(f32, bf16);
}

Rates measure_rates() {
  if (on_cpu()) {
    const auto peaks = kernels::measure_peaks();
    return {kernels::measure_read_bandwidth(), peaks.f32, peaks.bf16, peaks.int8};
  }
  const size_t bytes =
      std::clamp<size_t>(kernels::memory_room().bytes / 8, size_t{16} << 20, size_t{512} << 20);
  const auto data = mx::ones({int(bytes / 4)}, mx::float32);
  mx::eval(data);
  const double seconds = best_of(6, [&] {
    auto total = mx::sum(data);
    mx::eval(total);
  });
  return {double(data.nbytes()) / seconds, product_flops(mx::float32), product_flops(mx::bfloat16)};
}

double product_flops(mx::Dtype dtype) {
  int n = 1024;
  double best = 0, spent = 0;
  for (int round = 0; round < 8 && spent < 0.6; ++round) {
    const auto a = mx::astype(mx::random::normal({n, n}), dtype);
    const auto b = mx::astype(mx::random::normal({n, n}), dtype);
    mx::eval(a, b);
    const double seconds = best_of(1, [&] {
      auto c = kernels::matmul(a, b);
      mx::eval(c);
    });
    spent += seconds;
    best = std::max(best, 2.0 * n * n * n / seconds);
    if (seconds < 0.02 && n < (on_cpu() ? 2048 : 8192))
      n *= 2;  // a fast machine needs a larger product
  }
  return best;
}

double streaming_rate() {
  const auto x = mx::ones({16384, 1024}, mx::float32), weight = mx::ones({1024}, mx::float32);
  mx::eval(x, weight);
  const double seconds = best_of(6, [&] {
    auto y = kernels::rms_norm(x, weight, 1e-5f);
    mx::eval(y);
  });
  return 2.0 * double(x.nbytes()) / seconds;
}

}  // namespace lmxlab::cli
