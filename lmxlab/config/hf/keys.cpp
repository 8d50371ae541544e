#include "lmxlab/config/hf/keys.h"

#include "lmxlab/config/presets/families.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lmxlab::config {
namespace {

/// Keys that say nothing about the function a model computes: special ids (the tokenizer's and the
/// generator's affair), what transformers does at run time, dropout inside attention (we have
/// none), training-only switches, other heads.
const std::set<std::string, std::less<>> kHarmless = {"_attn_implementation",
                                                      "_attn_implementation_autoset",
                                                      "_name_or_path",
                                                      "architectures",
                                                      "attention_dropout",
                                                      "attn_pdrop",
                                                      "auto_map",
                                                      "bos_token_id",
                                                      "cache_implementation",
                                                      "chunk_size_feed_forward",
                                                      "decoder_start_token_id",
                                                      "dtype",
                                                      "eos_token_id",
                                                      "gradient_checkpointing",
                                                      "id2label",
                                                      "initializer_range",
                                                      "is_decoder",
                                                      "is_encoder_decoder",
                                                      "is_llama_config",
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
                                                      "transformers.js_config",
                                                      "transformers_version",
                                                      "unk_token_id",
                                                      "unsloth_fixed",
                                                      "unsloth_version",
                                                      "use_cache"};

struct ActName {
  Act act;
  const char* name;
};
/// transformers' names, the one we write first.
constexpr ActName kActs[] = {{Act::gelu, "gelu"},          {Act::gelu_tanh, "gelu_pytorch_tanh"},
                             {Act::silu, "silu"},          {Act::relu, "relu"},
                             {Act::relu2, "relu2"},        {Act::silu, "swish"},
                             {Act::gelu_tanh, "gelu_new"}, {Act::gelu_tanh, "gelu_fast"},
                             {Act::xielu, "xielu"}};

constexpr const char* kSliding = "sliding_attention";
constexpr const char* kFull = "full_attention";

/// arXiv:2309.00071, equation 22, as DeepSeek generalised it.
double yarn_magnitude(double factor, double mscale) {
  return factor > 1 ? 0.1 * mscale * std::log(factor) + 1 : 1;
}

}  // namespace

const Json* Keys::find(Names names) {
  if (!reading()) return nullptr;
  const Json* out = nullptr;
  for (const char* name : names) {
    read_.insert(name);
    const Json* j = in_->find(name);
    if (!out && j && !j->is_null()) out = j, last_ = name;
  }
  return out;
}

void Keys::require(int& value, Names names) {
  if (!reading()) return (*this)(value, names);
  if (const Json* j = find(names))
    fields::read(*j, value, prefix_ + last_, *problems_);
  else
    problems_->add(prefix_ + *names.begin() + ": missing");
}

void Keys::depth(int& value, Names names) {
  require(value, names);
  if (!reading()) return;
  if (value > kMaxDepth)
    wrong(std::string(*names.begin()) + ": expected at most " + std::to_string(kMaxDepth) +
          ", got " + std::to_string(value));
  value = std::clamp(value, 0, kMaxDepth);
}

void Keys::act(Act& act, Names names, const char* tanh_form) {
  if (!reading()) {
    const auto* a = std::find_if(std::begin(kActs), std::end(kActs),
                                 [&](const ActName& n) { return n.act == act; });
    out_[*names.begin()] = Json(act == Act::gelu_tanh ? tanh_form : a->name);
    return;
  }
  std::string name;
  (*this)(name, names);
  if (name.empty()) return;
  std::vector<std::string> known;
  for (const auto& a : kActs) {
    if (name == a.name) return void(act = a.act);
    known.emplace_back(a.name);
  }
  not_supported(last_ + ": \"" + name + "\"; " + suggestion(name, known));
}

void Keys::only(const char* name, bool value, const char* what) {
  if (!reading()) return;
  bool found = value;
  (*this)(found, {name});
  if (found != value) not_supported(std::string(name) + ": " + what);
}

void Keys::layer_types(Decoder& d, const char* local) {
  if (!reading()) {
    Json list = Json::array();
    for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i)
      list.push_back(Json(d.slides(i) ? local : kFull));
    out_["layer_types"] = std::move(list);
    return;
  }
  const Json* list = find({"layer_types"});
  if (!list) return;
  std::vector<std::string> types;
  fields::read(*list, types, prefix_ + "layer_types", *problems_);
  if (types.size() != static_cast<size_t>(d.depth))
    return wrong("layer_types: expected one for each of " + std::to_string(d.depth) +
                 " layers, got " + std::to_string(types.size()));
  d.sliding.clear();
  for (const auto& t : types) {
    if (t != local && t != kFull) not_supported("layer_types: \"" + t + "\"");
    d.sliding.push_back(t == local);
  }
  if (!d.window && std::count(d.sliding.begin(), d.sliding.end(), true) > 0)
    wrong("layer_types: layers with a sliding window, but no sliding_window");
}

void Keys::layer_kinds(Decoder& d, const char* recurrent) {
  std::vector<std::string> types;
  if (!reading())
    for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i)
      types.emplace_back(d.recurs(i) ? recurrent : kFull);
  (*this)(types, {"layer_types"});
  if (!reading() || types.empty()) return;
  if (types.size() != static_cast<size_t>(d.depth))
    return wrong("layer_types: expected one for each of " + std::to_string(d.depth) +
                 " layers, got " + std::to_string(types.size()));
  d.recurrent_layers.clear();
  for (const auto& t : types) {
    if (t != recurrent && t != kFull) not_supported("layer_types: \"" + t + "\"");
    d.recurrent_layers.push_back(t == recurrent);
  }
}

void Keys::number_or_word(int& value, Names names) {
  if (!reading()) return (*this)(value, names);
  const Json* found = find(names);
  if (found && !found->is_string()) fields::read(*found, value, prefix_ + last_, *problems_);
}

void Keys::limits(float& least, std::optional<float>& most, const char* name) {
  if (!reading()) {
    out_[name] =
        Json::array({Json(least), most ? Json(*most) : Json::object({{"__float__", "Infinity"}})});
    return;
  }
  const Json* found = find({name});
  if (!found) return;
  const auto is_limit = [](const Json& j) { return j.is_number() || j.is_object(); };
  const bool pair = found->is_array() && found->size() == 2 && found->as_array()[0].is_number() &&
                    is_limit(found->as_array()[1]);
  if (!pair) return wrong(std::string(name) + ": expected two numbers");
  least = static_cast<float>(found->as_array()[0].as_number());
  const Json& last = found->as_array()[1];  // as we write it, an object
  const double top = last.is_number() ? last.as_number() : std::numeric_limits<double>::infinity();
  most = std::isfinite(top) ? std::optional(static_cast<float>(top)) : std::nullopt;
}

void Keys::dense_or_sparse(Decoder& d, const char* name) {
  std::vector<std::string> types;
  if (!reading())
    for (const bool s : d.sparse) types.emplace_back(s ? "sparse" : "dense");
  (*this)(types, {name});
  if (!reading() || types.empty()) return;
  if (types.size() != static_cast<size_t>(d.depth))
    return wrong(std::string(name) + ": expected one for each of " + std::to_string(d.depth) +
                 " layers, got " + std::to_string(types.size()));
  d.sparse.clear();
  for (const auto& t : types) d.sparse.push_back(t == "sparse");
}

void Keys::indexer_types(Decoder& d) {
  std::vector<std::string> types;
  if (!reading())
    for (const bool s : d.shared_choice) types.emplace_back(s ? "shared" : "full");
  (*this)(types, {"indexer_types"});
  if (!reading()) return;
  int every = 1, offset = 2;
  (*this)(every, {"index_topk_freq"}), (*this)(offset, {"index_skip_topk_offset"});
  const Json* letters = find({"index_topk_pattern"});
  const char* name = types.empty() && letters ? "index_topk_pattern" : "indexer_types";
  if (types.empty() && letters && letters->is_string())
    for (const char c : letters->as_string())
      types.emplace_back(c == 'F' ? "full" : c == 'S' ? "shared" : std::string(1, c));
  else if (types.empty() && letters)
    fields::read(*letters, types, prefix_ + name, *problems_);
  if (types.empty())
    for (int i = 0; i < d.depth; ++i)
      types.emplace_back(std::max(i - offset + 1, 0) % std::max(every, 1) == 0 ? "full" : "shared");
  if (types.size() != static_cast<size_t>(d.depth))
    return wrong(std::string(name) + ": expected one for each of " + std::to_string(d.depth) +
                 " layers, got " + std::to_string(types.size()));
  d.shared_choice.clear();
  for (const auto& t : types) {
    if (t != "full" && t != "shared")
      return wrong(std::string(name) + ": expected full or shared, got \"" + t + "\"");
    d.shared_choice.push_back(t == "shared");
  }
}

void Keys::pattern(int& every, Names names) {
  if (!reading()) return;
  const Json* found = find(names);
  if (!found) return;
  if (found->is_string())
    every = static_cast<int>(found->as_string().size());
  else
    fields::read(*found, every, prefix_ + last_, *problems_);
  if (every < 1) wrong(last_ + ": expected at least 1"), every = 1;
}

/// rope_parameters (transformers 5) or rope_theta and rope_scaling (4).
void Keys::rope(Decoder& d, const RopeForm& form) {
  if (!reading()) return write_rope(d.rope, d, form);
  const Json* parameters = find({"rope_parameters"});
  const Json* scaling = find({"rope_scaling"});
  read_rope(parameters ? parameters : scaling, parameters ? "rope_parameters" : "rope_scaling",
            d.rope, d, form, &d.temperature, &d.mscale_all);
}

void Keys::rope_by_layer(Decoder& d) {
  if (!reading()) {
    write_rope(d.rope, d);
    out_["rope_local_base_freq"] = Json(d.local_rope.value_or(d.rope).theta);
    return;
  }
  const Json* parameters = find({"rope_parameters"});
  d.local_rope.emplace();
  if (!parameters || !parameters->is_object() || !parameters->contains(kFull)) {
    (*this)(d.local_rope->theta, {"rope_local_base_freq"});
    return rope(d);
  }
  find({"rope_theta", "rope_local_base_freq", "rope_scaling"});
  read_rope(parameters->find(kFull), std::string("rope_parameters.") + kFull, d.rope, d);
  read_rope(parameters->find(kSliding), std::string("rope_parameters.") + kSliding, *d.local_rope,
            d);
}

void Keys::rope_by_type(Decoder& d, const RopeForm& form) {
  if (!reading()) {
    const auto table = [&](const Rope& r) {
      Keys flat;
      flat.write_rope(r, d, form);
      Json all = flat.take(), inner = Json::object();
      if (Json* scaling = all.find("rope_scaling")) inner = std::move(*scaling);
      if (!inner.contains("rope_type")) inner["rope_type"] = Json("default");
      inner["rope_theta"] = all.at(form.theta_key);
      if (const Json* share = all.find(form.share_key)) inner["partial_rotary_factor"] = *share;
      return inner;
    };
    out_["rope_parameters"] =
        Json::object({{kFull, table(d.rope)}, {kSliding, table(d.local_rope.value_or(d.rope))}});
    return;
  }
  const Json* parameters = find({"rope_parameters"});
  if (!parameters || !parameters->is_object() || !parameters->contains(kFull)) return rope(d, form);
  find({"rope_theta", "rope_scaling"});
  d.local_rope.emplace();
  const std::string name = "rope_parameters.";
  read_rope(parameters->find(kFull), name + kFull, d.rope, d, form);
  read_rope(parameters->find(kSliding), name + kSliding, *d.local_rope, d, form);
}

void Keys::read_rope(const Json* table, const std::string& name, Rope& rope, const Decoder& d,
                     const RopeForm& form, std::optional<Temperature>* temperature,
                     float* mscale_all_dim) {
  float share = form.share.value_or(1.f);
  std::optional<int> original;
  (*this)(rope.theta, {form.theta_key, "rope_theta"});
  (*this)(share, {form.share_key, "partial_rotary_factor"});
  (*this)(original, {"original_max_position_embeddings"});
  const auto set_dims = [&] {
    if (!(share > 0 && share <= 1))
      return wrong("partial_rotary_factor: expected a share above 0 and up to 1, got " +
                   Json(share).dump());
    if (share < 1 && !form.share)
      return not_supported("partial_rotary_factor: this class rotates whole heads");
    // The share is a decimal: 0.7 of 10 are 7.
    if (share < 1) rope.dims = static_cast<int>(double(d.head_dim) * double(share) + 1e-4);
    if (rope.dims % 2 == 0) return;
    // theta^(-2i / n) with n odd: a pair more, of which these are the powers of another base.
    const double n = rope.dims++;
    rope.theta = static_cast<float>(std::pow(double(rope.theta), rope.dims / n));
  };
  if (!table || table->is_null()) return set_dims();
  if (!table->is_object())
    return wrong(name + ": expected a table, got " + std::string(table->type_name()));
  Keys in(*table, *problems_, prefix_ + name + ".");
  in(rope.theta, {"rope_theta"});
  in(share, {"partial_rotary_factor"});
  std::string kind = "default";
  in(kind, {"rope_type", "type"});
  if (kind != "proportional") set_dims();
  std::optional<float> factor, attention_factor;
  in(factor, {"factor"});
  const auto positive = [&](const char* key, float value) {
    if (!(value > 0) || !std::isfinite(value))
      in.wrong(std::string(key) + ": expected a positive number, got " + Json(value).dump());
  };
  if (factor) positive("factor", *factor);
  std::optional<float> growth;
  if (temperature) in(growth, {"llama_4_scaling_beta"});
  // The class's own key comes first, as Phi 3 has it.
  std::optional<int> inner;
  in(inner, {"original_max_position_embeddings"});
  const int trained = std::max(1, original.value_or(inner.value_or(d.context)));
  const auto need_factor = [&] {
    if (!factor) in.wrong("factor: missing");
    return factor.value_or(1.f);
  };
  in.skip({"mrope_section", "mrope_interleaved"});  // a text's three positions are one
  if (growth) *temperature = Temperature{*growth, trained, 0};
  if (kind == "linear") {
    const float f = need_factor();
    if (f > 0) rope.scale = 1 / f;
  } else if (kind == "dynamic" && in.present("alpha")) {
    float alpha = 1;  // Hunyuan: another base, whatever the length
    in(alpha, {"alpha"});
    positive("alpha", alpha);
    const double dims = rope.dims > 0 ? rope.dims : d.head_dim;
    if (alpha > 0 && dims > 2)
      rope.theta =
          static_cast<float>(double(rope.theta) * std::pow(double(alpha), dims / (dims - 2)));
    for (const char* unused : {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
      in.skip({unused});
  } else if (kind == "dynamic") {
    rope.scaling = DynamicNtk{need_factor(), d.context};
  } else if (kind == "llama3") {
    Llama3Scaling s{need_factor(), 1, 4, trained};
    in(s.low_freq_factor, {"low_freq_factor"});
    in(s.high_freq_factor, {"high_freq_factor"});
    rope.scaling = s;
  } else if (kind == "yarn") {
    Yarn s{.factor = factor.value_or(static_cast<float>(d.context) / static_cast<float>(trained)),
           .original = trained};
    in(s.beta_fast, {"beta_fast"}), in(s.beta_slow, {"beta_slow"});
    in(s.truncate, {"truncate"});
    in(attention_factor, {"attention_factor"});
    float mscale = 0, mscale_all = 0;
    in(mscale, {"mscale"}), in(mscale_all, {"mscale_all_dim"});
    if (mscale_all_dim) *mscale_all_dim = mscale_all;
    const double f = double(s.factor);
    const double by_rule =
        mscale != 0 && mscale_all != 0
            ? yarn_magnitude(f, double(mscale)) / yarn_magnitude(f, double(mscale_all))
            : yarn_magnitude(f, 1);
    s.attention_factor = attention_factor.value_or(static_cast<float>(by_rule));
    rope.scaling = s;
  } else if (kind == "longrope" || kind == "su") {
    LongRope s{.original = trained};
    for (const auto& [key, list] :
         {std::pair("short_factor", &s.short_factor), std::pair("long_factor", &s.long_factor)}) {
      const Json* found = in.find({key});
      if (found)
        fields::read(*found, *list, prefix_ + name + "." + key, *problems_);
      else
        in.wrong(std::string(key) + ": missing");
    }
    in(attention_factor, {"attention_factor"});
    std::optional<float> short_scale, long_scale;  // PhiMoE's
    in(short_scale, {"short_mscale"}), in(long_scale, {"long_mscale"});
    const double f = factor ? double(*factor) : double(d.context) / trained;
    const double by_rule = f > 1 ? std::sqrt(1 + std::log(f) / std::log(double(trained))) : 1;
    s.attention_factor =
        long_scale.value_or(attention_factor.value_or(static_cast<float>(by_rule)));
    if (short_scale && *short_scale != s.attention_factor) s.short_attention_factor = short_scale;
    rope.scaling = s;
  } else if (kind == "proportional") {
    positive("partial_rotary_factor", share);
    rope.scaling = Proportional{share, factor.value_or(1.f)};
  } else if (kind != "default" && kind != "none") {
    return not_supported(
        name + ": rope scaling of type \"" + kind +
        "\"; supported: default, linear, dynamic, llama3, yarn, longrope, proportional");
  }
  for (auto& key : in.unread()) inner_unread_.push_back(std::move(key));
}

std::vector<std::string> Keys::unread() const {
  auto out = inner_unread_;
  if (in_->is_object())
    for (const auto& [key, _] : in_->as_object())
      if (!read_.contains(key) && !(prefix_.empty() && kHarmless.contains(key)))
        out.push_back(prefix_ + key);
  return out;
}

void Keys::write_rope(const Rope& rope, const Decoder& d, const RopeForm& form) {
  out_[form.theta_key] = Json(rope.theta);
  const int dims = rope.dims > 0 ? rope.dims : d.head_dim;
  const float share = static_cast<float>(dims) / static_cast<float>(d.head_dim);
  if (form.share && (share != 1 || *form.share != 1)) out_[form.share_key] = Json(share);
  if (rope.scale > 0 && rope.scale != 1) {
    out_["rope_scaling"] = Json::object({{"rope_type", "linear"}, {"factor", 1.f / rope.scale}});
    return;
  }
  std::visit(
      [&](const auto& s) {
        if constexpr (std::same_as<std::decay_t<decltype(s)>, Proportional>)
          out_["rope_scaling"] = Json::object(
              {{"rope_type", s.kind}, {"partial_rotary_factor", s.share}, {"factor", s.factor}});
        if constexpr (requires { s.original; }) {
          Json table = fields::write(s);
          table["rope_type"] = Json(s.kind);
          if constexpr (!std::same_as<std::decay_t<decltype(s)>, DynamicNtk>)
            table["original_max_position_embeddings"] = Json(s.original);
          table.erase("original");
          if constexpr (std::same_as<std::decay_t<decltype(s)>, LongRope>) {
            table.erase("short_attention_factor");
            if (s.short_attention_factor) {
              table["short_mscale"] = Json(*s.short_attention_factor);
              table["long_mscale"] = Json(s.attention_factor);
            }
          }
          if (d.mscale_all != 0) table["mscale_all_dim"] = Json(d.mscale_all);
          // Llama 4 has keys of its own for what it counts from one.
          if (d.temperature && d.temperature->first == 0)
            table["llama_4_scaling_beta"] = Json(d.temperature->scale);
          out_["rope_scaling"] = std::move(table);
        }
      },
      rope.scaling);
}

}  // namespace lmxlab::config
