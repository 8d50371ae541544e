#include "lmxlab/models/gguf_names.h"

#include <cmath>
#include <iterator>
#include <optional>
#include <string_view>
#include <vector>

namespace lmxlab {
namespace {

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "llama", true},
    {"mistral", "mistral", true, false, "llama"},
    {"qwen2", "qwen2"},
    {"qwen3", "qwen3"},
    {"gemma", "gemma", false, true},
    {"gemma2", "gemma2", false, true},
    {"gemma3", "gemma3_text", false, true},
    {"phi3", "phi3"},
    {"smollm3", "smollm3", true},
    {"olmo2", "olmo2"},
    {"starcoder2", "starcoder2"},
    {"gpt2", "gpt2"},
};

using Value = GgufKey::Value;
constexpr GgufKey kKeys[] = {
    {"block_count", "num_hidden_layers", Value::integer},
    {"context_length", "max_position_embeddings", Value::integer},
    {"embedding_length", "hidden_size", Value::integer},
    {"feed_forward_length", "intermediate_size", Value::integer},
    {"attention.head_count", "num_attention_heads", Value::integer},
    {"attention.head_count_kv", "num_key_value_heads", Value::integer},
    {"attention.key_length", "head_dim", Value::integer},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", Value::number},
    {"rope.freq_base", "rope_theta", Value::number},
    {"attention.sliding_window", "sliding_window", Value::integer},
    {"attn_logit_softcapping", "attn_logit_softcapping", Value::number},
    {"final_logit_softcapping", "final_logit_softcapping", Value::number},
};

constexpr std::pair<const char*, const char*> kGpt2Keys[] = {
    {"num_hidden_layers", "n_layer"}, {"max_position_embeddings", "n_positions"},
    {"hidden_size", "n_embd"},        {"num_attention_heads", "n_head"},
    {"intermediate_size", "n_inner"},
};

struct Name {
  std::string_view gguf, ours;
};
constexpr Name kModelNames[] = {
    {"token_embd.", "model.embed_tokens."},
    {"position_embd.", "model.embed_positions."},
    {"output_norm.", "model.norm."},
    {"output.", "lm_head."},
};
constexpr Name kBlockNames[] = {
    {"attn_q.", "self_attn.q_proj."},      {"attn_k.", "self_attn.k_proj."},
    {"attn_v.", "self_attn.v_proj."},      {"attn_output.", "self_attn.o_proj."},
    {"attn_q_norm.", "self_attn.q_norm."}, {"attn_k_norm.", "self_attn.k_norm."},
    {"attn_norm.", "input_layernorm."},    {"ffn_gate.", "mlp.gate_proj."},
    {"ffn_up.", "mlp.up_proj."},           {"ffn_down.", "mlp.down_proj."},
};
std::vector<Name> block_names(config::Wiring wiring) {
  std::vector<Name> out(std::begin(kBlockNames), std::end(kBlockNames));
  const bool after = wiring == config::Wiring::sandwich || wiring == config::Wiring::branch;
  out.push_back({"post_attention_norm.", "post_attention_layernorm."});
  out.push_back({"ffn_norm.", after ? "pre_feedforward_layernorm." : "post_attention_layernorm."});
  out.push_back({"post_ffw_norm.", "post_feedforward_layernorm."});
  return out;
}

using Side = std::string_view Name::*;
template <class Table>
std::optional<std::string> renamed(const Table& table, std::string_view name, Side from, Side to,
                                   bool last_wins = false) {
  std::optional<std::string> out;
  for (const Name& n : table)
    if (name.starts_with(n.*from) && (!out || last_wins))
      out = std::string(n.*to) + std::string(name.substr((n.*from).size()));
  return out;
}

std::string translate(const std::string& name, config::Wiring wiring, Side from, Side to,
                      std::string_view block_from, std::string_view block_to) {
  if (const auto found = renamed(kModelNames, name, from, to)) return *found;
  const size_t number = block_from.size();
  if (!name.starts_with(block_from)) return name;
  const auto dot = name.find('.', number);
  if (dot == std::string::npos) return name;
  // Where a pre-norm block has one name for both, its own is the later one.
  const bool pre = wiring != config::Wiring::sandwich && wiring != config::Wiring::branch;
  const auto part = renamed(block_names(wiring), name.substr(dot + 1), from, to, pre);
  return part ? std::string(block_to) + name.substr(number, dot - number) + "." + *part : name;
}

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() {
  return kArchitectures;
}
std::span<const GgufKey> gguf_keys() {
  return kKeys;
}
std::span<const std::pair<const char*, const char*>> gpt2_keys() {
  return kGpt2Keys;
}

double yarn_magnitude(double factor) {
  return factor > 1 ? 1 + 0.1 * std::log(factor) : 1;
}

std::string name_from_gguf(const std::string& name, config::Wiring wiring) {
  return translate(name, wiring, &Name::gguf, &Name::ours, "blk.", "model.layers.");
}
std::string name_to_gguf(const std::string& name, config::Wiring wiring) {
  return translate(name, wiring, &Name::ours, &Name::gguf, "model.layers.", "blk.");
}

}  // namespace lmxlab
