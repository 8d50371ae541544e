// Properties of weights: their types, their counts, files, packed copies, and what a reference
// says.
#include "lmxlab/base/files.h"
#include "lmxlab/checks/properties.h"
#include "lmxlab/checks/support.h"
#include "lmxlab/config/count.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/quantize.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace lmxlab::checks {
namespace {

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

// The widest group that a weight's inputs are whole groups of; 0: none.
int group_of(const core::Weight& w) {
  const int in = w.w.value.shape(-1);
  return in % 64 == 0 ? 64 : in % 32 == 0 ? 32 : 0;
}

double rms(const mx::array& a) {
  return std::sqrt(static_cast<double>(mx::mean(mx::square(f32(a))).item<float>()));
}

}  // namespace

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

Check quantized_close(LanguageModel& model, int length) {
  const char* name = "quantized close";
  if (has_packed_weights(model)) return {name, true, "not tried: the weights are packed already"};
  const Enter enter(model.runtime());
  const kernels::WithActivations exact(kernels::Activations::float32);
  const auto tokens = some_tokens(model.config(), 2, length, 25);
  // In float32, whose own rounding no step of 8 bits sees; all experts and keys are chosen, since a
  // choice that turns is no small difference.
  const auto widened = [&] {
    LanguageModel copy(without_choice(model.config()));
    const auto given = core::collect(model.transformer()), own = core::collect(copy.transformer());
    for (size_t i = 0; i < own.size(); ++i) own[i].param->value = f32(given.at(i).param->value);
    copy.set_activations(DType::f32);
    return copy;
  };
  const auto dense = widened().forward(tokens);
  Check result{name, true, ""};
  std::string detail;
  double change = 0, most = 1;  // of the logits' change, and what is allowed
  for (const int bits : {8, 4}) {
    auto packed = widened(), unpacked = widened();
    const auto from = core::weights_of(packed.transformer()),
               to = core::weights_of(unpacked.transformer());
    double errors = 0;  // squares of relative ones
    int count = 0;
    for (size_t i = 0; i < from.size(); ++i) {
      auto& w = *from[i].weight;
      const int group = group_of(w);
      if (group == 0) continue;
      const auto before = w.w.value;
      const int columns = before.shape(-1), rows = static_cast<int>(before.size()) / columns;
      w.quantize(group, bits);
      const auto numbers =
          mx::reshape(w.rows(mx::arange(rows, mx::int32), mx::float32), before.shape());
      // Each number lies within a step of its group of what it was; the scale itself is rounded.
      const auto step = mx::repeat(mx::abs(f32(w.scales->value)), group, -1);
      const auto share =
          mx::divide(mx::abs(mx::subtract(numbers, before)), mx::add(step, mx::array(1e-30f)));
      const double worst = largest(share);
      if (!(worst <= 1.01))
        return {name,
                false,
                from[i].path + ": packed to " + std::to_string(bits) + " bits a number is " +
                    number(worst) + " steps from what it was",
                "a weight is packed wrongly. Likely cause: rows or groups in another order",
                worst,
                1.01};
      const double size = rms(before);
      if (size > 0) errors += std::pow(rms(mx::subtract(numbers, before)) / size, 2), ++count;
      to[i].weight->w.value = numbers;
    }
    if (count == 0)
      return {name, true, "not tried: no weight has rows of a multiple of 32 numbers"};
    const auto got = packed.forward(tokens), want = unpacked.forward(tokens);
    result = compare(name, got, want, rounding_bound(unpacked, want));
    if (!result.ok) {
      result.detail =
          std::to_string(bits) + " bits, beside the same numbers unpacked: " + result.detail;
      result.hint =
          "a product with packed weights is not that with their numbers. Likely cause: a "
          "kernel that reads groups, scales or a bias in another place";
      return result;
    }
    // Errors of independent matrices add up as squares; norms, softmax and gates may pass on a
    // multiple of them.
    const double off = rms(mx::subtract(f32(got), f32(dense))) / std::max(rms(dense), 1e-9);
    const double allowed = 8 * std::sqrt(errors);
    detail += (detail.empty() ? "" : "; ") + std::to_string(bits) +
              " bits: " + std::to_string(count) + " matrices, logits off by " + number(100 * off) +
              "% of " + number(100 * allowed) + "% allowed";
    if (!(off <= allowed))
      return {name,
              false,
              detail,
              "logits move by more than rounded weights explain. Likely cause: a weight that must "
              "not be packed",
              off,
              allowed};
    if (off * most >= change * allowed) change = off, most = allowed;
  }
  result.detail = detail + "; beside the same numbers unpacked: " + result.detail;
  result.worst = change, result.bound = most;
  return result;
}

Check weights_finite(LanguageModel& model) {
  const Enter enter(model.runtime());
  size_t n = 0;
  for (const auto& e : core::collect(model.transformer())) {
    ++n;
    if (!mx::all(mx::isfinite(f32(e.param->value))).item<bool>())
      return {"weights", false, e.path + " has numbers that are not finite",
              "every answer is spoiled by them. Likely cause: a training run that diverged, or a "
              "conversion to a type that is too narrow"};
  }
  return {"weights", true, std::to_string(n) + " tensors, all finite"};
}

}  // namespace lmxlab::checks
