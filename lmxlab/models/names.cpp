#include "lmxlab/models/names.h"

#include "lmxlab/base/text.h"

#include <mlx/ops.h>

#include <algorithm>
#include <map>
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

// ---- the others: our names, but for what is listed here ----

// A part of a name in each form.
struct Rename {
  const char *ours, *theirs;
};
// One matrix over several of ours, their rows one after another.
struct Fused {
  const char* theirs;
  std::vector<const char*> ours;
};
struct Rules {
  std::vector<Rename> renames = {};
  std::vector<Fused> fused = {};
};
const Rules* rules_of(const std::string& model_type) {
  static const std::map<std::string, Rules> all = {
      {"starcoder2",
       {.renames = {{"mlp.up_proj.", "mlp.c_fc."}, {"mlp.down_proj.", "mlp.c_proj."}}}},
      {"phi3",
       {.fused = {{"self_attn.qkv_proj.",
                   {"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."}},
                  {"mlp.gate_up_proj.", {"mlp.gate_proj.", "mlp.up_proj."}}}}},
  };
  const auto it = all.find(model_type);
  return it == all.end() ? nullptr : &it->second;
}

bool replace_part(std::string& name, std::string_view from, std::string_view to) {
  const auto at = name.find(from);
  if (at == std::string::npos) return false;
  name.replace(at, from.size(), to);
  return true;
}
Tensors renamed(Tensors tensors, const Rules& rules, bool to_ours) {
  Tensors out;
  for (auto& [name, array] : tensors) {
    std::string n = name;
    for (const auto& r : rules.renames)
      if (replace_part(n, to_ours ? r.theirs : r.ours, to_ours ? r.ours : r.theirs)) break;
    out.emplace(std::move(n), std::move(array));
  }
  return out;
}

Tensors fuse(Tensors ours, const Rules& rules) {
  Tensors out;
  for (auto& [name, array] : ours) {
    std::string fused = name;
    const auto rule = std::find_if(rules.fused.begin(), rules.fused.end(), [&](const Fused& f) {
      return replace_part(fused, f.ours[0], f.theirs);
    });
    const bool later = std::any_of(rules.fused.begin(), rules.fused.end(), [&](const Fused& f) {
      return std::any_of(f.ours.begin() + 1, f.ours.end(),
                         [&](const char* o) { return name.find(o) != std::string::npos; });
    });
    if (rule == rules.fused.end()) {
      if (!later) out.emplace(name, array);
      continue;
    }
    std::vector<mx::array> parts;
    for (const char* o : rule->ours) {
      std::string part = fused;
      replace_part(part, rule->theirs, o);
      parts.push_back(ours.at(part));
    }
    out.emplace(std::move(fused), mx::concatenate(parts, 0));
  }
  return out;
}
// Rows of each matrix of a layer that a fused one may hold.
int rows_of(std::string_view part, const config::Block& layer) {
  const auto* a = std::get_if<config::Attention>(&layer.mixer);
  const auto* m = std::get_if<config::Mlp>(&layer.ffn);
  if (part.starts_with("mlp.")) return m ? m->hidden : 0;
  return !a ? 0 : (part.find("q_proj") != part.npos ? a->heads : a->kv_heads) * a->head_dim;
}
Tensors split(Tensors theirs, const Rules& rules, const config::Model& model) {
  Tensors out;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    for (const auto& f : rules.fused) {
      for (const char* leaf : {"weight", "bias", "scales", "biases"}) {
        auto node = theirs.extract(block + f.theirs + leaf);
        if (node.empty()) continue;
        int all = 0;
        for (const char* part : f.ours) all += rows_of(part, model.layers[i]);
        const auto& fused = node.mapped();
        if (fused.ndim() == 0 || fused.shape(0) != all)
          throw Error(Kind::mismatch, "[load] " + node.key() + ": expected " + std::to_string(all) +
                                          " rows, got " +
                                          std::to_string(fused.ndim() ? fused.shape(0) : 0));
        int from = 0;
        for (const char* part : f.ours) {
          auto start = mx::Shape(fused.ndim(), 0), stop = fused.shape();
          start[0] = from, stop[0] = from += rows_of(part, model.layers[i]);
          out.emplace(block + part + leaf, mx::slice(fused, start, stop));
        }
      }
    }
  }
  out.merge(theirs);
  return out;
}

// Names of a checkpoint with a language model inside a larger one, and of a class without a head.
Tensors only_text(Tensors theirs) {
  constexpr std::string_view kOthers[] = {
      "vision_tower.", "multi_modal_projector.", "vision_model.",
      "visual.",       "model.vision_tower.",    "model.multi_modal_projector.",
      "model.visual.", "audio_tower.",           "mtp."};
  const auto any = [&](std::string_view prefix) {
    return std::any_of(theirs.begin(), theirs.end(),
                       [&](const auto& t) { return t.first.starts_with(prefix); });
  };
  const bool inside = any("language_model.") || any("model.language_model.");
  const bool headless = !inside && any("embed_tokens.");
  if (!inside && !headless) return theirs;
  Tensors out;
  for (auto& [name, array] : theirs) {
    const auto other = [&](std::string_view p) { return name.starts_with(p); };
    if (inside && std::any_of(std::begin(kOthers), std::end(kOthers), other)) continue;
    std::string n = headless && !name.starts_with("lm_head.") ? "model." + name : name;
    if (n.starts_with("model.language_model.")) n.erase(6, 15);
    if (n.starts_with("language_model.")) n.erase(0, 15);
    out.emplace(std::move(n), array);
  }
  return out;
}

// Zeros for the biases that the class has and the model lacks.
void add_zero_biases(Tensors& tensors, const config::Model& model) {
  const auto theirs = config::with_class_biases(model);
  const auto add = [&](bool wanted, const std::string& path) {
    const auto weight = tensors.find(path + "weight");
    if (wanted && weight != tensors.end())
      tensors.emplace(path + "bias",
                      mx::zeros({weight->second.shape(0)}, tensors.begin()->second.dtype()));
  };
  const auto of_norm = [](const config::Norm& norm) {
    const auto* l = std::get_if<config::LayerNorm>(&norm);
    return l && l->bias;
  };
  for (size_t i = 0; i < theirs.layers.size(); ++i) {
    const auto& layer = theirs.layers[i];
    const std::string block = "model.layers." + std::to_string(i) + ".";
    if (const auto* a = std::get_if<config::Attention>(&layer.mixer)) {
      for (const char* part : kQkv)
        add(a->qkv_bias, block + "self_attn." + std::string(part) + ".");
      add(a->out_bias, block + "self_attn.o_proj.");
    }
    if (const auto* m = std::get_if<config::Mlp>(&layer.ffn))
      for (const char* part : {"gate_proj.", "up_proj.", "down_proj."})
        add(m->bias, block + "mlp." + part);
    add(of_norm(layer.norm), block + "input_layernorm.");
    add(of_norm(layer.norm), block + "post_attention_layernorm.");
  }
  add(of_norm(theirs.final_norm), "model.norm.");
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
      for (const char* part : {"gate_proj", "up_proj", "down_proj"})
        drop(block + "mlp." + part + ".bias");
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
  if (form.model_type == "gpt2") return to_gpt2(std::move(tensors), model);
  if (form.zero_biases) add_zero_biases(tensors, model);
  if (const auto* rules = rules_of(form.model_type))
    tensors = renamed(fuse(std::move(tensors), *rules), *rules, false);
  return tensors;
}

Tensors names_from_checkpoint(const config::HfForm& form, Tensors tensors,
                              const config::Model& model) {
  if (form.model_type == "gpt2") {
    tensors = from_gpt2(std::move(tensors), model);
  } else {
    tensors = only_text(std::move(tensors));
    if (const auto* rules = rules_of(form.model_type))
      tensors = split(renamed(std::move(tensors), *rules, true), *rules, model);
  }
  if (form.zero_biases) drop_zero_biases(tensors, model);
  std::erase_if(tensors, [](const auto& t) { return t.first.ends_with("rotary_emb.inv_freq"); });
  if (model.tie_head) tensors.erase("lm_head.weight");
  return tensors;
}

}  // namespace lmxlab
