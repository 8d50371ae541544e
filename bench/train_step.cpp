// Steps of training a preset on random tokens: seconds and peak memory, as one JSON line.
//   bench_train_step PRESET CONTEXT [--batch N] [--steps N] [--checkpointing] [--bf16]
//     [--window N] [--limit BYTES]
// With a limit it ends with an error if a step needs more.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "lmxlab/base/random.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/recipe.h"
#include "lmxlab/training/trainer.h"

namespace {

using namespace lmxlab;

int measure(const std::vector<std::string>& words) {
  TrainOptions options;
  auto& run = options.run;
  run.batch = 1, run.context = std::stoi(words.at(1)), run.steps = 1;
  run.eval_every = 0, run.log_every = 1;
  std::optional<int> window;  // attention that looks back so far only
  for (size_t i = 2; i < words.size(); ++i) {
    const auto value = [&] { return words.at(++i); };
    if (words[i] == "--batch") {
      run.batch = std::stoi(value());
    } else if (words[i] == "--steps") {
      run.steps = std::stoi(value());
    } else if (words[i] == "--checkpointing") {
      run.gradient_checkpointing = true;
    } else if (words[i] == "--bf16") {
      run.dtype = ComputeType::bf16;
    } else if (words[i] == "--window") {
      window = std::stoi(value());
    } else if (words[i] == "--limit") {
      kernels::set_memory_limit(std::stoull(value()));
    } else {
      throw Error(Kind::usage, "unknown: " + words[i]);
    }
  }
  kernels::reset_peak_resident();
  const auto resident = static_cast<long long>(kernels::peak_resident());
  // Learned positions grow with the context, as in a recipe.
  auto config = resolve_model(Json::object({{"preset", Json(words.at(0))}}), 0, run.context);
  for (auto& block : config.layers)
    if (window) std::get<config::Attention>(block.mixer).window = window;
  LanguageModel model(config, 1);
  HostRandom random(1);
  std::vector<int32_t> ids(static_cast<size_t>(run.batch * (run.context + 1) + 1));
  for (auto& id : ids)
    id = static_cast<int32_t>(random.below(static_cast<uint32_t>(model.config().vocab)));
  const mx::array tokens(ids.data(), {static_cast<int>(ids.size())}, mx::int32);
  Trainer trainer(model, tokens, mx::array(ids.data(), {0}, mx::int32), options);
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  auto last = Clock::now();
  kernels::reset_peak();
  kernels::reset_peak_resident();
  const auto before = kernels::active_bytes();
  trainer.add(every(1, [&](Trainer&, StepMetrics&) {
    const auto now = Clock::now();
    seconds.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  }));
  trainer.run();
  if (seconds.size() > 2) seconds.erase(seconds.begin());  // which warms up
  std::sort(seconds.begin(), seconds.end());
  std::printf(
      "{\"context\": %d, \"batch\": %d, \"seconds\": %.4f, \"state_bytes\": %zu, "
      "\"peak_bytes\": %zu, \"resident_bytes_before\": %lld, \"peak_resident_bytes\": %lld}\n",
      run.context, run.batch, seconds[seconds.size() / 2], before, kernels::peak_bytes(), resident,
      static_cast<long long>(kernels::peak_resident()));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return measure({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_train_step: %s\n", e.what());
    return 1;
  }
}
