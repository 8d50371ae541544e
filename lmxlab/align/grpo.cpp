#include "lmxlab/align/grpo.h"

#include "lmxlab/align/policy.h"
#include "lmxlab/align/rollout.h"
#include "lmxlab/base/random.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/models/adapters.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace lmxlab::align {
namespace {

constexpr int kWidths = 16;  // rows are as wide as a multiple of it, so that few shapes are traced

void check(const GrpoConfig& c) {
  Problems problems;
  const auto at_least = [&](const char* name, auto value, int low) {
    if (!(value >= low))
      problems.add(std::string(name) + ": expected " + std::to_string(low) + " or more, got " +
                   Json(value).dump());
  };
  at_least("prompts", c.prompts, 1), at_least("group_size", c.group_size, 2);
  at_least("iterations", c.iterations, 1), at_least("max_rounds", c.max_rounds, 1);
  at_least("max_completion_length", c.max_completion_length, 1);
  at_least("rows_at_once", c.rows_at_once, 0);
  at_least("epsilon", c.epsilon, 0), at_least("epsilon_high", c.epsilon_high.value_or(0), 0);
  at_least("beta", c.beta, 0), at_least("drift_bound", c.drift_bound, 0);
  if (!(c.temperature > 0) || !std::isfinite(c.temperature))
    problems.add("temperature: expected a number above 0, got " + Json(c.temperature).dump());
  problems.raise(Kind::usage, "[grpo] options");
}

// Doubles to the bit, in two words each, as a checkpoint has them; what is missing stays.
struct Words {
  std::vector<uint32_t> all = {};
  bool reading = false;
  size_t at = 0;
  void operator()(const char*, double& value) {
    auto bits = std::bit_cast<uint64_t>(value);
    if (!reading) {
      all.push_back(static_cast<uint32_t>(bits >> 32)), all.push_back(static_cast<uint32_t>(bits));
    } else if (at + 2 <= all.size()) {
      bits = uint64_t{all[at]} << 32 | all[at + 1];
      value = std::bit_cast<double>(bits), at += 2;
    }
  }
};

// As many rows together as a rollout has, which is what was planned.
GrpoConfig as_a_rollout(GrpoConfig c) {
  if (c.rows_at_once == 0) c.rows_at_once = c.prompts * c.group_size;
  return c;
}

// The model as the reference for a scope.
class AsReference {
 public:
  AsReference(LanguageModel& model, const std::optional<core::Arrays>& frozen)
      : entries_(core::collect(model.transformer())) {
    if (frozen)
      lend_.emplace(entries_, *frozen);
    else
      off_.emplace(model);
  }

 private:
  std::vector<core::Entry> entries_;
  std::optional<core::Lend> lend_ = {};
  std::optional<AdaptersOff> off_ = {};
};

class Spread {  // mean and standard deviation of a sum
 public:
  void add(double x) { ++n_, sum_ += x, squares_ += x * x; }
  double mean() const { return n_ ? sum_ / n_ : 0; }
  double deviation() const {
    return n_ ? std::sqrt(std::max(0.0, squares_ / n_ - mean() * mean())) : 0;
  }

 private:
  double n_ = 0, sum_ = 0, squares_ = 0;
};

struct Group {
  std::vector<Row> rows;
  std::vector<float> rewards;
  bool spread() const {
    const auto [low, high] = std::minmax_element(rewards.begin(), rewards.end());
    return *low != *high;
  }
};

}  // namespace

struct Grpo::Impl {
  Impl(LanguageModel& m, const data::SampleTokenizer& t, data::SampleFile samples,
       std::shared_ptr<Reward> r, const GrpoConfig& c)
      : model(m),
        tokenizer(t.tokenizer()),
        prompts(std::move(samples), t),
        reward(std::move(r)),
        config(c),
        objective(grpo_objective(c)) {
    check(config);
    if (config.one_order) expect_one_order(model);
    order.emplace(config.one_order);
    if (config.beta == 0 || !adapters_of(model).empty()) return;
    const Enter enter(model.runtime());
    reference = core::values(core::collect(model.transformer()));
    mx::eval(*reference);
  }

  int rows_of_rollout() const { return config.prompts * config.group_size; }
  int64_t batches_of_pass() const { return rows_of_rollout() / batch; }
  int64_t batches_of_rollout() const { return batches_of_pass() * config.iterations; }

  data::Batch next() {
    if (rollouts == 0 || given == batches_of_rollout()) sample();
    std::vector<const Row*> some;
    for (const size_t r : rows_of_batch(given)) some.push_back(&rows[r]);
    auto out = batch_of(some, width());
    std::vector<float> advantages;
    for (const auto* r : some) advantages.push_back(r->advantage);
    const std::vector<float> fresh(some.size(), given < accumulate ? 1.0f : 0.0f);
    const auto numbers = [](const std::vector<float>& v) {
      return mx::array(v.begin(), {static_cast<int>(v.size())});
    };
    Beside beside{numbers(advantages), beside_tokens(some, &Row::old_logprobs, width()),
                  numbers(fresh), std::nullopt};
    if (config.beta != 0) beside.ref_logprobs = beside_tokens(some, &Row::ref_logprobs, width());
    out.beside = beside.arrays();
    ++given;
    return out;
  }

  // The rows of the i-th batch of this rollout: each pass has an order of its own.
  std::vector<size_t> rows_of_batch(int64_t i) const {
    std::vector<size_t> all(rows.size());
    std::iota(all.begin(), all.end(), size_t{0});
    const int64_t pass = (rollouts - 1) * config.iterations + i / batches_of_pass();
    HostRandom random(config.seed + 1, static_cast<uint64_t>(pass));
    for (size_t n = all.size(); n > 1; --n) std::swap(all[n - 1], all[random.below(n)]);
    const auto first = all.begin() + i % batches_of_pass() * batch;
    return {first, first + batch};
  }

  int width() const {
    size_t longest = 0;
    for (const auto& r : rows) longest = std::max(longest, r.ids.size() - 1);
    const int wide = (static_cast<int>(longest) + kWidths - 1) / kWidths * kWidths;
    const auto* learned = std::get_if<config::Learned>(&model.config().position);
    return learned ? std::min(wide, learned->length) : wide;
  }

  // A new rollout, with all that is to be known of it.
  void sample() {
    RolloutStats now;
    Tally tally;
    std::vector<Group> groups, flat;
    HostRandom seeds(config.seed, static_cast<uint64_t>(rollouts));
    const auto wanted = static_cast<size_t>(config.prompts);
    for (int round = 0; round < (config.dynamic_sampling ? config.max_rounds : 1); ++round) {
      for (auto& g : sampled(wanted - groups.size(), seeds.next(), tally)) {
        const bool left_out = config.dynamic_sampling && !g.spread();
        (left_out ? flat : groups).push_back(std::move(g));
      }
      if (groups.size() == wanted) break;
    }
    for (; groups.size() < wanted; flat.pop_back()) groups.push_back(std::move(flat.back()));
    ++rollouts, given = 0;
    rows.clear();
    std::vector<float> rewards;
    for (auto& g : groups) {
      for (auto& r : g.rows) rows.push_back(std::move(r));
      rewards.insert(rewards.end(), g.rewards.begin(), g.rewards.end());
    }
    give_advantages(rewards);
    if (!config.one_order) recompute(now);
    if (config.beta != 0) {
      const Enter enter(model.runtime());
      const AsReference as(model, reference);
      evaluate(&Row::ref_logprobs);
    }
    now.reward = tally.rewards.mean(), now.reward_std = tally.rewards.deviation();
    now.success = tally.success.mean(), now.truncated = tally.truncated.mean();
    now.length = tally.length.mean(), now.longest = tally.longest;
    now.entropy = -tally.logprobs.mean();
    now.groups_without_spread = tally.flat.mean();
    stats = now;
  }

  struct Tally {
    Spread rewards, success, truncated, length, logprobs, flat;
    double longest = 0;
  };

  std::vector<Group> sampled(size_t count, uint64_t seed, Tally& tally) {
    std::vector<std::vector<int>> texts;
    std::vector<size_t> which;
    for (size_t i = 0; i < count; ++i) {
      which.push_back(prompts.drawn(drawn++, config.seed));
      texts.push_back(prompts.ids[which.back()]);
    }
    auto options = generation(config, tokenizer, false);
    options.sampling.seed = seed;
    const auto written = write(model, texts, config.group_size, config, options, tokenizer);
    std::vector<Completion> completions;
    const auto each = static_cast<size_t>(config.group_size);
    for (size_t i = 0; i < written.size(); ++i)
      completions.push_back(
          completion(prompts.file.samples[prompts.sample[which[i / each]]], written[i]));
    const auto rewards = (*reward)(completions);
    if (rewards.size() != completions.size())
      throw Error(Kind::usage, "[grpo] the reward: expected " + std::to_string(completions.size()) +
                                   " numbers, got " + std::to_string(rewards.size()));
    std::vector<Group> out(count);
    for (size_t i = 0; i < written.size(); ++i) {
      if (!std::isfinite(rewards[i]))
        throw Error(Kind::bad_data, "[grpo] the reward: expected finite numbers, got " +
                                        std::to_string(rewards[i]));
      const auto& c = completions[i];
      tally.rewards.add(rewards[i]), tally.success.add(rewards[i] >= config.success_reward);
      tally.truncated.add(!c.ended), tally.length.add(c.tokens);
      tally.longest = std::max<double>(tally.longest, c.tokens);
      for (const float p : written[i].logprobs) tally.logprobs.add(static_cast<double>(p));
      Row row;
      row.ids.assign(texts[i / each].begin(), texts[i / each].end());
      row.prompt = static_cast<int>(row.ids.size());
      row.ids.insert(row.ids.end(), written[i].tokens.begin(), written[i].tokens.end());
      row.learned = c.ended || !config.mask_truncated;
      row.old_logprobs = written[i].logprobs;
      out[i / each].rows.push_back(std::move(row));
      out[i / each].rewards.push_back(static_cast<float>(rewards[i]));
    }
    for (const auto& g : out) tally.flat.add(!g.spread());
    return out;
  }

  void give_advantages(const std::vector<float>& rewards) {
    const Enter enter(model.runtime());
    const mx::array all(rewards.begin(), {static_cast<int>(rewards.size())});
    const auto a = to_vector<float>(
        objectives::group_advantages(all, config.group_size, config.scale_rewards));
    for (size_t i = 0; i < rows.size(); ++i) rows[i].advantage = a[i];
  }

  // Log-probabilities of all rows, in the batches of the first pass.
  void evaluate(std::vector<float> Row::*to) {
    for (int64_t i = 0; i < batches_of_pass(); ++i) {
      std::vector<const Row*> some;
      std::vector<Row*> same;
      for (const size_t r : rows_of_batch(i)) some.push_back(&rows[r]), same.push_back(&rows[r]);
      auto b = batch_of(some, width());
      // Also of completions that are masked: what is saved has a number a token.
      b.loss = mx::not_equal(b.targets, mx::array(-1));
      core::Pass pass;
      pass.dtype = compute;
      take_tokens(
          policy_logprobs(model.transformer(), b, pass, static_cast<float>(config.temperature)),
          same, to);
    }
  }

  // Without one order of sums: what a step will compute, beside what the engine said.
  void recompute(RolloutStats& now) {
    const Enter enter(model.runtime());
    std::vector<std::vector<float>> said;
    for (const auto& r : rows) said.push_back(r.old_logprobs);
    evaluate(&Row::old_logprobs);
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < said[r].size(); ++i) {
        const auto d = std::abs(static_cast<double>(said[r][i] - rows[r].old_logprobs[i]));
        now.drift_max = std::max(now.drift_max, d);
        if (!(d <= config.drift_bound)) now.drifted += 1;
      }
    }
  }

  // The position counts batches of all rollouts.
  data::BatchPosition position() const {
    return {drawn / static_cast<int64_t>(prompts.ids.size()),
            rollouts == 0 ? 0 : (rollouts - 1) * batches_of_rollout() + given};
  }
  void restore(const data::BatchPosition& p) {
    const int64_t at = rollouts == 0 ? p.batch : p.batch - (rollouts - 1) * batches_of_rollout();
    if (at < 0 || at > (rollouts == 0 ? 0 : batches_of_rollout()))
      throw Error(Kind::mismatch, "[grpo] batch " + std::to_string(p.batch) +
                                      " is not of the rollout under way. Resume with the "
                                      "checkpoint's own arrays, and the recipe it had.");
    given = at;
  }
  std::map<std::string, mx::array> arrays() const {
    if (rollouts == 0) return {};
    auto out = given < batches_of_rollout() ? to_arrays(rows) : std::map<std::string, mx::array>();
    const std::vector<int32_t> counts{static_cast<int32_t>(rollouts), static_cast<int32_t>(drawn)};
    out.emplace("counts", mx::array(counts.begin(), {2}));
    Words words;
    auto now = stats;
    now.visit(words);
    out.emplace("stats", mx::array(words.all.begin(), {static_cast<int>(words.all.size())}));
    return out;
  }
  void resume(const data::BatchPosition& p, const std::map<std::string, mx::array>& saved) {
    const Enter enter(model.runtime());
    std::vector<int32_t> counts{0, 0};
    if (const auto it = saved.find("counts"); it != saved.end())
      counts = to_vector<int32_t>(it->second);
    auto of_file = saved.contains("ids") ? from_arrays(saved) : std::vector<Row>();
    RolloutStats then;
    if (const auto it = saved.find("stats"); it != saved.end()) {
      Words words{to_vector<uint32_t>(it->second), true};
      then.visit(words);
    }
    const bool over = counts.size() == 2 && p.batch == counts[0] * batches_of_rollout();
    const bool fits = counts.size() == 2 && counts[0] >= 0 && counts[1] >= 0 &&
                      (over || static_cast<int>(of_file.size()) == rows_of_rollout()) &&
                      (over || config.beta == 0 || saved.contains("ref_logprobs"));
    if (!fits)
      throw Error(Kind::mismatch,
                  "[grpo] the rollout that was saved does not fit this run. Resume "
                  "with the recipe and the samples that it had.");
    rollouts = counts[0], drawn = counts[1], rows = std::move(of_file), stats = then;
    restore(p);
  }

  LanguageModel& model;
  data::Tokenizer tokenizer;
  Prompts prompts;
  std::shared_ptr<Reward> reward;
  GrpoConfig config;
  std::shared_ptr<const Objective> objective;
  std::optional<core::Arrays> reference = {};   // where no adapters can be put off
  std::optional<kernels::OneOrder> order = {};  // also of the steps
  int batch = 0, accumulate = 1;
  mx::Dtype compute = mx::float32;
  int64_t rollouts = 0;  // made
  int64_t drawn = 0;     // prompts
  int64_t given = 0;     // batches of this rollout
  std::vector<Row> rows;
  RolloutStats stats;
};

namespace {

class Source : public data::BatchSource {
 public:
  explicit Source(std::shared_ptr<Grpo::Impl> impl) : impl_(std::move(impl)) {}
  data::Batch next() override { return impl_->next(); }
  data::BatchPosition position() const override { return impl_->position(); }
  void restore(const data::BatchPosition& p) override { impl_->restore(p); }
  std::map<std::string, mx::array> arrays() const override { return impl_->arrays(); }
  void resume(const data::BatchPosition& p,
              const std::map<std::string, mx::array>& arrays) override {
    impl_->resume(p, arrays);
  }

 private:
  std::shared_ptr<Grpo::Impl> impl_;
};

class Metrics : public Callback {
 public:
  explicit Metrics(std::shared_ptr<const Grpo::Impl> impl) : impl_(std::move(impl)) {}
  void on_step(Trainer&, StepMetrics& m) override {
    auto stats = impl_->stats;
    const auto tell = [&](const char* name, double value) { m.more[name] = value; };
    stats.visit(tell);
  }

 private:
  std::shared_ptr<const Grpo::Impl> impl_;
};

}  // namespace

Grpo::Grpo(LanguageModel& model, const data::SampleTokenizer& tokenizer, data::SampleFile samples,
           std::shared_ptr<Reward> reward, const GrpoConfig& config)
    : impl_(std::make_shared<Impl>(model, tokenizer, std::move(samples), std::move(reward),
                                   config)) {}
Grpo::~Grpo() = default;

TrainData Grpo::data(const RunConfig& run) {
  auto& s = *impl_;
  if (s.batch != 0) throw Error(Kind::usage, "[grpo] data: expected one call, got two");
  const int64_t update = int64_t{run.batch} * run.accumulate;
  if (update < 1 || s.rows_of_rollout() % update != 0)
    throw Error(Kind::usage,
                "[grpo] run.batch * run.accumulate: expected a divisor of prompts * group_size = " +
                    std::to_string(s.rows_of_rollout()) + ", got " + std::to_string(update));
  if (s.config.one_order && run.dtype != ComputeType::f32)
    throw Error(Kind::usage,
                "[grpo] run.dtype: one_order needs f32, got bf16. Set one_order to "
                "false.");
  s.batch = run.batch, s.accumulate = run.accumulate;
  s.compute = run.dtype == ComputeType::bf16 ? mx::bfloat16 : mx::float32;
  return {std::make_unique<Source>(impl_), {}};
}
std::shared_ptr<const Objective> Grpo::objective() const {
  return impl_->objective;
}
std::unique_ptr<Callback> Grpo::metrics() const {
  return std::make_unique<Metrics>(impl_);
}
const RolloutStats& Grpo::stats() const {
  return impl_->stats;
}

Score greedy_score(const LanguageModel& model, const data::SampleTokenizer& tokenizer,
                   const data::SampleFile& samples, Reward& reward, const GrpoConfig& config) {
  const Prompts prompts(samples, tokenizer);
  const auto written =
      write(model, prompts.ids, 1, as_a_rollout(config),
            generation(config, tokenizer.tokenizer(), true), tokenizer.tokenizer());
  std::vector<Completion> completions;
  for (size_t i = 0; i < written.size(); ++i)
    completions.push_back(completion(prompts.file.samples[prompts.sample[i]], written[i]));
  const auto rewards = reward(completions);
  Spread all, success, length;
  for (size_t i = 0; i < rewards.size(); ++i) {
    all.add(rewards[i]), success.add(rewards[i] >= config.success_reward);
    length.add(completions[i].tokens);
  }
  return {all.mean(), success.mean(), length.mean()};
}

}  // namespace lmxlab::align
