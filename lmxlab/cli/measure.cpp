#include "lmxlab/cli/measure.h"

#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/thread_pool.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>
#include <vector>

namespace lmxlab::cli {
namespace {

namespace mx = mlx::core;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Sums in eight lanes, so that the additions never wait for each other.
uint64_t sum(const uint64_t* at, size_t n) {
  uint64_t lanes[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8)
    for (size_t j = 0; j < 8; ++j) lanes[j] += at[i + j];
  uint64_t out = 0;
  for (const uint64_t lane : lanes) out += lane;
  return out;
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

double read_bandwidth() {
  // Far more than any cache of the processor, yet no burden on a small machine.
  const size_t bytes =
      std::clamp<size_t>(kernels::memory_room().bytes / 8, size_t{16} << 20, size_t{512} << 20) /
      64 * 64;
  double best = 0;
  if (std::string_view(LMXLAB_MLX_FLAVOUR) != "cpu") {
    const auto data = mx::ones({int(bytes / 4)}, mx::float32);
    mx::eval(data);
    for (int i = 0; i < 6; ++i) {
      const auto start = Clock::now();
      auto total = mx::sum(data);
      mx::eval(total);
      best = std::max(best, double(bytes) / since(start));
    }
    return best;
  }
  const size_t n = bytes / 8;
  const std::unique_ptr<uint64_t[]> data(new uint64_t[n]);
  const int parts = kernels::threads();
  const auto range = [&](int64_t part) { return n * size_t(part) / size_t(parts) / 8 * 8; };
  kernels::parallel_parts(parts, [&](int64_t p) {
    std::memset(data.get() + range(p), 1, (range(p + 1) - range(p)) * 8);
  });
  std::vector<uint64_t> sums(size_t(parts) * 8);
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    kernels::parallel_parts(parts, [&](int64_t p) {
      sums[size_t(p) * 8] += sum(data.get() + range(p), range(p + 1) - range(p));
    });
    best = std::max(best, double(bytes) / since(start));
  }
  static volatile uint64_t sink;
  sink = sums[0];  // the sums must be made
  (void)sink;
  return best;
}

double matmul_flops() {
  int n = 1024;
  double best = 0, spent = 0;
  for (int round = 0; round < 8 && spent < 0.6; ++round) {
    const auto a = mx::random::normal({n, n}), b = mx::random::normal({n, n});
    mx::eval(a, b);
    const auto start = Clock::now();
    auto c = mx::matmul(a, b);
    mx::eval(c);
    const double seconds = since(start);
    spent += seconds;
    best = std::max(best, 2.0 * n * n * n / seconds);
    if (seconds < 0.02 && n < 8192) n *= 2;  // a fast machine needs a larger product
  }
  return best;
}

}  // namespace lmxlab::cli
