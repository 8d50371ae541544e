// A mixture of experts: grouped products against MLX's gather_mm, and the layer against the dense
// FFN of the same arithmetic.
#include "lmxlab/core/moe.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/grouped.h"
#include "lmxlab/kernels/memory.h"

#include <mlx/mlx.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>

namespace mx = mlx::core;
using namespace lmxlab;

namespace {

// Milliseconds, the least of some runs.
double time_of(const std::function<std::vector<mx::array>()>& run) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  const auto end = Clock::now() + std::chrono::milliseconds(600);
  int runs = 0;
  do {
    const auto begin = Clock::now();
    mx::eval(run());
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  } while (++runs < 3 || Clock::now() < end);
  return best;
}

void row(const char* what, double ms, double flop) {
  std::printf("  %-34s %9.2f ms %8.1f GFLOP/s\n", what, ms, flop / ms / 1e6);
}

}  // namespace

int main() {
  kernels::set_cache_limit(size_t{2} << 30);
  for (const auto& [tokens, dim, hidden, E, k] : {std::tuple{2048, 512, 1024, 8, 2},
                                                  {2048, 512, 256, 64, 8},
                                                  {128, 512, 256, 64, 8},
                                                  {1, 1024, 512, 64, 8}}) {
    std::printf("%d tokens, width %d, %d of %d experts of %d\n", tokens, dim, k, E, hidden);
    core::Init init(1);
    const core::Build build{dim, 0, 1, 0.02f, 0.02f, init};
    core::Moe moe({.experts = E, .top_k = k, .hidden = hidden}, build);
    core::Mlp mlp({.hidden = hidden * k}, build);
    for (core::Ffn* ffn : {static_cast<core::Ffn*>(&moe), static_cast<core::Ffn*>(&mlp)})
      for (const auto& e : core::collect(*ffn)) mx::eval(e.param->value);
    const auto x = mx::random::normal({1, tokens, dim});
    const auto ids = mx::sort(mx::astype(mx::random::randint(0, E, {tokens * k}), mx::uint32));
    const auto rows = mx::random::normal({tokens * k, dim});
    mx::eval(x, ids, rows);
    const double one = 2.0 * tokens * k * dim * hidden;
    const auto& w = moe.experts[0].up_proj.weight.w.value;
    for (const bool ours : {true, false}) {
      kernels::set_fused(ours);
      const auto product = [&](const std::vector<mx::array>& v) {
        return kernels::grouped_linear(v[0], v[1], ids, true);
      };
      row(ours ? "grouped product" : "gather_mm", time_of([&] {
            return std::vector{product({rows, w})};
          }),
          one);
      const auto loss = [&](const std::vector<mx::array>& v) -> std::vector<mx::array> {
        return {mx::sum(product(v))};
      };
      if (tokens * k > 8 && (ours || tokens * k <= 1024))
        row(ours ? "  with gradients" : "  with gradients, gather_mm", time_of([&] {
              return mx::value_and_grad(loss, {0, 1})({rows, w}).second;
            }),
            3 * one);
    }
    kernels::set_fused(true);
    for (core::Ffn* ffn : {static_cast<core::Ffn*>(&moe), static_cast<core::Ffn*>(&mlp)}) {
      core::Pass pass;
      const bool dense = ffn == &mlp;
      // Few tokens one layer after another, as in a model: an evaluation alone is mostly waking.
      const int layers = tokens < 8 ? 16 : 1;
      row(dense ? "dense FFN" : "mixture", time_of([&] {
                                             auto y = x;
                                             for (int i = 0; i < layers; ++i) y = (*ffn)(y, pass);
                                             return std::vector{y};
                                           }) / layers,
          3 * one);
      if (tokens < 8) continue;
      const auto entries = core::collect(*ffn);
      const auto weights = core::values(entries);
      std::vector<int> all;
      for (size_t i = 0; i < weights.size(); ++i) all.push_back(static_cast<int>(i));
      const auto step = mx::compile([&](const std::vector<mx::array>& v) -> std::vector<mx::array> {
        return mx::value_and_grad(
                   [&](const std::vector<mx::array>& p) -> std::vector<mx::array> {
                     const core::Lend lend(entries, p);
                     return {mx::sum(mx::square((*ffn)(x, pass)))};
                   },
                   all)(v)
            .second;
      });
      row("  with gradients", time_of([&] { return step(weights); }), 8 * one);
    }
  }
}
