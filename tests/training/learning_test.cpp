// What each mixer is said to be able to learn: small models on made-up tasks, a few seconds each.
#include "lmxlab/base/random.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/step.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>

namespace lmxlab {
namespace {

constexpr int kRows = 32;

/// A text and which of its tokens can be known from those before.
struct Example {
  std::vector<int32_t> tokens;
  std::vector<bool> known;
  void add(int token, bool is_known = false) { tokens.push_back(token), known.push_back(is_known); }
};
struct Task {
  int vocab;
  std::function<Example(HostRandom&)> draw;  // all of one length
};

int below(HostRandom& random, int n) {
  return static_cast<int>(random.below(static_cast<uint64_t>(n)));
}

/// Random tokens, a mark, the same tokens once more.
Task copying(int letters, int length) {
  return {letters + 1, [=](HostRandom& random) {
            Example e;
            for (int i = 0; i < length; ++i) e.add(below(random, letters));
            e.add(letters);
            for (int i = 0; i < length; ++i) e.add(e.tokens[static_cast<size_t>(i)], true);
            return e;
          }};
}
/// Two tokens that come together once come together again (arXiv:2209.11895).
Task induction(int letters, int length) {
  return {letters, [=](HostRandom& random) {
            Example e;
            std::vector<int> after(static_cast<size_t>(letters), -1);
            int last = below(random, letters);
            e.add(last);
            for (int i = 1; i < length; ++i) {
              auto& next = after[static_cast<size_t>(last)];
              const bool known = next >= 0;
              if (!known) next = below(random, letters);
              last = next;
              e.add(last, known);
              // A cycle would go on for ever: now and then another letter comes.
              if (known && below(random, 3) == 0 && i + 1 < length) {
                last = below(random, letters), ++i;
                e.add(last);
              }
            }
            return e;
          }};
}
/// a + b = c of numbers below p, all of them.
Task addition(int p) {
  return {p + 1, [=](HostRandom& random) {
            Example e;
            const int a = below(random, p), b = below(random, p);
            e.add(a), e.add(b), e.add(p), e.add((a + b) % p, true);
            return e;
          }};
}
/// Keys with values, then one of the keys: its value is the needle (arXiv:2312.04927).
Task recall(int keys, int values, int pairs) {
  return {keys + values, [=](HostRandom& random) {
            Example e;
            std::vector<int> order(static_cast<size_t>(keys));
            std::iota(order.begin(), order.end(), 0);
            for (int i = 0; i < pairs; ++i)
              std::swap(order[static_cast<size_t>(i)],
                        order[static_cast<size_t>(i + below(random, keys - i))]);
            std::vector<int> value;
            for (int i = 0; i < pairs; ++i) {
              value.push_back(keys + below(random, values));
              e.add(order[static_cast<size_t>(i)]), e.add(value.back());
            }
            for (int i = 0; i < pairs; ++i) {
              const auto asked = static_cast<size_t>(below(random, pairs));
              e.add(order[asked]), e.add(value[asked], true);
            }
            return e;
          }};
}
/// Whether the ones so far are even or odd: a state that turns at each of them, which decays
/// between 0 and 1 cannot do (arXiv:2411.12537).
Task parity(int length) {
  return {4, [=](HostRandom& random) {
            Example e;
            int odd = 0;
            for (int i = 0; i < length; ++i) {
              const int bit = below(random, 2);
              odd ^= bit;
              e.add(bit), e.add(2 + odd, true);
            }
            return e;
          }};
}

struct Draw {
  data::Batch batch;
  std::vector<int32_t> targets;  // as in the batch
};
Draw draw(const Task& task, HostRandom& random) {
  std::vector<int32_t> inputs, targets;
  int length = 0;
  for (int r = 0; r < kRows; ++r) {
    const auto e = task.draw(random);
    length = static_cast<int>(e.tokens.size()) - 1;
    for (size_t i = 0; i + 1 < e.tokens.size(); ++i) {
      inputs.push_back(e.tokens[i]);
      targets.push_back(e.known[i + 1] ? e.tokens[i + 1] : -100);
    }
  }
  const auto array = [&](const std::vector<int32_t>& v) {
    return mx::array(v.data(), {kRows, length}, mx::int32);
  };
  return {{array(inputs), array(targets)}, targets};
}

/// The share of the known tokens of fresh texts that a model predicts.
double accuracy(const LanguageModel& model, const Task& task) {
  HostRandom random(99);
  int right = 0, all = 0;
  for (int i = 0; i < 4; ++i) {
    const auto d = draw(task, random);
    const auto best =
        to_vector<uint32_t>(mx::contiguous(mx::argmax(model.forward(d.batch.inputs), -1)));
    for (size_t j = 0; j < best.size(); ++j)
      if (d.targets[j] >= 0) ++all, right += static_cast<int32_t>(best[j]) == d.targets[j];
  }
  return static_cast<double>(right) / all;
}

struct Result {
  double before, after;
  std::vector<std::vector<float>> loads;  // of the routers, at the first and the last step
};
Result learn(const config::Model& config, const Task& task, int steps, float lr) {
  LanguageModel model(config, 1);
  const Enter enter(model.runtime());
  Result out{accuracy(model, task), 0, {}};
  OptimizerConfig adamw;
  adamw.weight_decay = 0;
  adamw.betas = std::array<double, 2>{0.9, 0.98};
  TrainStep step(model.transformer(), adamw, {});
  auto state = step.initial(3);
  HostRandom random(5);
  const auto entries = core::collect_trainable(model.transformer());
  for (int i = 1; i <= steps; ++i) {
    // Warm, level, and down to a tenth.
    const float warm = std::min(1.0f, static_cast<float>(i) / 20.0f);
    const float down =
        std::min(1.0f, 0.1f + 2.0f * static_cast<float>(steps - i) / static_cast<float>(steps));
    const auto result = step(state, {draw(task, random).batch}, lr * warm * down, i);
    if (!result.loads.empty() && (i == 1 || i == steps))
      out.loads.push_back(to_vector<float>(result.loads.back()));
  }
  for (size_t i = 0; i < entries.size(); ++i) entries[i].param->value = state.params[i];
  out.after = accuracy(model, task);
  return out;
}

config::Model model_of(const config::Mixer& mixer, int vocab, int layers = 2) {
  config::Model m{.dim = 32, .vocab = vocab, .context = 64};
  m.init_std = 0.1f;
  m.layers.assign(static_cast<size_t>(layers), {.mixer = mixer, .ffn = config::Mlp{.hidden = 64}});
  return m;
}

struct Case {
  std::string name;
  config::Mixer mixer;
  Task task;
  int steps;
  float lr;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> cases() {
  const config::Attention attention{.heads = 2, .kv_heads = 2, .head_dim = 16};
  const config::Mla latent{.heads = 2, .kv_rank = 16, .nope_dim = 12, .rope_dim = 8, .v_dim = 16};
  const config::Mamba2 mamba2{.heads = 4, .head_dim = 16, .groups = 1, .state = 16};
  const config::GatedDelta delta{.heads = 2, .key_heads = 2, .key_dim = 16, .value_dim = 16};
  config::GatedDelta turning = delta;
  turning.allow_neg_eigval = true;
  const Task copies = copying(8, 8), needles = recall(8, 8, 4), pairs = induction(8, 24);
  return {
      {"attention_copies", attention, copies, 250, 4e-3f},
      {"attention_induces", attention, pairs, 300, 4e-3f},
      {"attention_adds", attention, addition(11), 250, 4e-3f},
      {"attention_finds_needles", attention, needles, 300, 4e-3f},
      {"latent_attention_copies", latent, copies, 250, 4e-3f},
      {"mamba2_copies", mamba2, copying(4, 5), 300, 4e-3f},
      {"gated_delta_finds_needles", delta, needles, 250, 4e-3f},
      {"gated_delta_turns", turning, parity(12), 150, 4e-3f},
      {"kimi_delta_finds_needles", config::KimiDelta{.heads = 2, .head_dim = 16}, needles, 250,
       4e-3f},
      {"mamba_copies", config::Mamba{.inner = 64, .state = 16, .dt_rank = 4}, copying(4, 5), 250,
       4e-3f},
      {"lightning_copies", config::Lightning{.heads = 2, .head_dim = 16}, copying(4, 4), 400,
       4e-3f},
      {"mlstm_copies", config::Mlstm{.heads = 2, .key_dim = 16, .value_dim = 16}, copying(4, 5),
       300, 4e-3f},
      {"rg_lru_copies", config::RgLru{.width = 64, .heads = 2}, copying(4, 5), 250, 4e-3f},
      {"rwkv_copies", config::RwkvTime{.inner = 64}, copying(4, 5), 250, 4e-3f},
  };
}

class Learns : public testing::TestWithParam<Case> {};

TEST_P(Learns, WhatItsPaperSays) {
  const auto& c = GetParam();
  const auto r = learn(model_of(c.mixer, c.task.vocab), c.task, c.steps, c.lr);
  std::cout << c.name << ": " << 100 * r.before << " % right before, " << 100 * r.after
            << " % after " << c.steps << " steps\n";
  EXPECT_LT(r.before, 0.6);
  EXPECT_GE(r.after, 0.95);
}

INSTANTIATE_TEST_SUITE_P(Mixers, Learns, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// A router whose experts began unequal: the rule of arXiv:2408.15664 spreads the tokens.
TEST(LearnsExperts, TheBiasRuleBalancesTheLoad) {
  config::Model m = model_of(config::Attention{.heads = 2, .kv_heads = 2, .head_dim = 16}, 9);
  config::Moe moe{.experts = 8, .top_k = 2, .hidden = 32, .scoring = config::Scoring::sigmoid};
  moe.selection_bias = true, moe.normalize = 1;
  const auto spread = [&](float rate) {
    moe.bias_rate = rate;
    for (auto& l : m.layers) l.ffn = moe;
    const auto r = learn(m, copying(8, 8), 120, 4e-3f);
    EXPECT_GE(r.after, 0.5);
    const auto& last = r.loads.back();
    const float sum = std::accumulate(last.begin(), last.end(), 0.0f);
    return double(*std::max_element(last.begin(), last.end()) * 8 / sum);
  };
  const double free = spread(0), ruled = spread(0.01f);
  std::cout << "the busiest expert has " << free << " times its share without the rule, " << ruled
            << " with it\n";
  EXPECT_LT(ruled, 1.5);
  EXPECT_LT(ruled, free);
}

}  // namespace
}  // namespace lmxlab
