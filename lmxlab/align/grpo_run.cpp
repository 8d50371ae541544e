#include "lmxlab/align/grpo_run.h"

#include "lmxlab/align/policy.h"
#include "lmxlab/align/rollout.h"
#include "lmxlab/base/files.h"
#include "lmxlab/inference/reward_model.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/plan/closed.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab::align {
namespace {

// GRPO's own metrics, and now and then how held-out questions are answered.
class WithHeldOut : public Callback {
 public:
  WithHeldOut(std::unique_ptr<Callback> own, const Recipe& recipe, const RunData& data,
              std::shared_ptr<Reward> reward)
      : own_(std::move(own)),
        recipe_(recipe),
        config_(grpo_config(recipe)),
        tokenize_(*data.tokenize),
        questions_(data.held_out_questions),
        reward_(std::move(reward)) {}
  void on_begin(Trainer& t) override { own_->on_begin(t); }
  void on_step(Trainer& t, StepMetrics& m) override {
    own_->on_step(t, m);
    const auto every = recipe_.run.eval_every;
    const bool now = m.step == recipe_.run.steps || (every > 0 && m.step % every == 0);
    if (!now || !questions_) return;
    const auto score = greedy_score(t.model(), tokenize_, *questions_, *reward_, config_);
    m.more["val_success"] = score.success, m.more["val_reward"] = score.reward;
  }
  void on_end(Trainer& t, const StepMetrics& m) override { own_->on_end(t, m); }

 private:
  std::unique_ptr<Callback> own_;
  Recipe recipe_;
  GrpoConfig config_;
  data::SampleTokenizer tokenize_;
  std::optional<data::SampleFile> questions_;
  std::shared_ptr<Reward> reward_;
};

class Method : public RunMethod {
 public:
  Method(LanguageModel& model, const Recipe& recipe, const RunData& data)
      : recipe_(recipe),
        data_(data),
        reward_(recipe_reward(recipe)),
        grpo_(model, *data.tokenize, *data.questions, reward_, grpo_config(recipe)) {}
  TrainData data(const RunConfig& run) override { return grpo_.data(run); }
  std::shared_ptr<const Objective> objective() const override { return grpo_.objective(); }
  std::unique_ptr<Callback> metrics() override {
    return std::make_unique<WithHeldOut>(grpo_.metrics(), recipe_, data_, reward_);
  }

 private:
  Recipe recipe_;
  RunData data_;
  std::shared_ptr<Reward> reward_;
  Grpo grpo_;
};

}  // namespace

GrpoConfig grpo_config(const Recipe& recipe) {
  if (recipe.grpo.is_null()) return {};
  return from_json<GrpoConfig>(recipe.grpo, "[recipe] grpo", Kind::usage);
}

std::vector<RewardConfig> reward_configs(const Recipe& recipe) {
  std::vector<RewardConfig> all;
  for (const auto& r : recipe.rewards.as_array())
    all.push_back(from_json<RewardConfig>(r, "[recipe] rewards", Kind::usage));
  return all;
}

std::shared_ptr<Reward> recipe_reward(const Recipe& recipe) {
  return make_reward(reward_configs(recipe));
}

namespace {

// @param length  tokens of the longest prompt and completion, @param most  completions at a time
Judging judging(const Recipe& recipe, int length, int most) {
  Judging out;
  const auto policy = recipe.adapter ? trained_weights(recipe.model) : std::nullopt;
  for (const auto& r : reward_configs(recipe)) {
    const auto* judge = std::get_if<Judge>(&r.reward);
    if (!judge || judge->model.empty()) continue;
    const fs::path folder(judge->model);
    const auto model = load_with_adapter(folder);  // maps it, no more
    out.mapped += model.parameter_bytes();
    std::error_code ignored;
    if (policy && fs::exists(folder / "adapter_config.json", ignored))
      if (const auto base = base_of_adapter(folder); fs::equivalent(base, *policy, ignored))
        out.mapped -= LanguageModel::load(base).parameter_bytes();
    plan::Settings s;
    s.context = length;
    s.batch = std::clamp(kScoredPositions / length, 1, most);
    const auto pass = plan::estimate(model.config(), s, 4);
    out.reading = std::max(out.reading, pass.kv_cache + pass.activations);
  }
  return out;
}

}  // namespace

std::unique_ptr<RunMethod> grpo_method(LanguageModel& model, const Recipe& recipe,
                                       const RunData& data) {
  return std::make_unique<Method>(model, recipe, data);
}

TrainSubject grpo_subject(const RunParts& parts, const Recipe& recipe) {
  auto out = parts.subject;
  const auto config = grpo_config(recipe);
  const Prompts prompts(*parts.data.questions, *parts.data.tokenize);
  int longest = 1;
  for (const auto& ids : prompts.ids) longest = std::max(longest, static_cast<int>(ids.size()));
  const auto all = static_cast<size_t>(config.prompts * config.group_size);
  const Parts texts(config, config.group_size, all);
  out.writes = Writing{static_cast<int>(texts.rows), config.group_size, longest,
                       config.max_completion_length, static_cast<float>(config.temperature)};
  out.judges =
      judging(recipe, longest + config.max_completion_length, config.prompts * config.group_size);
  out.one_order = config.one_order;
  out.keeps_first = config.beta != 0 && !recipe.adapter;
  constexpr int kWidths = 16;  // as Grpo's batches
  const int width = (longest + config.max_completion_length - 1 + kWidths - 1) / kWidths * kWidths;
  out.objective = grpo_objective(config);
  out.batch = [width, reference = config.beta != 0](const RunConfig& run) {
    const auto zeros = [&](mx::Shape shape, mx::Dtype type) {
      auto a = mx::zeros(std::move(shape), type);
      a.eval();
      return a;
    };
    const int rows = run.batch;
    data::Batch batch{zeros({rows, width}, mx::int32), zeros({rows, width}, mx::int32),
                      zeros({rows, width}, mx::bool_)};
    Beside beside{zeros({rows}, mx::float32), zeros({rows, width}, mx::float32),
                  zeros({rows}, mx::float32), std::nullopt};
    if (reference) beside.ref_logprobs = zeros({rows, width}, mx::float32);
    batch.beside = beside.arrays();
    return batch;
  };
  return out;
}

}  // namespace lmxlab::align
