// Logits of another implementation beside ours, and a search for what would explain a difference.
#include "lmxlab/checks/properties.h"
#include "lmxlab/checks/support.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <map>

namespace lmxlab::checks {
namespace {

constexpr int kMostPasses = 300;

// What a weight would be with two heads of its rows (or columns) in each other's place.
struct Swap {
  core::Param* weight;
  core::Param* bias;  // of rows, if there is one
  int heads, a, b;
  bool rows;
  std::string text;

  mx::array swapped(const mx::array& w) const {
    const int axis = rows ? 0 : static_cast<int>(w.ndim()) - 1;
    const int width = w.shape(axis) / heads;
    std::vector<int32_t> order;
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < width; ++i) order.push_back((h == a ? b : h == b ? a : h) * width + i);
    return mx::take(w, mx::array(order.data(), {static_cast<int>(order.size())}, mx::int32), axis);
  }
  void apply() const {
    weight->value = swapped(weight->value);
    if (bias) bias->value = swapped(bias->value);
  }
};

std::map<std::string, core::Param*> by_path(LanguageModel& model) {
  std::map<std::string, core::Param*> out;
  for (const auto& e : core::collect(model.transformer())) out[e.path] = e.param;
  return out;
}

std::vector<Swap> swaps(LanguageModel& model) {
  const auto params = by_path(model);
  const auto find = [&](const std::string& path) {
    const auto it = params.find(path);
    return it == params.end() ? nullptr : it->second;
  };
  std::vector<Swap> out;
  const auto& layers = model.config().layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto* a = config::attention_in(layers[i].mixer);
    if (!a) continue;
    const auto add = [&](const char* what, int heads, bool rows) {
      const std::string end = "layers." + std::to_string(i) + ".self_attn." + what;
      for (const auto& [path, param] : params) {
        if (!path.ends_with(end + ".weight")) continue;
        auto* bias = rows ? find(path.substr(0, path.size() - 6) + "bias") : nullptr;
        for (int x = 0; x < heads; ++x)
          for (int y = x + 1; y < heads; ++y)
            out.push_back({param, bias, heads, x, y, rows,
                           "heads " + std::to_string(x) + " and " + std::to_string(y) + " of " +
                               path + " in each other's place"});
      }
    };
    add("q_proj", a->heads, true), add("o_proj", a->heads, false);
    add("k_proj", a->kv_heads, true), add("v_proj", a->kv_heads, true);
  }
  return out;
}

// Changes that bring the logits nearer, one after another, until they agree; empty: none do.
std::string explanation(LanguageModel& given, const mx::array& ids, const mx::array& logits,
                        double bound) {
  if (has_packed_weights(given)) return "";
  auto model = copy_of(given);
  const auto off = [&] { return largest(mx::subtract(f32(model.forward(ids)), logits)); };
  const auto all = swaps(model);
  std::string found;
  double now = off();
  int passes = 0;
  while (now > bound) {
    const Swap* best = nullptr;
    double least = 0.9 * now;
    for (const auto& swap : all) {
      if (++passes > kMostPasses) return "";
      swap.apply();
      const double with = off();
      swap.apply();  // its own inverse
      if (with < least) least = with, best = &swap;
    }
    if (!best) return "";
    best->apply();
    now = least;
    found += (found.empty() ? "" : ", and ") + best->text;
  }
  return found;
}

std::vector<std::string> zero_biases(LanguageModel& model) {
  std::vector<std::string> out;
  for (const auto& e : core::collect(model.transformer()))
    if (e.path.ends_with("bias") && mx::issubdtype(e.param->value.dtype(), mx::floating) &&
        largest(e.param->value) == 0)
      out.push_back(e.path);
  return out;
}

}  // namespace

Check equals_reference(LanguageModel& model, const mx::array& input_ids, const mx::array& logits,
                       double given) {
  const Enter enter(model.runtime());
  const auto want = f32(logits);
  const auto ids = mx::astype(input_ids, mx::int32);
  const auto got = f32(model.forward(ids));
  const double bound = given > 0 ? given : rounding_bound(model, want);
  auto result = compare("reference", got, want, bound);
  if (result.ok || got.shape() != want.shape()) return result;
  const auto where = differences(got, want, bound);
  const std::string share = std::to_string(where.positions) + " of " + std::to_string(where.all) +
                            " positions differ, the first is " + std::to_string(where.first);
  result.detail = share + ": " + result.detail;
  const auto biases = zero_biases(model);
  const auto swapped = explanation(model, ids, want, bound);
  if (!swapped.empty())
    result.hint = "swapped heads: the logits agree with " + swapped +
                  ". Likely cause: rows or columns of heads in another order in the file";
  else if (!biases.empty())
    result.hint = "another implementation answers otherwise, and " + std::to_string(biases.size()) +
                  " biases are zero everywhere (" + biases[0] + (biases.size() > 1 ? ", ..." : "") +
                  "). Likely cause: a dropped bias, which the weights were trained with";
  else if (where.first > 0)
    result.hint =
        "the first positions agree, later ones do not: what looks back is another. Likely "
        "cause: rotary positions (base, pairs, scaling), a window, queries or keys in "
        "another order, or a dropped bias of theirs";
  else
    result.hint =
        "every position differs from the first on: not what looks back, but weights or "
        "what is done to them. Likely cause: a dropped bias, a tensor in another layout, "
        "another norm, activation or scale";
  return result;
}

}  // namespace lmxlab::checks
