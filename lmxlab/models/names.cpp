#include "lmxlab/models/names.h"

#include "lmxlab/base/text.h"
#include "lmxlab/models/name_rules.h"

#include <mlx/ops.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace lmxlab {
namespace {

using core::Tensors;

constexpr const char* kQkv[] = {"q_proj", "k_proj", "v_proj"};
constexpr const char* kOurLayers = "model.layers.";
constexpr const char* kOurHeads = "model.mtp_heads.";
// Copies of the model's own that DeepSeek's and GLM's checkpoints have in each head.
constexpr const char* kShared[] = {"embed_tokens.weight", "shared_head.head.weight"};
constexpr int kShards = 4;
// What a matrix is made of, dense or packed.
constexpr const char* kLeaves[] = {"weight", "bias", "scales", "biases"};

// "model.layers.7.mlp.up_proj.weight" in parts: "7." and the rest; none of what is in no block.
struct InBlock {
  std::string number, rest;
};
std::optional<InBlock> in_block(const std::string& name, const std::string& layers) {
  if (!name.starts_with(layers)) return std::nullopt;
  const auto dot = name.find('.', layers.size());
  if (dot == std::string::npos) return std::nullopt;
  return InBlock{name.substr(layers.size(), dot + 1 - layers.size()), name.substr(dot + 1)};
}
std::string renamed(const std::string& name, const std::vector<Rename>& rules, bool to_ours) {
  for (const auto& r : rules) {
    const std::string_view from = to_ours ? r.theirs : r.ours;
    if (name.starts_with(from)) return (to_ours ? r.ours : r.theirs) + name.substr(from.size());
  }
  return name;
}
mx::array turned(const mx::array& a, bool turn) {
  return turn && a.ndim() == 2 ? mx::contiguous(mx::transpose(a)) : a;
}
// Rows of each matrix of a layer that a fused one may hold.
int rows_of(std::string_view part, const config::Block& layer) {
  const auto* a = config::attention_in(layer.mixer);
  const auto* m = std::get_if<config::Mlp>(&layer.ffn);
  if (part.starts_with("mlp.shared_experts.")) {
    const auto* moe = std::get_if<config::Moe>(&layer.ffn);
    return moe ? moe->shared : 0;
  }
  if (part.starts_with("mlp.")) return m ? m->hidden : 0;
  if (!a) return 0;
  const auto is = [&](const char* name) { return part.find(name) != part.npos; };
  return is("q_proj")      ? a->heads * a->head_dim
         : is("gate_proj") ? a->gate_width()
         : is("v_proj")    ? a->kv_heads * a->value_dim()
                           : a->kv_heads * a->head_dim;
}

// A fused matrix's rows as [outer, parts, inner]: how many of them each of ours has.
struct Cut {
  int outer;
  std::vector<int> inner;     // in their order
  std::vector<size_t> order;  // which of ours
};
Cut cut_of(const Fused& f, const config::Block& layer) {
  Cut cut{1, {}, {}};
  for (size_t i = 0; i < f.ours.size(); ++i) cut.order.push_back(i);
  if (f.layout == Fused::Layout::shards) cut.outer = kShards, cut.order = {0, 2, 1};
  if (f.layout == Fused::Layout::heads)
    if (const auto* a = std::get_if<config::Attention>(&layer.mixer)) cut.outer = a->heads;
  if (f.layout == Fused::Layout::grouped)
    if (const auto* a = std::get_if<config::Attention>(&layer.mixer)) cut.outer = a->kv_heads;
  for (const size_t i : cut.order)
    cut.inner.push_back(rows_of(f.ours[i], layer) / std::max(1, cut.outer));
  return cut;
}
mx::Shape with_rows(const mx::array& a, std::vector<int> first) {
  mx::Shape out(first.begin(), first.end());
  for (size_t i = 1; i < a.ndim(); ++i) out.push_back(a.shape(static_cast<int>(i)));
  return out;
}
std::vector<mx::array> split_rows(const mx::array& fused, const Cut& cut) {
  const int each = fused.shape(0) / cut.outer;
  const auto groups = mx::reshape(fused, with_rows(fused, {cut.outer, each}));
  std::vector<mx::array> out(cut.order.size(), fused);
  int from = 0;
  for (size_t i = 0; i < cut.order.size(); ++i) {
    auto start = mx::Shape(groups.ndim(), 0), stop = groups.shape();
    start[1] = from, stop[1] = from += cut.inner[i];
    out[cut.order[i]] =
        mx::reshape(mx::slice(groups, start, stop), with_rows(fused, {cut.outer * cut.inner[i]}));
  }
  return out;
}
mx::array fuse_rows(const std::vector<mx::array>& parts, const Cut& cut) {
  std::vector<mx::array> groups;
  int all = 0;
  for (size_t i = 0; i < cut.order.size(); ++i) {
    const auto& part = parts[cut.order[i]];
    all += part.shape(0);
    groups.push_back(mx::reshape(part, with_rows(part, {cut.outer, cut.inner[i]})));
  }
  return mx::reshape(mx::concatenate(groups, 1), with_rows(parts[0], {all}));
}

// "a.*.b" -> "a.", ".b"
std::pair<std::string, std::string> around_star(const std::string& pattern) {
  const auto star = pattern.find('*');
  return {pattern.substr(0, star), pattern.substr(star + 1)};
}

// The way there: every block's tensors, by their names behind the number.
class Block {
 public:
  Block(const NameRules& rules, const config::Block& layer, int dim)
      : rules_(rules), layer_(layer), renames_(rules.block), reshaped_(rules.reshaped) {
    if (config::recurrent_size(layer.mixer, dim))
      renames_.insert(renames_.begin(), rules.recurrent.begin(), rules.recurrent.end());
    if (std::holds_alternative<config::Nothing>(layer.mixer))
      renames_.insert(renames_.begin(), rules.ffn_alone.begin(), rules.ffn_alone.end());
  }
  Block(const NameRules& rules, const config::Block& layer, int dim, const Branch& branch)
      : Block(rules, layer, dim) {
    renames_.insert(renames_.begin(), branch.names.begin(), branch.names.end());
    reshaped_.insert(reshaped_.end(), branch.reshaped.begin(), branch.reshaped.end());
  }

  void to_ours(std::string path, Tensors theirs, Tensors& out) const {
    for (const char* b : rules_.buffers) theirs.erase(b);
    for (const auto& c : rules_.constants) theirs.erase(c.theirs);
    for (const auto& s : rules_.stacked) {
      const auto [before, behind] = around_star(s.theirs);
      for (const char* leaf : kLeaves) {
        std::vector<mx::array> parts;
        const auto name = [&] { return before + std::to_string(parts.size()) + behind + leaf; };
        for (auto node = theirs.extract(name()); !node.empty(); node = theirs.extract(name()))
          parts.push_back(node.mapped());
        if (const auto* m = config::experts_in(layer_); m && s.count)
          if (const auto own = static_cast<size_t>(m->experts); parts.size() > own)
            parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(own), parts.end());
        if (!parts.empty()) out.emplace(path + s.ours + leaf, mx::stack(parts, 0));
      }
    }
    for (const auto& r : reshaped_) reshape(path, r.theirs, r.ours, r.to_ours, theirs, out);
    for (const auto& f : rules_.fused) {
      if (!has(f)) continue;
      for (const char* leaf : kLeaves) {
        auto node = theirs.extract(std::string(f.theirs) + leaf);
        if (node.empty()) continue;
        const auto fused = turned(node.mapped(), rules_.turned);
        const auto cut = cut_of(f, layer_);
        int all = 0;
        for (const int n : cut.inner) all += cut.outer * n;
        if (fused.ndim() == 0 || fused.shape(0) != all)
          throw Error(Kind::mismatch, "[load] " + path + node.key() + ": expected " +
                                          std::to_string(all) + " rows, got " +
                                          std::to_string(fused.ndim() ? fused.shape(0) : 0));
        const auto parts = split_rows(fused, cut);
        for (size_t i = 0; i < parts.size(); ++i) out.emplace(path + f.ours[i] + leaf, parts[i]);
      }
    }
    for (auto& [name, array] : theirs)
      out.emplace(path + renamed(name, renames_, true), turned(array, rules_.turned));
  }

  void to_theirs(std::string path, Tensors ours, Tensors& out) const {
    for (const auto& c : rules_.constants)
      out.emplace(path + c.theirs, mx::array(c.value, ours.begin()->second.dtype()));
    for (const auto& s : rules_.stacked) {
      const auto [before, behind] = around_star(s.theirs);
      for (const char* leaf : kLeaves) {
        auto node = ours.extract(std::string(s.ours) + leaf);
        if (node.empty()) continue;
        const int own = node.mapped().shape(0), all = s.count ? s.count(layer_) : own;
        for (int i = 0; i < std::max(own, all); ++i)
          out.emplace(path + before + std::to_string(i) + behind + leaf,
                      i < own ? mx::take(node.mapped(), i, 0)
                              : mx::zeros_like(mx::take(node.mapped(), 0, 0)));
      }
    }
    for (const auto& r : reshaped_) reshape(path, r.ours, r.theirs, r.to_theirs, ours, out);
    for (const auto& f : rules_.fused) {
      if (!has(f)) continue;
      for (const char* leaf : kLeaves) {
        std::vector<mx::array> parts;
        for (const char* o : f.ours)
          if (auto node = ours.extract(std::string(o) + leaf); !node.empty())
            parts.push_back(node.mapped());
        if (parts.size() == f.ours.size())
          out.emplace(path + f.theirs + leaf,
                      turned(fuse_rows(parts, cut_of(f, layer_)), rules_.turned));
      }
    }
    for (auto& [name, array] : ours)
      out.emplace(path + renamed(name, renames_, false), turned(array, rules_.turned));
  }

 private:
  // Whether the layer has the parts of a fused matrix at all.
  bool has(const Fused& f) const {
    return std::all_of(f.ours.begin(), f.ours.end(),
                       [&](const char* o) { return rows_of(o, layer_) > 0; });
  }
  // Where all of them are there.
  void reshape(const std::string& path, const std::vector<const char*>& from,
               const std::vector<const char*>& to, const Reshaped::Turn& turn, Tensors& in,
               Tensors& out) const {
    core::Arrays parts;
    for (const char* name : from)
      if (const auto it = in.find(name); it != in.end()) parts.push_back(it->second);
    if (parts.size() != from.size()) return;
    for (const char* name : from) in.erase(name);
    const auto turned = turn(parts, layer_);
    for (size_t i = 0; i < to.size(); ++i) out.emplace(path + to[i], turned[i]);
  }

  const NameRules& rules_;
  const config::Block& layer_;
  std::vector<Rename> renames_;
  std::vector<Reshaped> reshaped_;
};

Tensors renamed_whole(const Tensors& tensors, const NameRules& rules, bool to_ours) {
  Tensors out;
  for (const auto& [name, array] : tensors) out.emplace(rules.whole(name, to_ours), array);
  return out;
}

// Which branch a name of theirs belongs to; the first where there are none.
size_t branch_of(const std::string& name, const std::vector<Branch>& branches) {
  const auto mine = [&](const Branch& b) {
    return std::any_of(b.names.begin(), b.names.end(),
                       [&](const Rename& r) { return name.starts_with(r.theirs); });
  };
  const auto it = std::find_if(branches.begin(), branches.end(), mine);
  return it == branches.end() ? 0 : static_cast<size_t>(it - branches.begin());
}

Tensors translated(Tensors tensors, const NameRules& rules, const config::Model& model,
                   bool to_ours) {
  const std::string from = to_ours ? rules.layers : kOurLayers;
  const std::string to = to_ours ? kOurLayers : rules.layers;
  const size_t branches = std::max<size_t>(1, rules.branches.size());  // blocks of a layer
  const size_t layers = model.layers.size() / branches;                // of theirs
  std::vector<Tensors> blocks(model.layers.size()), heads(model.mtp_heads.size());
  Tensors out;
  const auto number_of = [](const InBlock& part) {
    size_t number = SIZE_MAX;
    std::from_chars(part.number.data(), part.number.data() + part.number.size(), number);
    return number;
  };
  if (to_ours && rules.whole) tensors = renamed_whole(tensors, rules, to_ours);
  for (auto& [name, array] : tensors) {
    // A class may keep what is outside of our blocks inside of one of its layers.
    const auto outside = renamed(name, rules.model, to_ours);
    const auto part = outside == name ? in_block(name, from) : std::nullopt;
    // Heads are layers of theirs, behind the others.
    const auto of_head = to_ours ? part : in_block(name, kOurHeads);
    size_t layer = part ? number_of(*part) : SIZE_MAX;
    if (of_head) {
      const size_t head = number_of(*of_head) - (to_ours ? layers : 0);
      if (head < heads.size()) {
        heads[head].emplace(of_head->rest, array);
        continue;
      }
    }
    if (to_ours && layer < layers)
      layer = layer * branches + branch_of(part->rest, rules.branches);
    else if (to_ours)
      layer = blocks.size();
    if (layer < blocks.size())
      blocks[layer].emplace(part->rest, array);
    else
      out.emplace(outside, array);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].empty()) continue;
    const auto block = rules.branches.empty()
                           ? Block(rules, model.layers[i], model.dim)
                           : Block(rules, model.layers[i], model.dim, rules.branches[i % branches]);
    const std::string path = to + std::to_string(to_ours ? i : i / branches) + ".";
    to_ours ? block.to_ours(path, std::move(blocks[i]), out)
            : block.to_theirs(path, std::move(blocks[i]), out);
    if (to_ours || !rules.made) continue;
    for (auto& [name, array] : rules.made(model, static_cast<int>(i)))
      out.emplace(path + name, array);
  }
  for (size_t k = 0; k < heads.size(); ++k) {
    if (heads[k].empty()) continue;
    const Block block(rules, model.mtp_heads[k], model.dim);
    if (to_ours) {
      for (const char* copy : kShared) heads[k].erase(copy);
      block.to_ours(kOurHeads + std::to_string(k) + ".", std::move(heads[k]), out);
    } else {
      block.to_theirs(to + std::to_string(layers + k) + ".", std::move(heads[k]), out);
    }
  }
  return !to_ours && rules.whole ? renamed_whole(out, rules, to_ours) : out;
}

// Names of a checkpoint with a language model inside a larger one, and of a class without a head.
Tensors only_text(Tensors theirs, const std::string& layers) {
  constexpr std::string_view kOthers[] = {
      "vision_tower.", "multi_modal_projector.", "vision_model.",
      "visual.",       "model.vision_tower.",    "model.multi_modal_projector.",
      "model.visual.", "audio_tower.",           "mtp."};
  const auto any = [&](std::string_view prefix) {
    return std::any_of(theirs.begin(), theirs.end(),
                       [&](const auto& t) { return t.first.starts_with(prefix); });
  };
  const bool inside = any("language_model.") || any("model.language_model.");
  // "transformer.h." without a head is "h.".
  const std::string root = layers.substr(0, layers.find('.') + 1);
  const bool headless = !inside && !any(root) && any(layers.substr(root.size()));
  if (!inside && !headless) return theirs;
  Tensors out;
  for (auto& [name, array] : theirs) {
    const auto other = [&](std::string_view p) { return name.starts_with(p); };
    if (inside && std::any_of(std::begin(kOthers), std::end(kOthers), other)) continue;
    std::string n = headless && !name.starts_with("lm_head.") ? root + name : name;
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
  if (form.zero_biases) add_zero_biases(tensors, model);
  return translated(std::move(tensors), name_rules(form.model_type, model), model, false);
}

Tensors names_from_checkpoint(const config::HfForm& form, Tensors tensors,
                              const config::Model& model) {
  const auto rules = name_rules(form.model_type, model);
  tensors = translated(only_text(std::move(tensors), rules.layers), rules, model, true);
  if (form.zero_biases) drop_zero_biases(tensors, model);
  std::erase_if(tensors, [](const auto& t) { return t.first.ends_with("rotary_emb.inv_freq"); });
  if (model.tie_head) tensors.erase("lm_head.weight");
  return tensors;
}

// Adapters go the way of weights: B has a matrix's rows, A its columns, lengths are as a bias.
LowRanks adapters_to_checkpoint(const config::HfForm& form, const LowRanks& adapters,
                                const config::Model& model) {
  const auto rules = name_rules(form.model_type, model);
  LowRanks out, left = adapters;
  const auto put = [&](const std::vector<std::string>& paths, const std::vector<LowRank>& parts) {
    Tensors rows;
    std::vector<mx::array> a;
    int rank = 0, all = 0;
    for (const auto& p : parts) all += p.a.shape(0);
    for (size_t i = 0; i < parts.size(); ++i) {
      const int own = parts[i].a.shape(0);
      if (own > 0) a.push_back(parts[i].a);
      rows.emplace(paths[i] + ".weight", mx::pad(parts[i].b, {{0, 0}, {rank, all - own - rank}}));
      if (parts[i].magnitude) rows.emplace(paths[i] + ".bias", *parts[i].magnitude);
      rank += own;
    }
    std::optional<mx::array> b, magnitude;
    std::string path;
    for (auto& [name, array] : translated(rows, rules, model, false)) {
      if (name.ends_with(".weight"))
        path = name.substr(0, name.size() - 7), b = turned(array, rules.turned);
      else if (name.ends_with(".bias"))
        magnitude = array;
    }
    out.emplace(path, LowRank{a.size() == 1 ? a[0] : mx::concatenate(a, 0), *b, magnitude});
  };
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const std::string block = kOurLayers + std::to_string(l) + ".";
    for (const auto& f : rules.fused) {
      std::vector<std::string> paths;
      std::vector<LowRank> parts;
      size_t found = 0, lengths = 0;
      for (const std::string ours : f.ours) {
        paths.push_back(block + ours.substr(0, ours.size() - 1));
        const auto it = left.find(paths.back());
        found += it != left.end(), lengths += it != left.end() && it->second.magnitude;
      }
      if (found == 0) continue;
      if (lengths > 0 && found < paths.size())
        throw Error(Kind::unsupported, "[adapter] " + std::string(f.theirs) +
                                           " is one matrix in the checkpoint: DoRA must have all "
                                           "of its parts or none.");
      int columns = 0;
      for (const auto& p : paths)
        if (const auto it = left.find(p); it != left.end()) columns = it->second.a.shape(1);
      for (size_t i = 0; i < paths.size(); ++i) {
        auto node = left.extract(paths[i]);
        if (!node.empty())
          parts.push_back(std::move(node.mapped()));
        else
          parts.push_back(
              {mx::zeros({0, columns}), mx::zeros({rows_of(f.ours[i], model.layers[l]), 0})});
      }
      put(paths, parts);
    }
  }
  for (const auto& [path, low] : left) put({path}, {low});
  return out;
}

LowRanks adapters_from_checkpoint(const config::HfForm& form, const LowRanks& adapters,
                                  const config::Model& model) {
  const auto rules = name_rules(form.model_type, model);
  LowRanks out;
  for (const auto& [path, low] : adapters) {
    Tensors rows{{path + ".weight", turned(low.b, rules.turned)}};
    if (low.magnitude) rows.emplace(path + ".bias", *low.magnitude);
    const auto ours = translated(rows, rules, model, true);
    for (const auto& [name, array] : ours) {
      if (!name.ends_with(".weight")) continue;
      const auto own = name.substr(0, name.size() - 7);
      const auto length = ours.find(own + ".bias");
      out.emplace(own,
                  LowRank{low.a, array,
                          length == ours.end() ? std::nullopt : std::optional(length->second)});
    }
  }
  return out;
}

}  // namespace lmxlab
