#include "lmxlab/checks/examine.h"

#include "lmxlab/base/error.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <set>

namespace lmxlab::checks {
namespace {

constexpr int64_t kSmall = 300'000;  // parameters: training it takes seconds
constexpr int64_t kLargest = 3'000'000;
constexpr int64_t kCopied = 200'000'000;  // parameters of which three copies are made
constexpr int kGradientLength = 9, kSteps = 5;

// So many layers that each kind of them is among the first.
int depth_of(const config::Model& c) {
  std::set<std::string> kinds;
  size_t needed = std::min<size_t>(2, c.layers.size());
  for (size_t i = 0; i < c.layers.size(); ++i)
    if (kinds.insert(to_json(c.layers[i]).dump()).second) needed = std::max(needed, i + 1);
  return static_cast<int>(std::min<size_t>(needed, 8));
}

Property of_model(std::string key, std::string name, std::string states,
                  Check (*check)(LanguageModel&, int)) {
  return {std::move(key), std::move(name), std::move(states), false,
          [check](const Subject& s) { return check(s.model, s.length); }};
}
Property of_copy(std::string key, std::string name, std::string states,
                 std::function<Check(const config::Model&)> check) {
  return {std::move(key), name, std::move(states), true, [name, check](const Subject& s) {
            if (!s.small)
              return Check{name, true, "not tried: no small model of these parts can be made"};
            return check(*s.small);
          }};
}

}  // namespace

const std::vector<Property>& properties() {
  static const std::vector<Property> all = {
      {"weights", "weights", "every number is finite", false,
       [](const Subject& s) { return weights_finite(s.model); }},
      {"parameters", "parameters", "counted from the config as they were built", false,
       [](const Subject& s) { return parameters_counted(s.model); }},
      of_model("causal", "causal", "no position sees a later one", causal),
      of_model("cached", "cached = full", "in pieces through the cache as in one pass",
               cached_equals_full),
      {"boundaries", "cached at boundaries",
       "the same below, at and above every window, chunk and block", false,
       [](const Subject& s) { return cached_at_boundaries(s.model, s.longest); }},
      of_model("operations", "cache operations", "a cache is copied, trimmed and reordered",
               cache_operations),
      of_model("batched", "batched = single", "rows do not know of each other",
               batched_equals_single),
      of_model("padding", "padding invariance", "padding changes nothing", padding_invariance),
      of_model("joined", "joined = alone", "rows join and leave a running batch",
               joined_equals_alone),
      {"quantized", "quantized close", "packed to 8 and 4 bits it stays near", false,
       [](const Subject& s) {
         if (s.model.parameter_count() <= kCopied) return quantized_close(s.model, s.length);
         if (!s.small) return Check{"quantized close", true, "not tried: too large to be copied"};
         LanguageModel small(*s.small, 27);
         auto result = quantized_close(small, s.length);
         result.detail = "on the small copy: " + result.detail;
         return result;
       }},
      of_copy("dtype", "dtype kept", "logits and caches in the type of the weights", dtype_kept),
      of_copy("reach", "gradients reach", "every parameter gets a gradient",
              [](const config::Model& c) { return gradients_reach(c, kGradientLength); }),
      of_copy("gradients", "gradients", "they are derivatives",
              [](const config::Model& c) { return gradients(c, kGradientLength); }),
      of_copy("recomputed", "recomputed = kept", "gradient checkpointing changes none",
              [](const config::Model& c) { return recomputed_equals_kept(c, kGradientLength); }),
      of_copy(
          "compiled", "compiled = eager", "compiled training steps are the same",
          [](const config::Model& c) { return compiled_equals_eager(c, kGradientLength, kSteps); }),
  };
  return all;
}

std::optional<config::Model> small_copy(const config::Model& c) {
  if (config::count(c).total <= kSmall) return c;
  config::Sizes sizes;
  sizes.depth = std::min(depth_of(c), static_cast<int>(c.layers.size()));
  sizes.vocab = std::min(c.vocab, 97);
  sizes.context = std::min(c.context, 64);
  const auto fitting = [&](int64_t most) -> std::optional<config::Model> {
    try {
      auto small = config::resize(c, sizes);
      config::validate(small);
      if (config::count(small).total <= most) return small;
    } catch (const Error&) {  // sizes that do not fit its parts
    }
    return std::nullopt;
  };
  // The widest that is small; heads as they divide it, of keys in their share, or one for all.
  for (const int dim : {c.dim, 128, 96, 64, 48, 32})
    for (const int heads : {4, 6, 8, 3, 12}) {
      if (dim > c.dim || (dim == c.dim && heads != 4)) continue;
      if (dim < c.dim) sizes.dim = dim, sizes.heads = heads, sizes.hidden = 2 * dim;
      for (const auto& kv : {std::optional<int>(), std::optional(1)}) {
        if (kv && dim == c.dim) continue;
        sizes.kv_heads = kv;
        if (auto small = fitting(dim > 32 ? kSmall : kLargest)) return small;
      }
    }
  // Parts that no width resizes, as a rotation wider than small heads: its family's tiny model.
  const auto known = config::families();
  if (std::find(known.begin(), known.end(), c.family) == known.end()) return std::nullopt;
  auto tiny = config::tiny(c.family);
  return config::count(tiny).total <= kLargest ? std::optional(std::move(tiny)) : std::nullopt;
}

}  // namespace lmxlab::checks
