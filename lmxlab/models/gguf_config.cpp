#include "lmxlab/models/gguf_config.h"

#include "lmxlab/base/text.h"
#include "lmxlab/models/gguf_names.h"

#include <mlx/ops.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {
namespace {

namespace mx = mlx::core;

using Architecture = GgufArchitecture;
using Value = GgufKey::Value;

const Architecture& architecture_of(const io::Gguf& file) {
  const auto name = file.at("general.architecture").as_string();
  std::vector<std::string> known;
  for (const auto& a : gguf_architectures()) {
    if (name == a.name) return a;
    known.emplace_back(a.name);
  }
  throw Error(Kind::unsupported, "[gguf] models of architecture \"" + std::string(name) +
                                     "\" are not supported; known: " + join(known, ", "));
}

// A value that llama.cpp also allows as a list, one a layer, where all are alike.
int64_t integer_of(const io::GgufValue& value) {
  if (value.type() != io::GgufValue::Type::array) return value.as_integer();
  const auto all = value.as_integers();
  if (all.empty() || std::count(all.begin(), all.end(), all[0]) != std::ptrdiff_t(all.size()))
    throw Error(Kind::unsupported, "layers that differ in it are not supported");
  return all[0];
}

class Reader {
 public:
  Reader(const io::Gguf& file, const Architecture& arch)
      : file_(file), arch_(arch), prefix_(std::string(arch.name) + ".") {}

  Json hf() {
    for (const auto& k : gguf_keys()) copy(k.gguf, k.hf, k.value);
    out_["model_type"] = Json(arch_.model_type);
    const auto& table = file_.tensor("token_embd.weight");
    if (table.shape.size() != 2)
      throw Error(Kind::bad_data, "[gguf] tensor token_embd.weight: expected 2 axes, got " +
                                      std::to_string(table.shape.size()));
    if (const Json* depth = out_.find("num_hidden_layers");
        depth && depth->as_integer() > static_cast<int64_t>(file_.tensors().size()))
      throw Error(Kind::bad_data, "[gguf] key " + prefix_ + "block_count: " + depth->dump() +
                                      " blocks, but the file has " +
                                      std::to_string(file_.tensors().size()) + " tensors");
    out_["vocab_size"] = Json(table.shape[0]);
    out_["tie_word_embeddings"] = Json(!has("output.weight"));
    const bool biased = has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
    const std::string type = arch_.model_type;
    if (type == "gpt2") {
      copy("attention.layer_norm_epsilon", "layer_norm_epsilon", Value::number);
      for (const auto& [hf, gpt] : gpt2_keys()) rename(hf, gpt);
      out_.erase("num_key_value_heads"), out_.erase("rms_norm_eps"), out_.erase("rope_theta");
      return std::move(out_);
    }
    if (type == "starcoder2") {
      copy("attention.layer_norm_epsilon", "norm_epsilon", Value::number);
      out_["use_bias"] = Json(biased);
      out_.erase("rms_norm_eps");
    } else if (type != "qwen2" && type != "phi3" && type != "mistral") {
      out_["attention_bias"] = Json(biased);
    }
    if (type == "llama" || type == "smollm3") out_["mlp_bias"] = Json(has("blk.0.ffn_up.bias"));
    if (type == "mistral" && !out_.contains("sliding_window")) out_["sliding_window"] = Json();
    if (type == "qwen2" || type == "qwen3" || type == "smollm3") out_.erase("sliding_window");
    if (arch_.plus_one) gemma(type);
    rope();
    return std::move(out_);
  }

 private:
  bool has(const char* tensor) const { return file_.tensors().contains(tensor); }
  const io::GgufValue* find(const std::string& key) const { return file_.find(prefix_ + key); }
  void copy(const char* gguf, const char* hf, Value value) {
    const auto* found = find(gguf);
    if (!found) return;
    with_context("[gguf] key " + prefix_ + gguf, [&] {
      out_[hf] = value == Value::integer ? Json(integer_of(*found))
                                         : Json(static_cast<float>(found->as_number()));
    });
  }
  void rename(const char* from, const char* to) {
    if (const Json* j = out_.find(from)) {
      const Json value = *j;
      out_.erase(from);
      out_[to] = value;
    }
  }
  // llama.cpp knows these by heart: the largest models divide scores by the stream's share.
  void gemma(const std::string& type) {
    if (type == "gemma") return;
    const auto integer = [&](const char* key) {
      return out_.contains(key) ? out_.at(key).as_integer() : 0;
    };
    const auto layers = integer("num_hidden_layers"), heads = integer("num_attention_heads");
    const bool largest = layers == (type == "gemma2" ? 46 : 62);
    out_["query_pre_attn_scalar"] =
        Json(largest && heads > 0 ? integer("hidden_size") / heads : integer("head_dim"));
    for (const char* cap : {"attn_logit_softcapping", "final_logit_softcapping"})
      if (!out_.contains(cap) && type == "gemma3_text") out_[cap] = Json();
    if (type == "gemma3_text") {
      out_["rope_local_base_freq"] = Json(10'000.0);
      if (const auto* local = find("rope.freq_base_swa"))
        out_["rope_local_base_freq"] = Json(local->as_number());
    }
  }
  void rope() {
    Json table = Json::object();
    const auto number = [&](const char* key) -> std::optional<double> {
      const auto* v = find(key);
      return v ? std::optional(v->as_number()) : std::nullopt;
    };
    const auto* kind = find("rope.scaling.type");
    const std::string type = kind ? std::string(kind->as_string()) : "none";
    const auto factor = number("rope.scaling.factor");
    const auto* original = find("rope.scaling.original_context_length");
    const auto long_factors = divisors("rope_factors_long.weight"),
               short_factors = divisors("rope_factors_short.weight"),
               both = divisors("rope_freqs.weight");
    if (long_factors && short_factors) {
      table["rope_type"] = Json("longrope");
      table["long_factor"] = *long_factors, table["short_factor"] = *short_factors;
      if (const auto magnitude = number("rope.scaling.attn_factor"))
        table["attention_factor"] = Json(*magnitude);
    } else if (both) {  // what Llama 3's rule makes of the frequencies, as a list
      table["rope_type"] = Json("longrope");
      table["long_factor"] = *both, table["short_factor"] = *both;
      table["attention_factor"] = Json(1.0);
    } else if (type == "linear" || type == "yarn") {
      table["rope_type"] = Json(type);
      if (factor) table["factor"] = Json(*factor);
      if (type == "yarn") {
        table["attention_factor"] = Json(number("rope.scaling.attn_factor").value_or(1.0) *
                                         yarn_magnitude(factor.value_or(1.0)));
        for (const char* beta : {"beta_fast", "beta_slow"})
          if (const auto v = number((std::string("rope.scaling.yarn_") + beta).c_str()))
            table[beta] = Json(*v);
      }
    } else if (type != "none" && type != "longrope") {
      throw Error(Kind::unsupported,
                  "[gguf] rope scaling of type \"" + type + "\" is not supported");
    }
    if (original) table["original_max_position_embeddings"] = Json(original->as_integer());
    if (table.contains("rope_type")) out_["rope_scaling"] = table;
    const auto* dims = find("rope.dimension_count");
    const Json* head = out_.find("head_dim");
    const int64_t width = head ? head->as_integer() : implied_head();
    if (dims && width > 0 && dims->as_integer() != width)
      out_["partial_rotary_factor"] =
          Json(static_cast<double>(dims->as_integer()) / static_cast<double>(width));
  }
  int64_t implied_head() const {
    const Json *dim = out_.find("hidden_size"), *heads = out_.find("num_attention_heads");
    return dim && heads && heads->as_integer() > 0 ? dim->as_integer() / heads->as_integer() : 0;
  }
  std::optional<Json> divisors(const char* tensor) const {
    if (!has(tensor)) return std::nullopt;
    auto a = mx::astype(file_.get(tensor), mx::float32, mx::Device::cpu);
    a.eval();
    Json list = Json::array();
    for (size_t i = 0; i < a.size(); ++i) list.push_back(Json(a.data<float>()[i]));
    return list;
  }

  const io::Gguf& file_;
  const Architecture& arch_;
  std::string prefix_;
  Json out_ = Json::object();
};

}  // namespace

config::HfRead read_gguf_config(const io::Gguf& file) {
  const auto& arch = architecture_of(file);
  auto read = config::from_hf(Reader(file, arch).hf());
  for (auto& block : read.model.layers) {
    auto* a = std::get_if<config::Attention>(&block.mixer);
    if (!a) continue;
    auto* rope = std::get_if<config::Rope>(&a->position);
    if (rope && arch.pairs) rope->interleaved = true;
    if (a->qkv_bias) a->out_bias = file.tensors().contains("blk.0.attn_output.bias");
  }
  read.form = config::hf_form(read.model);
  return read;
}

bool gguf_norms_are_whole(const io::Gguf& file) {
  return architecture_of(file).plus_one;
}

}  // namespace lmxlab
