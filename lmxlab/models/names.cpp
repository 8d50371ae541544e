#include "lmxlab/models/names.h"

#include "lmxlab/base/text.h"

#include <mlx/ops.h>

#include <utility>

namespace lmxlab {
namespace {

using core::Tensors;

mx::array transposed(const mx::array& a) {
  return mx::contiguous(mx::transpose(a));
}

// GPT-2 keeps weights [in, out] ("Conv1D"): names of the two forms, ours first, and whether to
// transpose.
struct Pair {
  const char *ours, *theirs;
  bool turn;
};
constexpr Pair kGpt2Block[] = {
    {"input_layernorm.weight", "ln_1.weight", false},
    {"input_layernorm.bias", "ln_1.bias", false},
    {"self_attn.o_proj.weight", "attn.c_proj.weight", true},
    {"self_attn.o_proj.bias", "attn.c_proj.bias", false},
    {"post_attention_layernorm.weight", "ln_2.weight", false},
    {"post_attention_layernorm.bias", "ln_2.bias", false},
    {"mlp.up_proj.weight", "mlp.c_fc.weight", true},
    {"mlp.up_proj.bias", "mlp.c_fc.bias", false},
    {"mlp.down_proj.weight", "mlp.c_proj.weight", true},
    {"mlp.down_proj.bias", "mlp.c_proj.bias", false},
};
constexpr Pair kGpt2Model[] = {
    {"model.embed_tokens.weight", "transformer.wte.weight", false},
    {"model.embed_positions.weight", "transformer.wpe.weight", false},
    {"model.norm.weight", "transformer.ln_f.weight", false},
    {"model.norm.bias", "transformer.ln_f.bias", false},
    {"lm_head.weight", "lm_head.weight", false},
};
constexpr const char* kQkv[] = {"q_proj", "k_proj", "v_proj"};

// The width of a bias that our config lacks, read off the weight that it belongs to.
int bias_width(const Tensors& ours, const std::string& path) {
  const auto weight = ours.find(path.substr(0, path.size() - 4) + "weight");
  return weight == ours.end() ? 0 : weight->second.shape(0);
}

Tensors to_gpt2(Tensors ours, const config::Model& model) {
  Tensors out;
  const auto move = [&](const std::string& from, const std::string& to, bool turn) {
    const auto it = ours.find(from);
    if (it != ours.end()) {
      out.emplace(to, turn ? transposed(it->second) : it->second);
    } else if (from.ends_with(".bias")) {
      if (const int n = bias_width(ours, from))
        out.emplace(to, mx::zeros({n}, ours.begin()->second.dtype()));
    }
  };
  for (const auto& p : kGpt2Model) move(p.ours, p.theirs, p.turn);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    const std::string theirs = "transformer.h." + std::to_string(i) + ".";
    for (const auto& p : kGpt2Block) move(block + p.ours, theirs + p.theirs, p.turn);
    std::vector<mx::array> weights, biases;
    for (const char* part : kQkv) {
      const std::string path = block + "self_attn." + part;
      const auto& w = ours.at(path + ".weight");
      weights.push_back(mx::transpose(w));
      const auto bias = ours.find(path + ".bias");
      biases.push_back(bias != ours.end() ? bias->second : mx::zeros({w.shape(0)}, w.dtype()));
    }
    out.emplace(theirs + "attn.c_attn.weight", mx::concatenate(weights, 1));
    out.emplace(theirs + "attn.c_attn.bias", mx::concatenate(biases, 0));
  }
  return out;
}

// The headless class (GPT2Model) saves the same tensors without the "transformer." in front.
Tensors from_gpt2(Tensors theirs, const config::Model& model) {
  const bool headless = theirs.count("wte.weight") > 0;
  Tensors out;
  const auto take = [&](const std::string& name, const std::string& to, bool turn) {
    auto node =
        theirs.extract(headless && name.starts_with("transformer.") ? name.substr(12) : name);
    if (!node.empty())
      out.emplace(to,
                  turn && node.mapped().ndim() == 2 ? transposed(node.mapped()) : node.mapped());
  };
  for (const auto& p : kGpt2Model) take(p.theirs, p.ours, p.turn);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    const std::string name = (headless ? "h." : "transformer.h.") + std::to_string(i) + ".";
    for (const auto& p : kGpt2Block)
      take("transformer.h." + std::to_string(i) + "." + p.theirs, block + p.ours, p.turn);
    for (const auto& [suffix, axis] : {std::pair{"weight", 1}, std::pair{"bias", 0}}) {
      auto node = theirs.extract(name + "attn.c_attn." + suffix);
      if (node.empty()) continue;
      const auto& fused = node.mapped();
      const bool fits = static_cast<int>(fused.ndim()) == axis + 1 && fused.shape(axis) % 3 == 0;
      if (!fits)
        throw Error(Kind::mismatch, "[load] " + name + "attn.c_attn." + suffix +
                                        ": expected three projections side by side");
      const auto parts = mx::split(fused, 3, axis);
      for (size_t k = 0; k < 3; ++k)
        out.emplace(block + "self_attn." + kQkv[k] + "." + suffix,
                    axis == 1 ? transposed(parts[k]) : parts[k]);
    }
    theirs.erase(name + "attn.bias"), theirs.erase(name + "attn.masked_bias");
  }
  for (auto& [name, array] : theirs) out.emplace(name, array);  // reported as unused
  return out;
}

// Which biases our own config has: what is not among them must be zero.
void drop_zero_biases(Tensors& tensors, const config::Model& model) {
  std::vector<std::string> faults;
  const auto drop = [&](const std::string& path) {
    auto node = tensors.extract(path);
    if (node.empty()) return;
    auto any = mx::any(mx::not_equal(node.mapped(), mx::array(0.0f, node.mapped().dtype())));
    if (any.item<bool>()) faults.push_back(path);
  };
  const auto norm_bias = [](const config::Norm& norm) {
    const auto* layer = std::get_if<config::LayerNorm>(&norm);
    return layer && layer->bias;
  };
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const auto& layer = model.layers[i];
    const std::string block = "model.layers." + std::to_string(i) + ".";
    if (const auto* a = std::get_if<config::Attention>(&layer.mixer)) {
      if (!a->qkv_bias)
        for (const char* part : kQkv) drop(block + "self_attn." + part + ".bias");
      if (!a->out_bias) drop(block + "self_attn.o_proj.bias");
    }
    if (const auto* m = std::get_if<config::Mlp>(&layer.ffn); m && !m->bias)
      drop(block + "mlp.up_proj.bias"), drop(block + "mlp.down_proj.bias");
    if (!norm_bias(layer.norm))
      drop(block + "input_layernorm.bias"), drop(block + "post_attention_layernorm.bias");
  }
  if (!norm_bias(model.final_norm)) drop("model.norm.bias");
  if (!faults.empty())
    throw Error(Kind::mismatch,
                "[load] biases that the config does not have are not zero: " + join(faults, ", "));
}

}  // namespace

Tensors names_to_checkpoint(const config::HfForm& form, Tensors tensors,
                            const config::Model& model) {
  return form.model_type == "gpt2" ? to_gpt2(std::move(tensors), model) : tensors;
}

Tensors names_from_checkpoint(const config::HfForm& form, Tensors tensors,
                              const config::Model& model) {
  if (form.model_type == "gpt2") tensors = from_gpt2(std::move(tensors), model);
  if (form.zero_biases) drop_zero_biases(tensors, model);
  std::erase_if(tensors, [](const auto& t) { return t.first.ends_with("rotary_emb.inv_freq"); });
  if (model.tie_head) tensors.erase("lm_head.weight");
  return tensors;
}

}  // namespace lmxlab
