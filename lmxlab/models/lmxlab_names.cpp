#include "lmxlab/models/lmxlab_names.h"

#include "lmxlab/base/error.h"

#include <mlx/ops.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace lmxlab {
namespace {

using core::Tensors;
namespace mx = mlx::core;

struct Pair {
  const char *theirs, *ours;
};

// What changes by its beginning, where a rule has not taken it whole.
std::string renamed(const std::string& name, const std::vector<Pair>& rules) {
  for (const auto& r : rules)
    if (name.starts_with(r.theirs)) return r.ours + name.substr(std::string_view(r.theirs).size());
  return name;
}

// The tensors of one block, by their names behind "blocks.N.".
class Block {
 public:
  Block(Tensors theirs, const config::Block& config, std::string path, Tensors& out)
      : theirs_(std::move(theirs)), config_(config), path_(std::move(path)), out_(out) {}

  /// @return  how many norms of missing branches were left out
  int translate() {
    int without = 0;
    const auto norm = [&](const char* name, bool wanted, const char* ours) {
      for (const std::string leaf : {"weight", "bias"})
        if (const auto w = take(name + leaf)) wanted ? put(ours + leaf, *w) : void(++without);
    };
    norm("attn_norm.", !std::holds_alternative<config::Nothing>(config_.mixer), "input_layernorm.");
    norm("ffn_norm.", !std::holds_alternative<config::Nothing>(config_.ffn),
         "post_attention_layernorm.");
    if (const auto* m = std::get_if<config::Mla>(&config_.mixer)) latent_attention(*m);
    const bool moe = std::holds_alternative<config::Moe>(config_.ffn);
    if (moe) experts();
    std::vector<Pair> rules{{"attention.kv_down.", "self_attn.kv_a_proj_with_mqa."},
                            {"attention.kv_norm.", "self_attn.kv_a_layernorm."},
                            {"attention.kv_up.", "self_attn.kv_b_proj."},
                            {"attention.q_down.", "self_attn.q_a_proj."},
                            {"attention.conv_weight", "self_attn.conv1d.weight"},
                            {"attention.conv_bias", "self_attn.conv1d.bias"},
                            {"ffn.router.", "mlp.gate."},
                            {"ffn.expert_bias", "mlp.gate.e_score_correction_bias"},
                            {"ffn.score_correction_bias", "mlp.gate.e_score_correction_bias"},
                            {"ffn.down_proj.", "mlp.fc1_latent_proj."},
                            {"ffn.up_proj.", "mlp.fc2_latent_proj."}};
    if (std::holds_alternative<config::Mla>(config_.mixer))
      rules.insert(rules.begin(), {"attention.q_norm.", "self_attn.q_a_layernorm."});
    rules.push_back({"attention.", "self_attn."});
    if (!moe)
      for (const Pair& p : {Pair{"ffn.gate.", "mlp.gate_proj."}, Pair{"ffn.up.", "mlp.up_proj."},
                            Pair{"ffn.down.", "mlp.down_proj."}})
        rules.push_back(p);
    for (auto& [name, array] : theirs_) put(renamed(name, rules), array);
    return without;
  }

 private:
  std::optional<mx::array> take(const std::string& name) {
    auto node = theirs_.extract(name);
    return node.empty() ? std::nullopt : std::optional(node.mapped());
  }
  void put(const std::string& name, const mx::array& a) { out_.emplace(path_ + name, a); }

  // Of each query head what turns comes first there, and last with us.
  void latent_attention(const config::Mla& m) {
    for (const auto& [from, to] : {std::pair("attention.q_up.weight", "self_attn.q_b_proj.weight"),
                                   std::pair("attention.q_proj.weight", "self_attn.q_proj.weight"),
                                   std::pair("attention.q_proj.bias", "self_attn.q_proj.bias")}) {
      const auto w = take(from);
      if (!w) continue;
      const int width = m.nope_dim + m.rope_dim;
      if (w->ndim() == 0 || w->shape(0) != m.heads * width) {
        put(to, *w);  // the load says what does not fit
        continue;
      }
      auto shape = w->shape();
      shape[0] = width, shape.insert(shape.begin(), m.heads);
      const auto parts = mx::split(mx::reshape(*w, shape), mx::Shape{m.rope_dim}, 1);
      put(to, mx::reshape(mx::concatenate({parts[1], parts[0]}, 1), w->shape()));
    }
  }

  // "prefix.0.suffix", "prefix.1.suffix", ... as long as there are any.
  std::vector<mx::array> row_of(const std::string& prefix, const std::string& suffix) {
    std::vector<mx::array> out;
    while (auto w = take(prefix + std::to_string(out.size()) + suffix)) out.push_back(*w);
    return out;
  }

  void experts() {
    for (const auto& part : {std::string("gate"), std::string("up"), std::string("down")}) {
      const auto all = row_of("ffn.experts.", "." + part + ".weight");
      if (!all.empty()) put("mlp.experts." + part + "_proj.weight", mx::stack(all, 0));
      // Several shared experts are one that is as wide as they are together.
      auto shared = row_of("ffn.shared_experts.", "." + part + ".weight");
      if (auto one = take("ffn.shared_expert." + part + ".weight")) shared.push_back(*one);
      if (!shared.empty())
        put("mlp.shared_experts." + part + "_proj.weight",
            mx::concatenate(shared, part == "down" ? 1 : 0));
    }
  }

  Tensors theirs_;
  const config::Block& config_;
  std::string path_;
  Tensors& out_;
};

}  // namespace

bool has_lmxlab_names(const Tensors& tensors) {
  return tensors.contains("embed.weight") &&
         std::any_of(tensors.begin(), tensors.end(),
                     [](const auto& t) { return t.first.starts_with("blocks.0."); });
}

Tensors names_from_lmxlab(Tensors tensors, const config::Model& model,
                          std::vector<std::string>& warnings) {
  if (const auto delta = tensors.find("blocks.0.attention.decay_proj.weight");
      delta != tensors.end())
    throw Error(Kind::unsupported,
                "[load] " + delta->first +
                    ": lmxlab's gated delta net corrects the state before it decays, which no "
                    "published one does. Train the model anew, with a `gated_delta` mixer.");
  std::vector<Tensors> blocks(model.layers.size());
  Tensors out;
  const std::vector<Pair> outside{
      {"embed.", "model.embed_tokens."}, {"final_norm.", "model.norm."}, {"head.", "lm_head."}};
  for (auto& [name, array] : tensors) {
    constexpr std::string_view kBlocks = "blocks.";
    const auto dot = name.find('.', kBlocks.size());
    size_t layer = blocks.size();
    if (name.starts_with(kBlocks) && dot != std::string::npos) {
      const auto number = name.substr(kBlocks.size(), dot - kBlocks.size());
      const bool digits = !number.empty() && number.size() < 7 &&
                          number.find_first_not_of("0123456789") == std::string::npos;
      if (digits) layer = std::min(layer, static_cast<size_t>(std::stoul(number)));
    }
    if (layer < blocks.size())
      blocks[layer].emplace(name.substr(dot + 1), array);
    else
      out.emplace(renamed(name, outside), array);
  }
  int without = 0;
  for (size_t i = 0; i < blocks.size(); ++i)
    without +=
        Block(std::move(blocks[i]), model.layers[i], "model.layers." + std::to_string(i) + ".", out)
            .translate();
  if (without > 0)
    warnings.push_back("lmxlab added a norm of the stream where a block has no mixer or no FFN (" +
                       std::to_string(without) +
                       " norms): here nothing is added, and answers differ from its");
  if (model.tie_head) out.erase("lm_head.weight");
  return out;
}

}  // namespace lmxlab
