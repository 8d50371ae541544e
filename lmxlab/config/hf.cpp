#include "lmxlab/config/hf.h"

#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace lmxlab::config {
namespace {

constexpr int kVersion = 1;

/// Keys that say nothing about the function a model computes: special ids (the tokenizer's and the
/// generator's affair), what transformers does at run time, dropout inside attention (we have
/// none), training-only switches, other heads.
const std::set<std::string, std::less<>> kHarmless = {"_attn_implementation",
                                                      "_name_or_path",
                                                      "architectures",
                                                      "attention_dropout",
                                                      "attn_pdrop",
                                                      "auto_map",
                                                      "bos_token_id",
                                                      "chunk_size_feed_forward",
                                                      "decoder_start_token_id",
                                                      "dtype",
                                                      "eos_token_id",
                                                      "gradient_checkpointing",
                                                      "id2label",
                                                      "initializer_range",
                                                      "is_decoder",
                                                      "is_encoder_decoder",
                                                      "label2id",
                                                      "max_length",
                                                      "model_type",
                                                      "name_or_path",
                                                      "output_attentions",
                                                      "output_hidden_states",
                                                      "pad_token_id",
                                                      "pretraining_tp",
                                                      "problem_type",
                                                      "reorder_and_upcast_attn",
                                                      "return_dict",
                                                      "sep_token_id",
                                                      "summary_activation",
                                                      "summary_first_dropout",
                                                      "summary_proj_to_labels",
                                                      "summary_type",
                                                      "summary_use_proj",
                                                      "task_specific_params",
                                                      "tokenizer_class",
                                                      "torch_dtype",
                                                      "torchscript",
                                                      "transformers_version",
                                                      "unk_token_id",
                                                      "use_cache"};

// ---- reading ----

/// Typed access to an object's members; remembers what was read, and collects what is wrong or
/// missing.
class Keys {
 public:
  Keys(const Json& object, std::string prefix, Problems& problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  /// The first of `names` that is present and not null; older and newer spellings of one thing.
  const Json* find(std::initializer_list<const char*> names) {
    const Json* out = nullptr;
    for (const char* name : names) {
      read_.insert(name);
      const Json* j = object_.find(name);
      if (!out && j && !j->is_null()) out = j, last_ = name;
    }
    return out;
  }
  template <class T>
  T get(std::initializer_list<const char*> names, T otherwise) {
    const Json* j = find(names);
    if (j) fields::read(*j, otherwise, prefix_ + last_, problems_);
    return otherwise;
  }
  int require(std::initializer_list<const char*> names) {
    const Json* j = find(names);
    int out = 1;
    if (j)
      fields::read(*j, out, prefix_ + last_, problems_);
    else
      problems_.add(prefix_ + *names.begin() + ": missing");
    return out;
  }
  void wrong(std::string problem) { problems_.add(std::move(problem)); }
  int depth(std::initializer_list<const char*> names) {
    const int out = require(names);
    if (out > kMaxDepth)
      wrong(prefix_ + *names.begin() + ": expected at most " + std::to_string(kMaxDepth) +
            ", got " + std::to_string(out));
    return std::min(out, kMaxDepth);
  }
  /// A switch of the class that we have only in one position.
  void only(const char* name, bool value, const char* what) {
    if (get<bool>({name}, value) != value) unsupported.push_back(prefix_ + name + ": " + what);
  }
  void unread(std::vector<std::string>& out) const {
    if (object_.is_object())
      for (const auto& [key, _] : object_.as_object())
        if (!read_.contains(key) && !(prefix_.empty() && kHarmless.contains(key)))
          out.push_back(prefix_ + key);
  }
  std::vector<std::string> unsupported;

 private:
  const Json& object_;
  std::string prefix_, last_;
  Problems& problems_;
  std::set<std::string, std::less<>> read_{"lmxlab"};
};

struct ActName {
  Act act;
  const char* name;
};
/// transformers' names, the one we write first.
constexpr ActName kActs[] = {{Act::gelu, "gelu"},
                             {Act::gelu_tanh, "gelu_new"},
                             {Act::silu, "silu"},
                             {Act::relu, "relu"},
                             {Act::relu2, "relu2"},
                             {Act::silu, "swish"},
                             {Act::gelu_tanh, "gelu_pytorch_tanh"},
                             {Act::gelu_tanh, "gelu_fast"}};

std::string act_name(Act act) {
  for (const auto& a : kActs)
    if (a.act == act) return a.name;
  throw Error(Kind::internal, "[hf] an activation without a name");
}

Act read_act(Keys& keys, std::initializer_list<const char*> names, const char* otherwise) {
  const auto name = keys.get<std::string>(names, otherwise);
  std::vector<std::string> known;
  for (const auto& a : kActs) {
    if (name == a.name) return a.act;
    known.emplace_back(a.name);
  }
  keys.unsupported.push_back(std::string(*names.begin()) + ": \"" + name + "\"; " +
                             suggestion(name, known));
  return Act::gelu;
}

Model read_gpt2(Keys& keys) {
  const int dim = keys.require({"n_embd", "hidden_size"}),
            heads = keys.require({"n_head", "num_attention_heads"});
  const int depth = keys.depth({"n_layer", "num_hidden_layers"});
  Model m{.family = "gpt", .dim = dim};
  m.vocab = keys.require({"vocab_size"});
  m.context = keys.require({"n_positions", "max_position_embeddings", "n_ctx"});
  m.position = Learned{m.context};
  m.tie_head = keys.get<bool>({"tie_word_embeddings"}, true);
  m.dropout = keys.get<float>({"resid_pdrop"}, 0.1f);
  keys.find({"embd_pdrop"});  // we have one dropout for both
  m.init_std = keys.get<float>({"initializer_range"}, 0.02f);
  const LayerNorm norm{.eps = keys.get<float>({"layer_norm_epsilon"}, 1e-5f)};
  m.final_norm = norm;
  keys.only("add_cross_attention", false, "cross attention is not supported");
  Attention a{.heads = heads,
              .kv_heads = heads,
              .head_dim = heads > 0 ? dim / heads : 0,
              .position = NoPosition{},
              .qkv_bias = true,
              .out_bias = true};
  if (heads > 0 && dim % heads != 0)
    keys.wrong("n_embd: " + std::to_string(dim) + " is no multiple of n_head, " +
               std::to_string(heads));
  if (!keys.get<bool>({"scale_attn_weights"}, true)) a.scale = 1.f;
  const bool by_layer = keys.get<bool>({"scale_attn_by_inverse_layer_idx"}, false);
  const Mlp mlp{.hidden = keys.get<int>({"n_inner", "intermediate_size"}, gpt_hidden(dim)),
                .act = read_act(keys, {"activation_function"}, "gelu_new"),
                .gated = false,
                .bias = true};
  m.layers = cycle({Block{.mixer = a, .ffn = mlp, .norm = norm}}, depth);
  if (by_layer)
    for (size_t i = 0; i < m.layers.size(); ++i) {
      auto& layer = std::get<Attention>(m.layers[i].mixer);
      layer.scale = layer.scale.value_or(1 / std::sqrt(float(layer.head_dim))) / float(i + 1);
    }
  return m;
}

/// rope_parameters (transformers 5) or rope_theta and rope_scaling (4).
Rope read_rope(Keys& keys, Problems& problems, std::vector<std::string>& unread) {
  Rope rope;
  const Json* parameters = keys.find({"rope_parameters"});
  const Json* scaling = keys.find({"rope_scaling"});
  rope.theta = keys.get<float>({"rope_theta"}, rope.theta);
  const char* name = parameters ? "rope_parameters" : "rope_scaling";
  const Json* table = parameters ? parameters : scaling;
  if (!table) return rope;
  if (!table->is_object()) {
    problems.add(std::string(name) + ": expected a table, got " + std::string(table->type_name()));
    return rope;
  }
  Keys inner(*table, std::string(name) + ".", problems);
  rope.theta = inner.get<float>({"rope_theta"}, rope.theta);
  const auto kind = inner.get<std::string>({"rope_type", "type"}, "default");
  if (kind == "linear") {
    const auto factor = inner.get<float>({"factor"}, 1.f);
    if (!(factor > 0))
      problems.add(std::string(name) + ".factor: expected a positive number, got " +
                   Json(factor).dump());
    else
      rope.scale = 1 / factor;
  } else if (kind == "default" || kind == "none") {
    inner.find({"factor"});
  } else {
    keys.unsupported.push_back(std::string(name) + ": rope scaling of type \"" + kind +
                               "\"; supported: default, linear");
    return rope;
  }
  inner.unread(unread);
  return rope;
}

Model read_llama(Keys& keys, Problems& problems, std::vector<std::string>& unread) {
  const int dim = keys.require({"hidden_size"}), heads = keys.require({"num_attention_heads"});
  const int depth = keys.depth({"num_hidden_layers"});
  Model m{.family = "llama", .dim = dim};
  m.vocab = keys.require({"vocab_size"});
  m.context = keys.get<int>({"max_position_embeddings"}, 2048);
  m.tie_head = keys.get<bool>({"tie_word_embeddings"}, false);
  m.init_std = keys.get<float>({"initializer_range"}, 0.02f);
  const RmsNorm norm{.eps = keys.get<float>({"rms_norm_eps"}, 1e-6f)};
  m.final_norm = norm;
  const bool bias = keys.get<bool>({"attention_bias"}, false);
  Attention a{.heads = heads,
              .kv_heads = keys.get<int>({"num_key_value_heads"}, heads),
              .head_dim = keys.get<int>({"head_dim"}, heads > 0 ? dim / heads : 0)};
  a.position = read_rope(keys, problems, unread);
  a.qkv_bias = a.out_bias = bias;
  const Mlp mlp{.hidden = keys.require({"intermediate_size"}),
                .act = read_act(keys, {"hidden_act"}, "silu"),
                .bias = keys.get<bool>({"mlp_bias"}, false)};
  m.layers = cycle({Block{.mixer = a, .ffn = mlp, .norm = norm}}, depth);
  return m;
}

// ---- writing ----

/// The block that every layer equals, where nothing outside it goes beyond what transformers'
/// classes have.
const Block* common_block(const Model& m) {
  if (m.layers.empty() || m.head_bias || m.embed_scale != 1 || m.logit_softcap) return nullptr;
  const Json first = to_json(m.layers[0]);
  for (const Block& b : m.layers)
    if (!(to_json(b) == first)) return nullptr;
  const Block& b = m.layers[0];
  if (b.wiring != Wiring::pre || !(to_json(b.norm) == to_json(m.final_norm))) return nullptr;
  const auto* a = std::get_if<Attention>(&b.mixer);
  if (!a || !std::get_if<Mlp>(&b.ffn) || a->window || a->qk_norm || a->scale || a->softcap)
    return nullptr;
  return &b;
}

bool is_gpt2(const Model& m) {
  const Block* b = common_block(m);
  if (!b) return false;
  const auto& a = std::get<Attention>(b->mixer);
  return std::holds_alternative<Learned>(m.position) &&
         std::holds_alternative<LayerNorm>(b->norm) &&
         std::holds_alternative<NoPosition>(a.position) && a.heads == a.kv_heads &&
         int64_t{a.heads} * a.head_dim == m.dim && !std::get<Mlp>(b->ffn).gated;
}

bool is_llama(const Model& m) {
  const Block* b = common_block(m);
  if (!b) return false;
  const auto& a = std::get<Attention>(b->mixer);
  const auto* norm = std::get_if<RmsNorm>(&b->norm);
  const auto* rope = std::get_if<Rope>(&a.position);
  return std::holds_alternative<NoPosition>(m.position) && norm && norm->weight_offset == 0 &&
         rope && !rope->interleaved && (rope->dims == 0 || rope->dims == a.head_dim) &&
         std::get<Mlp>(b->ffn).gated;
}

Json gpt2_keys(const Model& m) {
  const Block& b = m.layers[0];
  const auto& a = std::get<Attention>(b.mixer);
  const auto& mlp = std::get<Mlp>(b.ffn);
  const int length = std::get<Learned>(m.position).length;
  return Json::object({{"vocab_size", m.vocab},
                       {"n_positions", length},
                       {"n_ctx", length},
                       {"n_embd", m.dim},
                       {"n_layer", m.layers.size()},
                       {"n_head", a.heads},
                       {"n_inner", mlp.hidden},
                       {"activation_function", act_name(mlp.act)},
                       {"layer_norm_epsilon", std::get<LayerNorm>(b.norm).eps},
                       {"resid_pdrop", m.dropout},
                       {"embd_pdrop", m.dropout},
                       {"attn_pdrop", 0.0},
                       {"scale_attn_weights", true},
                       {"tie_word_embeddings", m.tie_head},
                       {"initializer_range", m.init_std}});
}

Json llama_keys(const Model& m) {
  const Block& b = m.layers[0];
  const auto& a = std::get<Attention>(b.mixer);
  const auto& mlp = std::get<Mlp>(b.ffn);
  const auto& rope = std::get<Rope>(a.position);
  Json out = Json::object(
      {{"vocab_size", m.vocab},
       {"max_position_embeddings", m.context},
       {"hidden_size", m.dim},
       {"num_hidden_layers", m.layers.size()},
       {"num_attention_heads", a.heads},
       {"num_key_value_heads", a.kv_heads},
       {"head_dim", a.head_dim},
       {"intermediate_size", mlp.hidden},
       {"hidden_act", mlp.act == Act::gelu_tanh ? "gelu_pytorch_tanh" : act_name(mlp.act)},
       {"rms_norm_eps", std::get<RmsNorm>(b.norm).eps},
       {"rope_theta", rope.theta}});
  if (rope.scale != 1)
    out["rope_scaling"] = Json::object({{"rope_type", "linear"}, {"factor", 1.f / rope.scale}});
  out["attention_bias"] = a.qkv_bias || a.out_bias;
  out["mlp_bias"] = mlp.bias;
  out["tie_word_embeddings"] = m.tie_head;
  out["initializer_range"] = m.init_std;
  return out;
}

Json class_keys(const Model& m, const HfForm& form) {
  if (form.model_type == "gpt2") return gpt2_keys(m);
  if (form.model_type == "llama") return llama_keys(m);
  return Json::object({{"vocab_size", m.vocab},
                       {"max_position_embeddings", m.context},
                       {"hidden_size", m.dim},
                       {"num_hidden_layers", m.layers.size()},
                       {"tie_word_embeddings", m.tie_head}});
}

/// What the class's keys say, without the "lmxlab" object.
Model read_class(const Json& config, const std::string& type, std::vector<std::string>& unread) {
  Problems problems;
  Keys keys(config, "", problems);
  Model m = type == "gpt2" ? read_gpt2(keys) : read_llama(keys, problems, unread);
  if (!keys.unsupported.empty()) {
    Problems unsupported;
    for (auto& u : keys.unsupported) unsupported.add(u);
    unsupported.raise(Kind::unsupported,
                      "[hf] config.json of a " + type + " model has what we do not");
  }
  problems.raise(Kind::bad_data, "[hf] config.json of a " + type + " model");
  keys.unread(unread);
  return m;
}

void believe(const Json& ours, Model& model) {
  if (!ours.is_object() || !ours.contains("version") || !ours.contains("config"))
    throw Error(Kind::bad_data, "[hf] config.json: \"lmxlab\" must have a version and a config");
  const Json& version = ours.at("version");
  if (!version.is_integer() || version.as_integer() < 1)
    throw Error(Kind::bad_data,
                "[hf] config.json: lmxlab.version must be a number from 1, got " + version.dump());
  if (version.as_integer() > kVersion)
    throw Error(Kind::unsupported,
                "[hf] config.json was written by a newer lmxlab: its version is " + version.dump() +
                    ", this program reads up to " + std::to_string(kVersion));
  model = from_json<Model>(ours.at("config"), "[hf] config.json, lmxlab.config", Kind::bad_data);
}

/// Two numbers that went through a division in single precision may differ in their last digit.
bool close(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number() && !(a.is_integer() && b.is_integer()))
    return std::abs(a.as_number() - b.as_number()) <=
           4e-7 * std::max(std::abs(a.as_number()), std::abs(b.as_number()));
  if (a.is_object() && b.is_object() && a.size() == b.size())
    return std::all_of(a.as_object().begin(), a.as_object().end(), [&](const Json::Member& m) {
      const Json* other = b.find(m.first);
      return other && close(m.second, *other);
    });
  return a == b;
}

}  // namespace

std::vector<std::string> hf_model_types() {
  return {"gpt2", "llama", "lmxlab"};
}

HfForm hf_form(const Model& m) {
  if (is_gpt2(m)) {
    const Block& b = m.layers[0];
    const auto& a = std::get<Attention>(b.mixer);
    const bool all =
        a.qkv_bias && a.out_bias && std::get<Mlp>(b.ffn).bias && std::get<LayerNorm>(b.norm).bias;
    return {"gpt2", "GPT2LMHeadModel", !all};
  }
  if (is_llama(m)) {
    const auto& a = std::get<Attention>(m.layers[0].mixer);
    return {"llama", "LlamaForCausalLM", a.qkv_bias != a.out_bias};
  }
  return {"lmxlab", "LmxlabForCausalLM", false};
}

Json to_hf(const Model& model, std::string_view dtype) {
  const HfForm form = hf_form(model);
  Json out = Json::object(
      {{"architectures", Json::array({Json(form.architecture)})}, {"model_type", form.model_type}});
  Json keys = class_keys(model, form);
  for (auto& [key, value] : keys.as_object()) out[key] = std::move(value);
  out["torch_dtype"] = Json(dtype);
  out["lmxlab"] = Json::object({{"version", kVersion}, {"config", to_json(model)}});
  return out;
}

HfRead from_hf(const Json& config, bool strict) {
  if (!config.is_object())
    throw Error(Kind::bad_data,
                "[hf] config.json: expected an object, got " + std::string(config.type_name()));
  const Json* type_key = config.find("model_type");
  if (!type_key || !type_key->is_string())
    throw Error(Kind::bad_data,
                "[hf] config.json: model_type " +
                    (type_key ? "must be a string, got " + std::string(type_key->type_name())
                              : std::string("is missing")));
  const std::string& type = type_key->as_string();
  const auto known = hf_model_types();
  const Json* ours = config.find("lmxlab");
  if (std::find(known.begin(), known.end(), type) == known.end())
    throw Error(Kind::unsupported, "[hf] config.json: model_type \"" + type +
                                       "\" is not supported; known: " + join(known, ", "));

  HfRead out;
  std::vector<std::string> unread;
  if (ours) {
    believe(*ours, out.model);
    validate(out.model, Kind::bad_data);
    const HfForm form = hf_form(out.model);
    std::vector<std::string> differ;
    if (form.model_type != type)
      differ.push_back("model_type (" + type + ", expected " + form.model_type + ")");
    const Json expected = class_keys(out.model, form);
    Json found = config;
    if (differ.empty() && type != "lmxlab") {
      const Model theirs = read_class(config, type, unread);
      validate(theirs, Kind::bad_data);
      if (hf_form(theirs).model_type == type)
        found = class_keys(theirs, form);
      else
        differ.push_back("scale_attn_weights, scale_attn_by_inverse_layer_idx");
    }
    for (const auto& [key, value] : expected.as_object()) {
      const Json* theirs = found.find(key);
      if (differ.size() < 20 && theirs && !close(*theirs, value))
        differ.push_back(key + " (" + theirs->dump() + ", expected " + value.dump() + ")");
    }
    if (!differ.empty())
      throw Error(Kind::mismatch,
                  "[hf] config.json contradicts its \"lmxlab\" object: " + join(differ, ", ") +
                      ". Correct one of them, or take the object out.");
  } else if (type == "lmxlab") {
    throw Error(Kind::bad_data,
                "[hf] config.json: a model of type lmxlab needs its \"lmxlab\" object");
  } else {
    out.model = read_class(config, type, unread);
    validate(out.model, Kind::bad_data);
  }
  if (strict) {
    Problems problems;
    for (const auto& key : unread) problems.add(key);
    problems.raise(Kind::bad_data, "[hf] config.json has keys that nobody reads");
  }
  for (const auto& key : unread)
    out.warnings.push_back("config.json: nobody reads \"" + key + "\"");
  return out;
}

}  // namespace lmxlab::config
