#include "lmxlab/checks/properties.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/count.h"
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
#include <set>
#include <sstream>

namespace lmxlab::checks {
namespace {

mx::array f32(const mx::array& a) {
  return mx::astype(a, mx::float32);
}

// Tokens from a fixed sequence, so that a failure can be repeated.
mx::array some_tokens(const config::Model& c, int rows, int length, uint64_t seed) {
  HostRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < rows * length; ++i)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(c.vocab))));
  return mx::array(ids.data(), {rows, length}, mx::int32);
}

mx::array columns(const mx::array& tokens, int from, int to) {
  return mx::slice(tokens, {0, from}, {tokens.shape(0), to});
}
mx::array row(const mx::array& a, int i) {
  return mx::expand_dims(mx::take(a, i, 0), 0);
}
mx::array positions(const mx::array& logits, int from, int to) {
  return mx::slice(logits, {0, from, 0}, {logits.shape(0), to, logits.shape(2)});
}

double largest(const mx::array& a) {
  return static_cast<double>(mx::max(mx::abs(f32(a))).item<float>());
}

double epsilon(DType t) {
  return t == DType::f32 ? 1.2e-7 : t == DType::f16 ? 9.8e-4 : 7.8e-3;
}

bool kinks(const config::Model& c) {
  return std::any_of(c.layers.begin(), c.layers.end(), [](const config::Block& b) {
    const auto* mlp = std::get_if<config::Mlp>(&b.ffn);
    const auto* moe = config::experts_in(b);
    return (mlp && mlp->sparsity > 0) || (mlp && mlp->act == config::Act::relu) ||
           (moe && moe->act == config::Act::relu);
  });
}
// Of routers and indexers: all are chosen, so that no step of a difference turns a choice. That it
// has no gradient otherwise is for the tests of the layer.
config::Model without_choice(config::Model c) {
  for (auto& b : c.layers) {
    auto* mla = std::get_if<config::Mla>(&b.mixer);
    if (mla && mla->indexer) mla->indexer->top_k = c.context;
    if (auto* nsa = std::get_if<config::Nsa>(&b.mixer)) nsa->selected = c.context;
    auto* both = std::get_if<config::MlpAndMoe>(&b.ffn);
    auto* moe = b.shortcut ? &*b.shortcut : both ? &both->moe : std::get_if<config::Moe>(&b.ffn);
    if (!moe) continue;
    moe->top_k = moe->choices(), moe->groups = moe->groups_kept = 1;
    if (moe->scoring == config::Scoring::sparsemixer) moe->scoring = config::Scoring::softmax;
  }
  return c;
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

// Whether a cache has arrays of this type alone. States are sums over all that was read, and stay
// float32.
bool keeps(const core::LayerCache& cache, mx::Dtype dtype) {
  if (const auto* all = dynamic_cast<const core::CompositeCache*>(&cache)) {
    for (size_t i = 0; i < all->size(); ++i)
      if (!keeps(*all->part(i), dtype)) return false;
    return true;
  }
  const bool state = dynamic_cast<const core::StateCache*>(&cache) != nullptr;
  const auto arrays = cache.arrays();
  return std::all_of(arrays.begin(), arrays.end(), [&](const mx::array& a) {
    return a.dtype() == dtype || (state && a.dtype() == mx::float32);
  });
}

Check both(Check a, const Check& b) {
  if (a.ok && !b.ok) return {a.name, false, b.detail};
  return a;
}

}  // namespace

Check compare(const std::string& name, const mx::array& a, const mx::array& b, double bound) {
  if (a.shape() != b.shape()) return {name, false, "the shapes differ"};
  const auto difference = mx::flatten(mx::abs(mx::subtract(f32(a), f32(b))));
  // NaN compares false with everything: count it as the worst there can be.
  const auto seen = mx::where(mx::isnan(difference), mx::array(INFINITY), difference);
  const auto at = static_cast<int>(mx::argmax(seen).item<uint32_t>());
  const double worst = static_cast<double>(mx::take(seen, at, 0).item<float>());
  std::ostringstream text;
  text.precision(6);
  text << "worst difference " << worst << " of " << bound << " allowed, at element " << at
       << " of shape [";
  for (size_t i = 0; i < a.ndim(); ++i) text << (i ? ", " : "") << a.shape(static_cast<int>(i));
  text << "]: " << mx::take(mx::flatten(f32(a)), at, 0).item<float>() << " and "
       << mx::take(mx::flatten(f32(b)), at, 0).item<float>();
  return {name, worst <= bound, text.str()};
}

double rounding_bound(const LanguageModel& model, const mx::array& logits) {
  const auto& c = model.config();
  return 32 * epsilon(model.activations()) *
         std::sqrt(static_cast<double>(c.dim) * static_cast<double>(c.layers.size())) *
         std::max(largest(logits), 1e-3);
}

Check causal(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 2, length, 11);
  const auto before = model.forward(tokens);
  const double bound = rounding_bound(model, before);
  Check result{"causal", true, ""};
  for (const int at : {length / 3, length - 2}) {
    const auto other = mx::remainder(mx::add(columns(tokens, at, at + 1), mx::array(1)),
                                     mx::array(model.config().vocab));
    const auto changed =
        mx::concatenate({columns(tokens, 0, at), other, columns(tokens, at + 1, length)}, 1);
    const auto after = model.forward(changed);
    auto past = compare("causal", positions(before, 0, at), positions(after, 0, at), bound);
    if (!past.ok) return past;
    result.detail = past.detail;
    const double moved = largest(
        mx::subtract(f32(positions(before, at, length)), f32(positions(after, at, length))));
    if (!(moved > bound))
      return {"causal", false, "a changed token changed nothing at or after its place"};
  }
  return result;
}

Check cached_equals_full(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 2, length, 12);
  const auto full = model.forward(tokens);
  const double bound = rounding_bound(model, full);
  Check result{"cached = full", true, ""};
  HostRandom random(5);
  for (int trial = 0; trial < 4; ++trial) {
    Cache cache;
    std::vector<mx::array> parts;
    for (int at = 0; at < length;) {
      // Trial 0 steps singly behind a prefix, the others take pieces of random size.
      const int n = std::min(length - at, trial == 0 ? (at == 0 ? length / 2 : 1)
                                                     : 1 + static_cast<int>(random.below(7)));
      auto [logits, next] = model(columns(tokens, at, at + n), std::move(cache));
      cache = std::move(next);
      eval(logits, cache);
      parts.push_back(logits);
      at += n;
    }
    result = compare("cached = full", mx::concatenate(parts, 1), full, bound);
    if (!result.ok) return result;
  }
  return result;
}

Check cache_operations(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 3, length, 13);
  const auto full = model.forward(tokens);
  const double bound = rounding_bound(model, full);
  const int half = length / 2;
  auto [first, cache] = model(columns(tokens, 0, half));
  eval(first, cache);
  const Cache copy = cache;
  const auto rest = [&](Cache c, const mx::array& ids, int from) {
    auto [logits, after] = model(columns(ids, from, length), std::move(c));
    eval(logits, after);
    return logits;
  };
  const auto expected = positions(full, half, length);
  auto result = compare("cache operations", rest(std::move(cache), tokens, half), expected, bound);
  if (!result.ok) return result;
  // The copy was not written to by what its original went on to see.
  result = compare("cache operations", rest(copy, tokens, half), expected, bound);
  if (!result.ok) return {result.name, false, "a copy: " + result.detail};
  const int back = std::min(copy.trimmable(), 2);
  if (back > 0) {
    Cache trimmed = copy;
    trimmed.trim(back);
    result = compare("cache operations", rest(std::move(trimmed), tokens, half - back),
                     positions(full, half - back, length), bound);
    if (!result.ok) return {result.name, false, "trim: " + result.detail};
  }
  Cache marked = copy;
  marked.mark();
  auto [undone, ahead] = model(columns(tokens, half, half + 2), std::move(marked));
  eval(undone, ahead);
  if (ahead.can_trim(2)) {
    ahead.trim(2);
    result = compare("cache operations", rest(std::move(ahead), tokens, half), expected, bound);
    if (!result.ok) return {result.name, false, "back to a mark: " + result.detail};
  }
  Cache turned = copy;
  const mx::array order({2, 0}, mx::int32);
  turned.reorder(order);
  result = compare("cache operations", rest(std::move(turned), mx::take(tokens, order, 0), half),
                   mx::take(expected, order, 0), bound);
  if (!result.ok) return {result.name, false, "reorder: " + result.detail};
  return result;
}

Check batched_equals_single(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 3, length, 14);
  const auto full = model.forward(tokens);
  Check result{"batched = single", true, ""};
  for (int i = 0; i < 3; ++i) {
    result = compare("batched = single", model.forward(row(tokens, i)), row(full, i),
                     rounding_bound(model, full));
    if (!result.ok) return result;
  }
  return result;
}

Check padding_invariance(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const int pads[] = {0, 3, length / 2};
  const auto tokens = some_tokens(model.config(), 3, length, 15);
  const mx::array padding(pads, {3}, mx::int32);
  const auto padded = model.forward(tokens, padding);
  auto cache = model.make_cache(padding);
  std::vector<mx::array> parts;
  for (int at = 0; at < length;) {
    const int n = std::min(length - at, at == 0 ? length / 2 + 1 : 1);
    auto [logits, next] = model(columns(tokens, at, at + n), std::move(cache));
    cache = std::move(next);
    eval(logits, cache);
    parts.push_back(logits);
    at += n;
  }
  const auto cached = mx::concatenate(parts, 1);
  Check result{"padding invariance", true, ""};
  for (int i = 0; i < 3; ++i) {
    const auto alone = model.forward(columns(row(tokens, i), pads[i], length));
    const double bound = rounding_bound(model, alone);
    result =
        compare("padding invariance", positions(row(padded, i), pads[i], length), alone, bound);
    if (result.ok)
      result = both(result, compare("", positions(row(cached, i), pads[i], length), alone, bound));
    if (!result.ok) return result;
  }
  return result;
}

Check dtype_kept(const config::Model& config) {
  for (const auto dtype : {DType::f32, DType::f16, DType::bf16}) {
    LanguageModel model(config, 3, dtype);
    model.set_activations(dtype);
    const Enter enter(model.runtime());
    std::string where;
    const auto tap = [&](std::string_view name, const mx::array& a) {
      if (where.empty() && a.dtype() != to_mlx(dtype)) where = name;
    };
    const auto tokens = some_tokens(config, 2, 5, 16);
    model.forward(tokens, {}, tap);
    if (!where.empty()) return {"dtype kept", false, "another dtype at " + where};
    auto [logits, cache] = model(tokens);
    for (int i = 0; i < cache.layers(); ++i)
      if (const auto* layer = cache.layer(i); layer && !keeps(*layer, to_mlx(dtype)))
        return {"dtype kept", false, "another dtype in the cache"};
    if (!mx::all(mx::isfinite(logits)).item<bool>())
      return {"dtype kept", false, "logits are not finite"};
  }
  return {"dtype kept", true, "float32, float16, bfloat16"};
}

Check parameters_counted(LanguageModel& model) {
  std::set<std::string> paths;
  std::set<const core::Param*> addresses;
  for (const auto& e : core::collect(model.transformer())) {
    if (!paths.insert(e.path).second)
      return {"parameters", false, "the path " + e.path + " stands twice"};
    if (!addresses.insert(e.param).second)
      return {"parameters", false, e.path + " is visited twice"};
  }
  const auto counted = config::count(model.config()).total, built = model.parameter_count();
  return {
      "parameters", counted == built,
      "counted from the config " + std::to_string(counted) + ", built " + std::to_string(built)};
}

Check save_load(LanguageModel& model, const std::filesystem::path& folder) {
  const Enter enter(model.runtime());
  model.save(folder / "a");
  auto loaded = LanguageModel::load(folder / "a", true);
  if (!(loaded.config() == model.config())) return {"save and load", false, "the config changed"};
  if (loaded.dtype() != model.dtype()) return {"save and load", false, "the dtype changed"};
  const auto tokens = some_tokens(model.config(), 2, 7, 17);
  auto result = compare("save and load", loaded.forward(tokens), model.forward(tokens), 0);
  if (!result.ok) return result;
  loaded.save(folder / "b");
  for (const char* name : {"config.json", "model.safetensors"})
    if (read_file(folder / "a" / name) != read_file(folder / "b" / name))
      return {"save and load", false, std::string(name) + " has other bytes when saved again"};
  return result;
}

Check gradients(const config::Model& given, int length) {
  const auto config = without_choice(given);
  LanguageModel model(config, 21);
  const Enter enter(model.runtime());
  const auto entries = core::collect(model.transformer());
  // Weights of order one, so that every part matters and differences stand out from rounding.
  core::Arrays weights;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto noise = mx::random::normal(entries[i].param->value.shape(), mx::float32, 0, 0.2f,
                                          mx::random::key(100 + i));
    weights.push_back(mx::add(entries[i].param->value, noise));
  }
  const auto tokens = some_tokens(config, 2, length + 1, 22);
  const auto loss = [&](const core::Arrays& w) -> core::Arrays {
    const core::Lend lend(entries, w);
    core::Pass pass;
    return {mx::mean(token_nll(model.transformer()(columns(tokens, 0, length), pass),
                               columns(tokens, 1, length + 1)))};
  };
  std::vector<int> all;
  for (size_t i = 0; i < weights.size(); ++i) all.push_back(static_cast<int>(i));
  auto [value, grads] = mx::value_and_grad(loss, all)(weights);
  mx::eval(grads);
  const double l = static_cast<double>(value[0].item<float>());
  Check result{"gradients", true, ""};
  double worst = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    double least = 0;  // of what is allowed
    std::string report;
    // A step across a kink tells nothing of the gradient, and a wrong one is wrong in every
    // direction: where there are kinks, one of a few directions meets none.
    for (uint64_t attempt = 0; attempt < (kinks(config) ? 6 : 1); ++attempt) {
      const auto direction = mx::random::normal(weights[i].shape(), mx::float32, 0, 1,
                                                mx::random::key(200 + i + 1000 * attempt));
      const auto unit = mx::divide(direction, mx::sqrt(mx::sum(mx::square(direction))));
      const double analytic =
          static_cast<double>(mx::sum(mx::multiply(grads[i], unit)).item<float>());
      const auto at = [&](double h) {
        auto moved = weights;
        moved[i] = mx::add(moved[i], mx::multiply(unit, mx::array(static_cast<float>(h))));
        return static_cast<double>(loss(moved)[0].item<float>());
      };
      // Richardson: the error is h^4 times a fifth derivative, and rounding, about 4 eps |loss| /
      // h. Where the loss has kinks, a shorter step meets fewer of them; where it turns fast, that
      // derivative is large.
      const double h = turns_fast(config) ? 0.002 : kinks(config) ? 0.004 : 0.02;
      const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      const double bound = 16 * 1.2e-7 * std::max(l, 1.0) / h + 0.01 * std::abs(analytic);
      const double off = std::abs(numeric - analytic);
      least = off / bound;
      if (least <= 1) break;
      std::ostringstream text;
      text << entries[i].path << ": derivative " << analytic << ", by differences " << numeric
           << ", off by " << off << " of " << bound << " allowed";
      report = text.str();
    }
    if (!(least <= 1)) return {"gradients", false, report};
    worst = std::max(worst, least);
    const double size = static_cast<double>(mx::max(mx::abs(grads[i])).item<float>());
    // Keys' biases move no softmax, what is frozen makes a choice alone, and a query that sees only
    // itself has nothing to choose; everything else must be reached by the gradient.
    const auto ends = [&](const char* name) { return entries[i].path.ends_with(name); };
    const bool free =
        ends("k_proj.bias") || !entries[i].param->trainable ||
        (sees_itself_only(config) && (ends("q_proj.weight") || ends("k_proj.weight")));
    if (size == 0 && !free) return {"gradients", false, entries[i].path + " gets no gradient"};
  }
  result.detail = "worst share of what is allowed: " + std::to_string(worst);
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
    result = compare("compiled = eager", a[i], b[i], bound);
    if (!result.ok) return result;
  }
  return result;
}

std::vector<Check> check_model(LanguageModel& model, int length) {
  return {causal(model, length),
          cached_equals_full(model, length),
          cache_operations(model, length),
          batched_equals_single(model, length),
          padding_invariance(model, length),
          parameters_counted(model)};
}

}  // namespace lmxlab::checks
