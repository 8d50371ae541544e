// What sums in one order cost (kernels/one_order.h): decoding by rows of the batch, a prompt, and
// a training step, without and with it; and an update of GRPO, where what is without computes the
// log-probabilities of a rollout again. And what it saves that a group's prompt is read once.
//
// Arguments: [WIDTH [LAYERS [VOCABULARY [KIND]]]] (256, 4, 4096, dense). KIND: dense; packed, of 4
// bits with an adapter; experts, 2 of 8; recurrent, gated delta nets.
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/align/grpo.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/step.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace mx = mlx::core;
using namespace lmxlab;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kRounds = 5;

// Seconds without and with, of rounds that alternate: the fastest.
template <class F>
void compare(const char* what, F f) {
  double best[2] = {1e30, 1e30};
  for (int round = 0; round < kRounds; ++round) {
    for (const bool on : {false, true}) {
      const kernels::OneOrder order(on);
      const auto begin = Clock::now();
      f();
      const double s = std::chrono::duration<double>(Clock::now() - begin).count();
      best[on] = std::min(best[on], s);
    }
  }
  std::printf("{\"what\": \"%s\", \"ms\": %.2f, \"one_order_ms\": %.2f, \"ratio\": %.2f}\n", what,
              best[0] * 1e3, best[1] * 1e3, best[1] / best[0]);
}

std::vector<std::vector<int>> prompts(int rows, int length, int vocab) {
  std::vector<std::vector<int>> out(static_cast<size_t>(rows));
  int n = 1;
  for (auto& p : out) {
    p.push_back(static_cast<int>(&p - out.data()) %
                vocab);  // no two alike: equal ones are read once
    for (int i = 1; i < length; ++i) p.push_back(n = (n * 48'271 + 11) % 2'147'483 % vocab);
  }
  return out;
}

LanguageModel made(const config::Model& config, const std::string& kind) {
  LanguageModel model(config, 1);
  if (kind == "packed") {
    quantize_model(model, {.bits = 4});
    interleave_model(model);
    attach_adapter(model, {.rank = 8});
  }
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const int dim = argument(1, 256), layers = argument(2, 4), vocab = argument(3, 4096);
  const std::string kind = argc > 4 ? argv[4] : "dense";
  config::Model c{.dim = dim, .vocab = vocab, .context = 1024};
  config::Block block;
  block.mixer = config::Attention{.heads = dim / 32, .kv_heads = dim / 64, .head_dim = 32};
  block.ffn = config::Mlp{.hidden = 3 * dim};
  if (kind == "experts") block.ffn = config::Moe{.experts = 8, .top_k = 2, .hidden = dim};
  if (kind == "recurrent")
    block.mixer = config::GatedDelta{
        .heads = dim / 64, .key_heads = dim / 64, .key_dim = 64, .value_dim = 64};
  c.layers.assign(static_cast<size_t>(layers), block);
  auto model = made(c, kind);

  for (const bool shared : {false, true}) {  // 8 prompts of 256, 8 times each
    auto p = prompts(shared ? 8 : 64, 256, vocab);
    for (size_t i = 0; shared && i < 56; ++i) p.push_back(p[i]);
    compare(shared ? "64 rows of 8 prompts of 256, 16 tokens each"
                   : "64 rows of 64 prompts of 256, 16 tokens each",
            [&] { generate_batch(model, p, {.max_tokens = 16}); });
  }
  for (const int rows : {1, 4, 8, 16, 64}) {
    for (const int length : {16, 256}) {
      const auto p = prompts(rows, length, vocab);
      const auto name = "64 tokens decoded, " + std::to_string(rows) + " rows, " +
                        std::to_string(length) + " before";
      compare(name.c_str(), [&] { generate_batch(model, p, {.max_tokens = 64}); });
    }
  }
  for (const int length : {64, 256, 1024}) {
    const auto p = prompts(1, length, vocab);
    const auto name = "prompt of " + std::to_string(length);
    compare(name.c_str(), [&] { generate_batch(model, p, {.max_tokens = 1}); });
  }
  for (const int length : {64, 256, 1024}) {
    const Enter enter(model.runtime());
    OptimizerConfig adamw;
    TrainStep step(model.transformer(), adamw, StepOptions{});
    auto state = step.initial(2);
    const int rows = 4096 / length;
    const auto ids = mx::random::randint(0, vocab, {rows, length + 1}, mx::int32);
    const data::Batch batch{mx::contiguous(mx::slice(ids, {0, 0}, {rows, length})),
                            mx::contiguous(mx::slice(ids, {0, 1}, {rows, length + 1}))};
    mx::eval(batch.inputs, batch.targets);
    const auto name = "step of " + std::to_string(rows) + " x " + std::to_string(length);
    compare(name.c_str(), [&] { step(state, {batch}, 1e-4f, 1); });
  }
  data::SampleFile file{"bench", data::SampleKind::answer, {}};
  for (int i = 0; i < 64; ++i) {
    data::Sample sample;
    sample.kind = data::SampleKind::answer;
    sample.prompt = Json("a question of some words, number " + std::to_string(i));
    file.samples.push_back(sample);
  }
  const data::SampleTokenizer tokenizer(data::Tokenizer::bytes());
  double seconds[2] = {0, 0};
  for (const bool on : {false, true}) {
    auto policy = made(c, kind);
    align::GrpoConfig config;
    config.max_completion_length = 64, config.one_order = on;
    config.drift_bound = 0;  // any other bits count
    align::Grpo grpo(policy, tokenizer, file,
                     align::reward_function([](const align::Completion& x) {
                       return static_cast<double>(x.text.size());
                     }),
                     config);
    TrainOptions options;
    options.objective = grpo.objective();
    options.run.steps = 6, options.run.batch = 64, options.run.context = 96;
    options.run.eval_every = 0;
    Trainer trainer(policy, grpo.data(options.run), options);
    seconds[on] = trainer.run().seconds / 6;
    const auto& stats = grpo.stats();
    if (!on)
      std::printf(
          "{\"what\": \"tokens of other bits than the engine said\", \"share\": %.3f, "
          "\"largest, nats\": %.2g}\n",
          stats.drifted / (64 * stats.length), stats.drift_max);
  }
  std::printf(
      "{\"what\": \"GRPO, 8 x 8 completions of 64 tokens\", \"ms\": %.0f, \"one_order_ms\": %.0f, "
      "\"ratio\": %.2f}\n",
      seconds[0] * 1e3, seconds[1] * 1e3, seconds[1] / seconds[0]);
}
