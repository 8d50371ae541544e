// Training of adapters alone: the base stays to the bit, and the optimizer knows nothing of it.
#include "lmxlab/models/adapters.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/trainer.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab {
namespace {

// Each token is a function of the one before, with some noise.
mx::array tokens(int n, int factor) {
  HostRandom random(3);
  std::vector<int32_t> ids{0};
  while (static_cast<int>(ids.size()) < n)
    ids.push_back(random.below(10) == 0 ? static_cast<int32_t>(random.below(11))
                                        : (ids.back() * factor + 1) % 11);
  return mx::array(ids.data(), {n}, mx::int32);
}
TrainOptions options(int64_t steps) {
  TrainOptions o;
  o.optimizer.lr = 1e-2;
  o.run.steps = steps, o.run.batch = 4, o.run.context = 16, o.run.eval_every = 0, o.run.seed = 5;
  return o;
}
std::vector<std::vector<uint8_t>> base_bytes(LanguageModel& model) {
  const Enter enter(model.runtime());
  std::vector<std::vector<uint8_t>> out;
  for (const auto& e : core::collect(model.transformer())) {
    if (e.path.find(".adapter.") != e.path.npos) continue;
    auto v = mx::contiguous(e.param->value);
    v.eval();
    const auto* p = v.data<uint8_t>();
    out.emplace_back(p, p + v.nbytes());
  }
  return out;
}

struct Case {
  const char* name;
  int bits;
  bool dora, checkpointing;
  float dropout;
};
class TrainAdapters : public testing::TestWithParam<Case> {};

TEST_P(TrainAdapters, LearnAnotherTaskBesideAFrozenBase) {
  const auto& c = GetParam();
  LanguageModel model(
      config::preset("llama-tiny",
                     {.dim = 32, .heads = 4, .kv_heads = 2, .hidden = 64, .vocab = 11}),
      1);
  Trainer(model, tokens(4000, 3), tokens(0, 3), options(100)).run();
  if (c.bits) quantize_model(model, {.bits = c.bits, .group_size = 32});
  attach_adapter(model, {.rank = 8, .alpha = 16, .dora = c.dora, .dropout = c.dropout});
  const auto before = base_bytes(model);
  auto o = options(150);
  o.run.gradient_checkpointing = c.checkpointing;
  Trainer trainer(model, tokens(4000, 5), tokens(400, 5), o);
  const double start = *trainer.validate();
  const auto result = trainer.run();
  EXPECT_GT(start, 2);
  EXPECT_LT(*result.val_loss, c.dropout > 0 ? 1.5 : 1.2);
  EXPECT_EQ(base_bytes(model), before);
  // AdamW's two moments of A and B, and of DoRA's lengths; nothing of what is frozen.
  size_t parts = 0, arrays = 0;
  for (const auto& e : core::collect(model.transformer()))
    parts += e.path.find(".adapter.") != e.path.npos;
  for (const auto& [name, array] : trainer.state_arrays()) {
    if (!name.starts_with("optimizer.")) continue;
    EXPECT_NE(name.find(".adapter."), name.npos) << name;
    ++arrays;
  }
  EXPECT_EQ(arrays, 2 * parts);
  use_adapters(model, {});
  const auto off = Trainer(model, tokens(1000, 3), tokens(400, 3), options(1)).validate();
  EXPECT_LT(*off, 1.2);  // what it could, it still can
}

INSTANTIATE_TEST_SUITE_P(Kinds, TrainAdapters,
                         testing::Values(Case{"lora", 0, false, false, 0},
                                         Case{"qlora", 4, false, false, 0},
                                         Case{"dora", 0, true, false, 0},
                                         Case{"qdora", 8, true, true, 0},
                                         Case{"dropout", 0, false, true, 0.1f}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace lmxlab
