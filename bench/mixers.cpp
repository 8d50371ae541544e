// Training with each mixer beside dense attention of the same width: arithmetic a second, as a
// share of attention's in the same round; and what a token of decode takes after 100 and 10,000
// others.
//
// Arguments: [WIDTH [CONTEXT [MIXER]]] (256, 512, all of them and experts).
#include "lmxlab/config/count.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/step.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace mx = mlx::core;
using namespace lmxlab;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kRows = 4, kLayers = 2, kVocab = 512, kRounds = 5;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

config::Model model_of(const config::Mixer& mixer, const config::Ffn& ffn, int dim) {
  config::Model m{.dim = dim, .vocab = kVocab, .context = 16'384};
  m.layers.assign(kLayers, {.mixer = mixer, .ffn = ffn});
  return m;
}

// A model in training; steps are timed one by one.
struct Training {
  Training(const config::Model& config, int context)
      : model(config, 1), flops(3 * config::flops_per_token(config, context) * kRows * context) {
    const Enter enter(model.runtime());
    OptimizerConfig adamw;

    step = std::make_unique<TrainStep>(model.transformer(), adamw, StepOptions{});
    state = std::make_unique<TrainStep::State>(step->initial(2));
    const auto ids = mx::random::randint(0, kVocab, {kRows, context + 1}, mx::int32);
    batch = {mx::contiguous(mx::slice(ids, {0, 0}, {kRows, context})),
             mx::contiguous(mx::slice(ids, {0, 1}, {kRows, context + 1}))};
    mx::eval(batch.inputs, batch.targets);
    run();
  }
  double run() {
    const Enter enter(model.runtime());
    const auto begin = Clock::now();
    (*step)(*state, {batch}, 1e-3f, ++count);
    return since(begin);
  }
  LanguageModel model;
  double flops;
  std::unique_ptr<TrainStep> step;
  std::unique_ptr<TrainStep::State> state;
  data::Batch batch{mx::array(0), mx::array(0)};
  int64_t count = 0;
};

// Milliseconds of a token once so many were seen.
double decode(const config::Model& config, int seen) {
  const LanguageModel model(config, 1);
  auto cache = model.make_cache();
  for (int at = 0; at < seen; at += 500) {
    const int n = std::min(500, seen - at);
    auto [logits, next] = model(mx::zeros({1, n}, mx::int32), std::move(cache));
    cache = std::move(next);
    eval(logits, cache);
  }
  std::vector<double> times;
  for (int i = 0; i < 30; ++i) {
    const auto begin = Clock::now();
    auto [logits, next] = model(mx::array(1), std::move(cache));
    cache = std::move(next);
    eval(logits, cache);
    times.push_back(1e3 * since(begin));
  }
  return median(times);
}

}  // namespace

int main(int argc, char** argv) {
  const int dim = argc > 1 ? std::atoi(argv[1]) : 256,
            context = argc > 2 ? std::atoi(argv[2]) : 512;
  const std::string only = argc > 3 ? argv[3] : "";
  kernels::set_cache_limit(size_t{2} << 30);
  const int heads = dim / 64;
  const config::Attention attention{.heads = heads, .kv_heads = heads, .head_dim = 64};
  std::vector<std::pair<std::string, config::Mixer>> mixers{
      {"latent attention",
       config::Mla{
           .heads = heads, .kv_rank = dim / 4, .nope_dim = 32, .rope_dim = 32, .v_dim = 64}},
      {"mamba", config::Mamba{.inner = 2 * dim, .state = 16, .dt_rank = dim / 16}},
      {"mamba2", config::Mamba2{.heads = 2 * heads, .head_dim = 64, .groups = 1, .state = 64}},
      {"gated delta",
       config::GatedDelta{.heads = heads, .key_heads = heads, .key_dim = 64, .value_dim = 64}},
      {"kimi delta", config::KimiDelta{.heads = heads, .head_dim = 64}},
      {"lightning", config::Lightning{.heads = heads, .head_dim = 64}},
      {"short convolution", config::ShortConv{}},
      {"rg-lru", config::RgLru{.width = dim, .heads = heads}},
      {"rwkv time", config::RwkvTime{.inner = dim}},
      {"rwkv-7", config::Rwkv7{.heads = heads, .head_dim = 64}},
      {"mamba3", config::Mamba3{.heads = 2 * heads, .head_dim = 64, .groups = 1, .state = 64}},
      {"mlstm", config::Mlstm{.heads = heads, .key_dim = 64, .value_dim = 64}},
      {"sparse attention", config::Nsa{.heads = heads, .kv_heads = heads, .head_dim = 64}},
  };
  if (!only.empty()) std::erase_if(mixers, [&](const auto& m) { return m.first != only; });
  const config::Mlp mlp{.hidden = 3 * dim};
  Training dense(model_of(attention, mlp, dim), context);
  const auto compare = [&](const std::string& name, const config::Model& config) {
    Training other(config, context);
    std::vector<double> ratios, speeds;
    for (int i = 0; i < kRounds; ++i) {
      const double ours = other.flops / other.run(), its = dense.flops / dense.run();
      ratios.push_back(ours / its), speeds.push_back(ours / 1e9);
    }
    std::printf("%-20s %7.1f GFLOP/s, %.2f of attention's\n", name.c_str(), median(speeds),
                median(ratios));
    std::fflush(stdout);
  };
  std::printf("width %d, context %d, %d rows, %d layers\n", dim, context, kRows, kLayers);
  for (const auto& [name, mixer] : mixers) compare(name, model_of(mixer, mlp, dim));

  if (only.empty()) {
    // Two of eight experts and a dense FFN of their width.
    Training sparse(
        model_of(attention, config::Moe{.experts = 8, .top_k = 2, .hidden = 3 * dim}, dim),
        context),
        twin(model_of(attention, config::Mlp{.hidden = 6 * dim}, dim), context);
    std::vector<double> costs;
    for (int i = 0; i < kRounds; ++i) costs.push_back(sparse.run() / twin.run());
    std::printf("8 experts, 2 a token: %.2f of the time of their dense twin\n", median(costs));
  }

  for (const auto& [name, mixer] : mixers) {
    if (!config::recurrent_size(mixer, dim)) continue;
    const auto config = model_of(mixer, mlp, dim);
    const double early = decode(config, 100), late = decode(config, 10'000);
    std::printf("%-20s %.2f ms a token after 100, %.2f after 10,000: %.2f\n", name.c_str(), early,
                late, late / early);
    std::fflush(stdout);
  }
}
