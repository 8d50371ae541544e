// GRPO over the trainer: what a rollout holds, that a resumed run goes on bit for bit, and that a
// tiny model learns arithmetic by it.
#include "lmxlab/align/grpo.h"

#include "lmxlab/align/policy.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/checkpoint.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <cstring>
#include <set>

namespace lmxlab::align {
namespace {

using test::error_of;

// "3+4=7." with a full stop as the end.
const char* const kLetters = "0123456789+=.";

data::SampleFile sums(int below = 10) {
  data::SampleFile file{"sums", data::SampleKind::answer, {}};
  for (int a = 0; a < below; ++a)
    for (int b = 0; b < below; ++b) {
      data::Sample s;
      s.kind = data::SampleKind::answer;
      s.prompt = Json(std::to_string(a) + "+" + std::to_string(b) + "=");
      s.answer = std::to_string(a + b);
      file.samples.push_back(s);
    }
  return file;
}
data::Tokenizer letters() {
  return data::Tokenizer::characters(kLetters);
}
data::SampleTokenizer tokenizer() {
  return data::SampleTokenizer(letters());
}
LanguageModel tiny(uint64_t seed = 1, int dim = 32) {
  auto c = config::preset("llama-tiny");
  config::Block block;
  block.mixer = config::Attention{.heads = 4, .kv_heads = 2, .head_dim = dim / 4};
  block.ffn = config::Mlp{.hidden = 3 * dim};
  c.dim = dim, c.vocab = letters().vocab_size(), c.context = 16, c.layers = {block, block};
  return LanguageModel(c, seed);
}
GrpoConfig small() {
  GrpoConfig c;
  c.prompts = 4, c.group_size = 4, c.max_completion_length = 4;
  c.stop_tokens = {*letters().token_id(".")};
  return c;
}
TrainOptions training(int64_t steps, int batch = 8, double lr = 1e-3) {
  TrainOptions o;
  o.optimizer.lr = lr;
  o.schedule.name = ScheduleName::constant;
  o.run.steps = steps, o.run.batch = batch, o.run.context = 16, o.run.eval_every = 0;
  return o;
}
// Something that any model gets some of.
std::shared_ptr<Reward> few_digits() {
  return reward_function([](const Completion& c) {
    double n = 0;
    for (const char x : c.text) n += x < '5';
    return n;
  });
}

struct Training {
  explicit Training(LanguageModel& m, const GrpoConfig& c, TrainOptions o,
                    std::shared_ptr<Reward> reward = few_digits())
      : grpo(m, tokenizer(), sums(), std::move(reward), c), options(std::move(o)) {
    options.objective = grpo.objective();
    trainer = std::make_unique<Trainer>(m, grpo.data(options.run), options);
    trainer->add(grpo.metrics());
    trainer->add(every(1, [this](Trainer&, StepMetrics& s) { steps.push_back(s); }));
  }
  Grpo grpo;
  TrainOptions options;
  std::unique_ptr<Trainer> trainer;
  std::vector<StepMetrics> steps;
};

std::vector<float> weights(LanguageModel& model) {
  const Enter enter(model.runtime());
  std::vector<float> out;
  for (const auto& e : core::collect(model.transformer())) {
    const auto v = to_vector<float>(e.param->value);
    out.insert(out.end(), v.begin(), v.end());
  }
  return out;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Grpo, ARolloutIsWhatItsRowsSay) {
  auto model = tiny();
  auto config = small();
  std::vector<Completion> seen;
  std::vector<std::string> asked;
  Grpo grpo(model, tokenizer(), sums(), reward_function([&](const Completion& c) {
              seen.push_back(c), asked.push_back(c.sample->prompt.as_string());
              return static_cast<double>(seen.size() % 3);
            }),
            config);
  RunConfig run;
  run.batch = 16;
  const auto data = grpo.data(run);
  const auto batch = data.train->next();
  ASSERT_EQ(seen.size(), 16u);
  const Enter enter(model.runtime());
  const auto inputs = to_vector<int32_t>(batch.inputs), targets = to_vector<int32_t>(batch.targets);
  const auto loss = to_vector<bool>(*batch.loss);
  const auto advantages = to_vector<float>(batch.beside[0]);
  const auto old = to_vector<float>(batch.beside[1]), fresh = to_vector<float>(batch.beside[2]);
  const size_t width = 16;
  ASSERT_EQ(inputs.size(), 16 * width);
  float sum = 0;
  int64_t tokens = 0;
  std::multiset<std::string> rows, expected;
  for (size_t r = 0; r < 16; ++r) {
    sum += advantages[r];
    EXPECT_EQ(fresh[r], 1);
    std::vector<int> text{inputs[r * width]}, answer;
    for (size_t i = 0; i < width; ++i) {
      if (i < 3 || loss[r * width + i]) text.push_back(targets[r * width + i]);
      EXPECT_FALSE(loss[r * width + i] && i < 3);
      EXPECT_EQ(loss[r * width + i], old[r * width + i] < 0) << r << " " << i;
      tokens += loss[r * width + i];
    }
    rows.insert(letters().decode(text));
    const auto& c = seen[r];
    expected.insert(asked[r] + c.text + (c.ended ? "." : ""));
  }
  EXPECT_EQ(rows, expected);
  EXPECT_NEAR(sum, 0, 1e-4);
  double length = 0;
  for (const auto& c : seen) length += c.tokens;
  EXPECT_EQ(static_cast<double>(tokens), length);
  EXPECT_DOUBLE_EQ(grpo.stats().length, length / 16);
  EXPECT_NEAR(grpo.stats().reward, (5 * 0 + 6 * 1 + 5 * 2) / 16.0, 1e-12);
}

TEST(Grpo, EveryPromptComesOnceBeforeOneComesAgain) {
  auto model = tiny();
  std::map<std::string, int> asked;
  Grpo grpo(model, tokenizer(), sums(), reward_function([&](const Completion& c) {
              ++asked[c.sample->prompt.as_string()];
              return 0.0;
            }),
            small());
  RunConfig run;
  run.batch = 16;
  const auto data = grpo.data(run);
  for (int i = 0; i < 25; ++i) data.train->next();
  EXPECT_EQ(asked.size(), 100u);
  for (const auto& [prompt, n] : asked) EXPECT_EQ(n, 4) << prompt;
  EXPECT_EQ(data.train->position(), (data::BatchPosition{1, 25}));
}

TEST(Grpo, FirstUpdatesHaveRatiosOfOneToTheBit) {
  for (const bool one_order : {true, false}) {
    auto model = tiny();
    auto config = small();
    config.one_order = one_order, config.temperature = 0.7, config.iterations = 2;
    Training run(model, config, training(8));
    run.trainer->run();
    ASSERT_EQ(run.steps.size(), 8u);
    for (const auto& s : run.steps) {
      EXPECT_EQ(s.more.at("mismatch"), 0) << "step " << s.step;
      if (one_order) {
        EXPECT_EQ(s.more.at("drifted"), 0);
      } else {
        EXPECT_LT(s.more.at("drift_max"), 1e-4);
        EXPECT_EQ(s.more.at("drifted"), 0);
      }
    }
  }
}

// The counter must be able to count.
TEST(Grpo, AnotherPolicyIsAMismatch) {
  auto model = tiny();
  auto config = small();
  config.temperature = 0.7;
  Grpo grpo(model, tokenizer(), sums(), few_digits(), config);
  RunConfig run;
  run.batch = 16;
  auto batch = grpo.data(run).train->next();
  const Enter enter(model.runtime());
  const auto share = [&](float temperature) {
    auto c = config;
    c.temperature = static_cast<double>(temperature);
    core::Pass pass;
    auto v = (*grpo_objective(c))(model.transformer(), batch, pass);
    return v.metrics[3].item<float>() / v.units.item<float>();
  };
  EXPECT_EQ(share(0.7f), 0);
  EXPECT_GT(share(0.7001f), 0.5);
}

TEST(Grpo, GroupsWithoutSpreadAreReplaced) {
  auto model = tiny();
  auto config = small();
  config.dynamic_sampling = true, config.max_rounds = 10;
  int n = 0;  // every other group has one good completion
  Grpo grpo(model, tokenizer(), sums(),
            reward_function([&](const Completion&) { return n++ % 8 == 0 ? 1.0 : 0.0; }), config);
  RunConfig run;
  run.batch = 16;
  const auto data = grpo.data(run);
  const auto batch = data.train->next();
  const Enter enter(model.runtime());
  for (const float a : to_vector<float>(batch.beside[0])) EXPECT_NE(a, 0);
  EXPECT_EQ(n, 4 * (4 + 2 + 1)) << "each round half of the groups";
  EXPECT_DOUBLE_EQ(grpo.stats().groups_without_spread, 3 / 7.0);
}

TEST(Grpo, RoundsEndAndWhatIsMissingHasNoAdvantage) {
  auto model = tiny();
  auto config = small();
  config.dynamic_sampling = true, config.max_rounds = 3;
  int n = 0;
  Grpo grpo(model, tokenizer(), sums(), reward_function([&](const Completion&) {
              ++n;
              return 1.0;
            }),
            config);
  RunConfig run;
  run.batch = 16;
  const auto batch = grpo.data(run).train->next();
  EXPECT_EQ(n, 3 * 16);
  const Enter enter(model.runtime());
  for (const float a : to_vector<float>(batch.beside[0])) EXPECT_EQ(a, 0);
}

TEST(Grpo, TruncatedCompletionsAreMasked) {
  auto model = tiny();
  auto config = small();
  config.mask_truncated = true;
  std::vector<bool> ended;
  std::vector<int> lengths;
  Grpo grpo(model, tokenizer(), sums(), reward_function([&](const Completion& c) {
              ended.push_back(c.ended), lengths.push_back(c.tokens);
              return 0.0;
            }),
            config);
  RunConfig run;
  run.batch = 16;
  const auto batch = grpo.data(run).train->next();
  const Enter enter(model.runtime());
  int expected = 0, cut = 0;
  for (size_t i = 0; i < ended.size(); ++i) expected += ended[i] ? lengths[i] : 0, cut += !ended[i];
  ASSERT_GT(cut, 0);
  EXPECT_EQ(mx::sum(mx::astype(*batch.loss, mx::int32)).item<int>(), expected);
  EXPECT_DOUBLE_EQ(grpo.stats().truncated, cut / 16.0);
}

TEST(Grpo, TheReferenceIsTheBaseOrTheFirstWeights) {
  for (const bool adapters : {true, false}) {
    auto model = tiny();
    if (adapters) attach_adapter(model, {.rank = 4});
    auto config = small();
    config.beta = 0.1;
    Training run(model, config, training(6, 8, 3e-3));
    std::vector<double> kl;
    run.trainer->run();
    for (const auto& s : run.steps) {
      kl.push_back(s.more.at("kl"));
      EXPECT_EQ(s.more.at("mismatch"), 0);
    }
    EXPECT_EQ(kl[0], 0) << "the policy is the reference, to the bit";
    EXPECT_GT(kl[2], 0);
    EXPECT_GT(kl[5], kl[2]);
    for (const auto& a : adapters_of(model)) EXPECT_TRUE(a.on);
  }
}

TEST(Grpo, PolicyAndReferenceShareTheBase) {
  auto model = tiny();
  attach_adapter(model, {.rank = 4});
  auto config = small();
  config.beta = 0.1;
  const auto base = [&] {
    const Enter enter(model.runtime());
    std::vector<const void*> out;
    for (const auto& e : core::collect(model.transformer()))
      if (!e.param->trainable) mx::eval(e.param->value), out.push_back(e.param->value.data<void>());
    return out;
  };
  const auto before = base();
  Training run(model, config, training(4));
  run.trainer->run();
  EXPECT_EQ(base(), before);
}

TEST(Grpo, RowsAtOnceAreNoMatter) {
  std::vector<std::vector<float>> ends;
  for (const int rows : {0, 3, 16}) {
    auto model = tiny();
    auto config = small();
    config.rows_at_once = rows;
    Training run(model, config, training(6));
    run.trainer->run();
    ends.push_back(weights(model));
  }
  EXPECT_TRUE(same_bits(ends[0], ends[1]));
  EXPECT_TRUE(same_bits(ends[0], ends[2]));
}

// QLoRA, experts, recurrent layers; groups in parts, whose prompt is read once.
TEST(Grpo, RolloutsOfEveryKindOfModelAreWhatTrainingComputes) {
  const std::vector<std::pair<const char*, int>> models{
      {"llama-tiny", 4}, {"mixtral-tiny", 0},    {"mixtral-tiny", 4}, {"mamba2-tiny", 0},
      {"rwkv-tiny", 0},  {"qwen3-next-tiny", 4}, {"lfm2-tiny", 0}};
  for (const auto& [name, bits] : models) {
    std::vector<std::vector<float>> ends;
    for (const int rows : {0, 3}) {
      auto c = config::preset(name);
      c.vocab = letters().vocab_size();
      LanguageModel model(c, 1);
      if (bits)
        quantize_model(model, {.bits = bits, .group_size = 32}), attach_adapter(model, {.rank = 4});
      auto config = small();
      config.temperature = 0.7, config.iterations = 2, config.rows_at_once = rows;
      Training run(model, config, training(6, 8, 3e-3));
      run.trainer->run();
      double moved = 0;
      for (const auto& s : run.steps) {
        EXPECT_EQ(s.more.at("mismatch"), 0) << name << " of " << bits << " bits, step " << s.step;
        moved += s.grad_norm;
      }
      EXPECT_GT(moved, 0) << name;
      if (!bits) ends.push_back(weights(model));
    }
    EXPECT_TRUE(bits || same_bits(ends[0], ends[1])) << name;
  }
}

class GrpoResumes : public testing::TestWithParam<int> {};
TEST_P(GrpoResumes, BitForBit) {
  auto config = small();
  config.iterations = 2, config.beta = 0.05, config.temperature = 0.9;
  config.dynamic_sampling = true, config.max_rounds = 2;
  const auto options = training(11);  // four updates a rollout
  auto model = tiny();
  Training whole(model, config, options);
  whole.trainer->run();

  const test::TemporaryFolder folder;
  const int at = GetParam();
  {
    auto first = tiny();
    Training run(first, config, options);
    run.trainer->add(every(at, [](Trainer& t, StepMetrics&) { t.stop("enough"); }));
    run.trainer->run();
    RunFolder(folder.path()).save(*run.trainer, first, "same", 1);
  }
  auto second = tiny();
  Training run(second, config, options);
  const RunFolder saved(folder.path());
  saved.load(saved.checkpoints().back(), second, *run.trainer, "same");
  EXPECT_EQ(run.trainer->state().step, at);
  run.trainer->run();
  ASSERT_EQ(run.steps.size(), static_cast<size_t>(11 - at));
  for (const auto& s : run.steps) {
    const auto& other = whole.steps[static_cast<size_t>(s.step - 1)];
    EXPECT_EQ(s.loss, other.loss) << "step " << s.step;
    EXPECT_EQ(s.grad_norm, other.grad_norm) << "step " << s.step;
    EXPECT_EQ(s.more, other.more) << "step " << s.step;
  }
  EXPECT_TRUE(same_bits(weights(second), weights(model)));
}
INSTANTIATE_TEST_SUITE_P(At, GrpoResumes, testing::Values(1, 3, 4, 6, 8));

TEST(Grpo, AnotherRecipesCheckpointIsRefused) {
  auto model = tiny();
  Training run(model, small(), training(1));
  run.trainer->run();
  const auto arrays = run.trainer->state_arrays();
  auto config = small();
  config.prompts = 8;
  auto other = tiny();
  Training next(other, config, training(1));
  EXPECT_EQ(error_of([&] { next.trainer->restore(arrays, run.trainer->state()); }).kind(),
            Kind::mismatch);
}

TEST(Grpo, OptionsOutOfRangeAreNamed) {
  auto model = tiny();
  const auto refused = [&](auto change) {
    auto config = small();
    change(config);
    return error_of([&] { Grpo(model, tokenizer(), sums(), few_digits(), config); });
  };
  const auto e = refused([](GrpoConfig& c) { c.group_size = 1, c.temperature = 0; });
  EXPECT_EQ(e.kind(), Kind::usage);
  EXPECT_NE(std::string(e.what()).find("group_size"), std::string::npos);
  EXPECT_NE(std::string(e.what()).find("temperature"), std::string::npos);
  auto texts = sums();
  texts.kind = data::SampleKind::text;
  EXPECT_EQ(error_of([&] { Grpo(model, tokenizer(), texts, few_digits(), small()); }).kind(),
            Kind::usage);
  Grpo grpo(model, tokenizer(), sums(), few_digits(), small());
  RunConfig run;
  run.batch = 5;
  EXPECT_EQ(error_of([&] { grpo.data(run); }).kind(), Kind::usage);
  run.batch = 4, run.dtype = ComputeType::bf16;
  EXPECT_EQ(error_of([&] { grpo.data(run); }).kind(), Kind::usage);
  const auto config = from_json<GrpoConfig>(
      Json::parse(R"({"loss_type": "dr_grpo", "scale_rewards": "none", "epsilon_high": 0.28})"),
      "grpo");
  EXPECT_EQ(config.loss_type, objectives::GrpoLossType::dr_grpo);
}

TEST(Grpo, EveryVariantTrains) {
  using namespace objectives;
  const auto with = [](auto change) {
    auto c = small();
    c.iterations = 2;
    change(c);
    return c;
  };
  const std::vector<GrpoConfig> configs{
      with([](auto& c) { c.loss_type = GrpoLossType::grpo, c.beta = 0.04; }),
      with([](auto& c) { c.epsilon_high = 0.28, c.dynamic_sampling = true; }), with([](auto& c) {
        c.loss_type = GrpoLossType::dr_grpo, c.scale_rewards = AdvantageScale::none;
      }),
      with([](auto& c) {
        c.importance_sampling_level = ImportanceSampling::sequence;
        c.loss_type = GrpoLossType::grpo, c.scale_rewards = AdvantageScale::batch;
      })};
  for (const auto& c : configs) {
    auto model = tiny();
    Training run(model, c, training(40, 16, 5e-3));
    run.trainer->run();
    EXPECT_GT(run.steps.back().more.at("reward"), run.steps.front().more.at("reward") + 0.5);
    EXPECT_EQ(run.steps.back().more.at("mismatch"), 0);
  }
}

// A model that knows the form of sums and few of their values learns the values from right and
// wrong alone.
TEST(Grpo, LearnsToAdd) {
  auto model = tiny(1, 64);
  const auto file = sums();
  std::string texts;
  HostRandom random(3);
  for (int i = 0; i < 4000; ++i) {  // mostly wrong: the right value stands among others
    const int a = static_cast<int>(random.below(10)), b = static_cast<int>(random.below(10));
    const int c = std::max(0, a + b + static_cast<int>(random.below(7)) - 3);
    texts += std::to_string(a) + "+" + std::to_string(b) + "=" + std::to_string(c) + ".";
  }
  {
    TrainOptions o = training(300, 16, 3e-3);
    Trainer(model, letters().encode(texts), mx::array({}, mx::int32), o).run();
  }
  GrpoConfig config;
  config.prompts = 16, config.group_size = 8, config.max_completion_length = 4;
  config.stop_tokens = {*letters().token_id(".")};
  config.epsilon_high = 0.28, config.seed = 5;
  const auto right = make_reward(RewardConfig{ExactMatch{}, 1});
  const auto before = greedy_score(model, tokenizer(), file, *right, config);
  Grpo grpo(model, tokenizer(), file, right, config);
  auto options = training(700, 128, 1e-3);
  options.schedule.name = ScheduleName::linear;
  options.objective = grpo.objective();
  Trainer trainer(model, grpo.data(options.run), options);
  trainer.add(grpo.metrics());
  double mismatch = 0, first = 0, last = 0;
  trainer.add(every(1, [&](Trainer&, StepMetrics& m) {
    mismatch += m.more.at("mismatch");
    if (m.step == 1) first = m.more.at("success");
    last = m.more.at("success");
  }));
  trainer.run();
  const auto after = greedy_score(model, tokenizer(), file, *right, config);
  RecordProperty("greedy_before", std::to_string(before.success));
  RecordProperty("greedy_after", std::to_string(after.success));
  EXPECT_LT(first, 0.3);
  EXPECT_LT(before.success, 0.4);
  EXPECT_GT(last, 0.8);
  EXPECT_GT(after.success, 0.9);
  EXPECT_EQ(mismatch, 0);
}

}  // namespace
}  // namespace lmxlab::align
