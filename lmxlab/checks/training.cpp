// Properties of training: gradients, gradient checkpointing, compiled steps.
#include "lmxlab/checks/properties.h"
#include "lmxlab/checks/support.h"
#include "lmxlab/core/indexer.h"
#include "lmxlab/core/moe.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/training/loss.h"
#include "lmxlab/training/step.h"

#include <mlx/device.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace lmxlab::checks {
namespace {

// Its scores are of a ReLU.
bool learns_to_choose(const config::Block& b) {
  const auto* mla = std::get_if<config::Mla>(&b.mixer);
  return mla && mla->indexer && !mla->indexer->shared && mla->indexer->loss > 0;
}
bool kinks(const config::Model& c) {
  return std::any_of(c.layers.begin(), c.layers.end(), [](const config::Block& b) {
    const auto* mlp = std::get_if<config::Mlp>(&b.ffn);
    const auto* moe = config::experts_in(b);
    const auto* attention = config::attention_in(b.mixer);
    return (attention && attention->clip) || learns_to_choose(b) || (mlp && mlp->sparsity > 0) ||
           (mlp && mlp->act == config::Act::relu) || (moe && moe->act == config::Act::relu);
  });
}
// Keys and queries of length 1 that are made of short vectors turn fast.
bool turns_fast(const config::Model& c) {
  return std::any_of(c.layers.begin(), c.layers.end(), [](const config::Block& b) {
    return std::holds_alternative<config::GatedDelta>(b.mixer) ||
           std::holds_alternative<config::KimiDelta>(b.mixer) ||
           std::holds_alternative<config::Rwkv7>(b.mixer);
  });
}
bool sees_itself_only(const config::Model& c) {
  return std::any_of(c.layers.begin(), c.layers.end(), [](const config::Block& b) {
    const auto* a = config::attention_in(b.mixer);
    return a && a->window == 1;
  });
}

// Weights of order one, so that every part matters and differences stand out from rounding.
core::Arrays large_weights(const std::vector<core::Entry>& entries) {
  core::Arrays weights;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto noise = mx::random::normal(entries[i].param->value.shape(), mx::float32, 0, 0.2f,
                                          mx::random::key(100 + i));
    weights.push_back(mx::add(entries[i].param->value, noise));
  }
  return weights;
}

// The loss of some text that training lowers, as a function of all parameters; and what is left of
// it without that of indexers, to which the other parts give no gradient.
struct Loss {
  core::Transformer& model;
  const std::vector<core::Entry>& entries;
  mx::array tokens;  // [B, L + 1]
  bool recompute = false;

  core::Arrays operator()(const core::Arrays& w) const {
    const core::Lend lend(entries, w);
    std::vector<core::Sums> sums;
    core::Pass pass{.recompute = recompute, .sums = &sums};
    const int length = tokens.shape(1) - 1;
    const auto text = mx::mean(
        token_nll(model(columns(tokens, 0, length), pass), columns(tokens, 1, length + 1)));
    const int64_t seen = int64_t{tokens.shape(0)} * length;
    const auto others = mx::add(text, core::router_loss(model.config(), sums, seen));
    return {mx::add(others, core::indexer_loss(model.config(), sums, seen)), others};
  }
  std::pair<double, core::Arrays> with_gradients(const core::Arrays& w) const {
    std::vector<int> all;
    for (size_t i = 0; i < w.size(); ++i) all.push_back(static_cast<int>(i));
    auto [value, grads] = mx::value_and_grad(std::function(*this), all)(w);
    mx::eval(grads);
    return {static_cast<double>(value[0].item<float>()), std::move(grads)};
  }
};

// Parameters that no gradient can reach: keys' biases move no softmax, and a query that sees only
// itself has nothing to choose. What is frozen makes a choice alone.
bool unreachable(const config::Model& c, const core::Entry& e) {
  const auto ends = [&](const char* name) { return e.path.ends_with(name); };
  return ends("k_proj.bias") || !e.param->trainable ||
         (sees_itself_only(c) && (ends("q_proj.weight") || ends("k_proj.weight")));
}

}  // namespace

Check gradients(const config::Model& given, int length) {
  const auto config = without_choice(given);
  LanguageModel model(config, 21);
  const Enter enter(model.runtime());
  const auto entries = core::collect(model.transformer());
  const auto weights = large_weights(entries);
  const Loss loss{model.transformer(), entries, some_tokens(config, 2, length + 1, 22)};
  const auto [l, grads] = loss.with_gradients(weights);
  Check result{"gradients", true, ""};
  double worst = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    // Richardson: the error is h^4 times a fifth derivative, and rounding, about 4 eps |loss| / h.
    // Where the loss has kinks, a shorter step meets fewer of them, and another direction others: a
    // wrong gradient is wrong in all of them. Where it turns fast, that derivative is large.
    const bool kinked = kinks(config);
    const double h = turns_fast(config) ? 0.002 : kinked ? 0.004 : 0.02;
    const size_t which = entries[i].path.find(".indexer.") == std::string::npos ? 1 : 0;
    double off = INFINITY, bound = 1, analytic = 0, numeric = 0;
    for (size_t d = 0; d < (kinked ? 4u : 1u) && !(off <= bound); ++d) {
      const auto direction = mx::random::normal(weights[i].shape(), mx::float32, 0, 1,
                                                mx::random::key(200 + i + 10'000 * d));
      const auto unit = mx::divide(direction, mx::sqrt(mx::sum(mx::square(direction))));
      const auto at = [&](double step) {
        auto moved = weights;
        moved[i] = mx::add(moved[i], mx::multiply(unit, mx::array(static_cast<float>(step))));
        return static_cast<double>(loss(moved)[which].item<float>());
      };
      analytic = static_cast<double>(mx::sum(mx::multiply(grads[i], unit)).item<float>());
      numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      bound = 16 * 1.2e-7 * std::max(l, 1.0) / h + 0.01 * std::abs(analytic);
      off = std::abs(numeric - analytic);
    }
    if (!(off <= bound)) {
      std::ostringstream text;
      text << entries[i].path << ": derivative " << analytic << ", by differences " << numeric
           << ", off by " << off << " of " << bound << " allowed";
      return {"gradients",
              false,
              text.str(),
              "the backward pass is not the derivative of the forward pass. Likely cause: an "
              "operation of " +
                  entries[i].path + " or behind it whose gradient is its own",
              off,
              bound};
    }
    worst = std::max(worst, off / bound);
  }
  result.worst = worst, result.bound = 1;
  result.detail = "every parameter against central differences, worst share of what is allowed: " +
                  std::to_string(worst);
  return result;
}

Check gradients_reach(const config::Model& given, int length) {
  const auto config = without_choice(given);
  LanguageModel model(config, 21);
  const Enter enter(model.runtime());
  const auto entries = core::collect(model.transformer());
  const Loss loss{model.transformer(), entries, some_tokens(config, 2, length + 1, 22)};
  const auto grads = loss.with_gradients(large_weights(entries)).second;
  int reached = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    const double size = largest(grads[i]);
    if (!std::isfinite(size))
      return {"gradients reach", false, "the gradient of " + entries[i].path + " is not finite",
              "likely cause: a root, a logarithm or a quotient at its edge"};
    if (size > 0) ++reached;
    if (size == 0 && !unreachable(config, entries[i]))
      return {"gradients reach", false, entries[i].path + " gets no gradient",
              "training would not change " + entries[i].path +
                  ". Likely cause: it is not used, or a gradient is stopped behind it"};
  }
  return {"gradients reach", true,
          std::to_string(reached) + " of " + std::to_string(grads.size()) +
              " parameters get a gradient, the others are frozen or cancel"};
}

Check recomputed_equals_kept(const config::Model& config, int length) {
  LanguageModel model(config, 23);
  const Enter enter(model.runtime());
  const auto entries = core::collect(model.transformer());
  const auto weights = large_weights(entries);
  Loss loss{model.transformer(), entries, some_tokens(config, 2, length + 1, 24)};
  const auto kept = loss.with_gradients(weights).second;
  loss.recompute = true;
  const auto again = loss.with_gradients(weights).second;
  Check result{"recomputed = kept", true, ""};
  // The same sums, some of them in another order: rounding alone, as of logits.
  const double share = 32 * epsilon(DType::f32) *
                       std::sqrt(static_cast<double>(config.dim) *
                                 static_cast<double>(std::max<size_t>(1, config.layers.size())));
  for (size_t i = 0; i < kept.size(); ++i) {
    if (!entries[i].param->trainable) continue;  // its gradient is nobody's
    const double bound = share * largest(kept[i]);
    auto now = compare("recomputed = kept", again[i], kept[i], bound);
    now.detail = entries[i].path + ": " + now.detail;
    if (!now.ok) {
      now.hint = "gradient checkpointing gives another gradient of " + entries[i].path +
                 ". Likely cause: a parameter that a stage reads but does not name, or state that "
                 "the second pass sees changed";
      return now;
    }
    if (!result.worst || *now.worst * *result.bound > *result.worst * *now.bound) result = now;
  }
  return result;
}

Check compiled_equals_eager(const config::Model& config, int length, int steps) {
  const auto trained = [&](bool compiled) {
    LanguageModel model(config, 31);
    const Enter enter(model.runtime());
    StepOptions options;
    options.compiled = compiled;
    options.dropout = config.dropout;
    TrainStep step(model.transformer(), {}, options);
    auto state = step.initial(1);
    for (int i = 0; i < steps; ++i) {
      const auto tokens = some_tokens(config, 2, length + 1, 40 + static_cast<uint64_t>(i));
      step(state, {{columns(tokens, 0, length), columns(tokens, 1, length + 1)}},
           1e-3f * static_cast<float>(i + 1), i + 1);
    }
    mx::eval(state.params);
    return state.params;
  };
  const auto a = trained(true), b = trained(false);
  Check result{"compiled = eager", true, ""};
  for (size_t i = 0; i < a.size(); ++i) {
    // Equal graphs, equal bits; merged equal nodes keep them. A GPU fuses, and rounds fused sums
    // elsewhere.
    const bool fuses = mx::default_device() == mx::Device::gpu;
    const double bound = fuses ? 32 * steps * epsilon(DType::f32) * largest(b[i]) : 0;
    const auto now = compare("compiled = eager", a[i], b[i], bound);
    if (!now.ok) {
      result = now;
      result.hint =
          "a compiled step is not the step that was traced. Likely cause: an array that "
          "the trace captured in the place of an input";
      return result;
    }
    if (!result.worst || *now.worst > *result.worst) result = now;
  }
  result.detail = std::to_string(steps) + " steps: " + result.detail;
  return result;
}

}  // namespace lmxlab::checks
