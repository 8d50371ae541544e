#include "lmxlab/training/mup.h"

#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/training/optimizer.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab {
namespace {

// The parts whose rule is known: the paper's are those of the transformer.
void require_known(const config::Model& m) {
  const auto refuse = [](const std::string& what) {
    throw Error(
        Kind::unsupported,
        "[mup] " + what +
            " has no known rule: expected attention, MLPs and experts. Leave model.mup out.");
  };
  if (!m.mtp_heads.empty()) refuse("a head for further tokens");
  if (m.layer_inputs || m.altup || !m.shared_blocks.empty()) refuse("a path beside the stream");
  for (size_t i = 0; i < m.layers.size(); ++i) {
    const auto& b = m.layers[i];
    const auto kind = [](const auto& part) { return std::string(part.kind); };
    const auto where = "layer " + std::to_string(i);
    if (!std::holds_alternative<config::Attention>(b.mixer) &&
        !std::holds_alternative<config::Nothing>(b.mixer))
      refuse(where + ", " + std::visit(kind, b.mixer) + ",");
    if (std::holds_alternative<config::Custom>(b.ffn)) refuse(where + ", a custom FFN,");
    if (b.shared || b.laurel > 0) refuse(where + ", with a path beside the mixer,");
  }
}

core::Transformer shapes_of(const config::Model& config) {
  return core::Transformer(config, 0);  // lazy: nothing is computed
}

MupRatio ratio_of(const std::string& path, const mx::Shape& shape, const mx::Shape& base) {
  // Vectors, also an expert each; an embedding's input is a choice of rows.
  const bool vectors = shape.size() < 2 || path.ends_with(".bias");
  if (vectors || param_info(path, shape, {}).embedding) return {};
  const size_t in = shape.size() - 1, out = shape.size() - 2;
  if (shape[in] == base[in]) return {};
  const double r = static_cast<double>(shape[in]) / base[in];
  return {shape[out] == base[out] ? 1 / r : 1 / std::sqrt(r), 1 / r};
}

}  // namespace

config::Model mup_base(const config::Model& model, const Json& sizes) {
  if (!sizes.is_object() || sizes.size() == 0)
    throw Error(
        Kind::usage,
        "[mup] model.mup: expected the sizes of the base, as in { dim = 64 }, got " + sizes.dump());
  for (const char* key : {"depth", "vocab", "context"})
    if (sizes.contains(key))
      throw Error(Kind::usage, std::string("[mup] model.mup.") + key +
                                   ": rates are transferred over widths alone. Leave it out.");
  config::Sizes base;
  Problems problems;
  from_json(sizes, base, "model.mup", problems);
  problems.raise(Kind::usage, "[mup] sizes of the base");
  require_known(model);
  return with_context("model.mup", [&] { return config::resize(model, base); });
}

config::Model with_mup(config::Model model, const config::Model& base) {
  if (model.tie_head)
    model.logit_scale *= static_cast<float>(base.dim) / static_cast<float>(model.dim);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    auto* mine = std::get_if<config::Attention>(&model.layers[i].mixer);
    if (!mine) continue;
    const auto& theirs = std::get<config::Attention>(base.layers[i].mixer);
    if (mine->head_dim == theirs.head_dim) continue;
    const float d = static_cast<float>(mine->head_dim), b = static_cast<float>(theirs.head_dim);
    mine->scale = theirs.scale.value_or(1 / std::sqrt(b)) * b / d;
  }
  return model;
}

std::map<std::string, MupRatio> mup_ratios(const config::Model& model, const config::Model& base) {
  auto mine = shapes_of(model), theirs = shapes_of(base);
  const auto a = core::collect(mine), b = core::collect(theirs);
  std::map<std::string, MupRatio> out;
  for (size_t i = 0; i < a.size(); ++i) {
    if (i >= b.size() || a[i].path != b[i].path)
      throw Error(Kind::internal, "[mup] the base has no " + a[i].path);
    out[a[i].path] = ratio_of(a[i].path, a[i].param->value.shape(), b[i].param->value.shape());
  }
  return out;
}

void scale_init(LanguageModel& model, const std::map<std::string, MupRatio>& ratios) {
  const Enter enter(model.runtime());
  for (const auto& e : core::collect(model.transformer())) {
    const double r = ratios.at(e.path).init;
    if (r != 1) e.param->value = mx::multiply(e.param->value, mx::array(static_cast<float>(r)));
  }
}

}  // namespace lmxlab
