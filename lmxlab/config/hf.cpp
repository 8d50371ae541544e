#include "lmxlab/config/hf.h"

#include "lmxlab/config/hf/classes.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::config {
namespace {

constexpr int kVersion = 1;
constexpr const char* kOurs = kOwnType;  // and of the object with everything

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
  if (a.is_array() && b.is_array() && a.size() == b.size())
    return std::equal(a.as_array().begin(), a.as_array().end(), b.as_array().begin(), close);
  return a == b;
}

// ---- which class expresses a model ----

Json class_keys(const HfClass& c, Decoder d) {
  Keys keys;
  c.keys(keys, d);
  return keys.take();
}

/// The model with the biases that `theirs` has and it lacks: they would be zeros.
bool lend_biases(Model& m, const Model& theirs) {
  bool lent = false;
  const auto lend = [&](bool& mine, bool given) {
    lent |= given && !mine;
    mine |= given;
  };
  const auto norm = [&](Norm& mine, const Norm& given) {
    auto* a = std::get_if<LayerNorm>(&mine);
    const auto* b = std::get_if<LayerNorm>(&given);
    if (a && b) lend(a->bias, b->bias);
  };
  norm(m.final_norm, theirs.final_norm);
  for (size_t i = 0; i < m.layers.size() && i < theirs.layers.size(); ++i) {
    Block& mine = m.layers[i];
    const Block& given = theirs.layers[i];
    norm(mine.norm, given.norm);
    auto* a = std::get_if<Attention>(&mine.mixer);
    const auto* b = std::get_if<Attention>(&given.mixer);
    if (a && b) lend(a->qkv_bias, b->qkv_bias), lend(a->out_bias, b->out_bias);
    auto* f = std::get_if<Mlp>(&mine.ffn);
    const auto* g = std::get_if<Mlp>(&given.ffn);
    if (f && g) lend(f->bias, g->bias);
  }
  return lent;
}

struct Expressed {
  HfForm form;
  Model model;  // with the class's biases
};
/// A class expresses a model if what it would write reads as that model.
std::optional<Expressed> expressed_by(const HfClass& c, const Model& model) {
  const auto flat = decoder_of(model);
  if (!flat) return std::nullopt;
  const Json written = class_keys(c, *flat);
  Problems problems;
  Keys keys(written, problems);
  Decoder d;
  c.keys(keys, d);
  if (!problems.empty() || !keys.unsupported().empty()) return std::nullopt;
  const Model theirs = c.build(d);
  Model mine = model;
  // What the function of a model does not depend on.
  mine.family = theirs.family, mine.context = theirs.context, mine.dropout = theirs.dropout;
  mine.init_std = theirs.init_std, mine.mtp_heads.clear();
  mine.score = theirs.score;  // the class says it by its name
  for (size_t i = 0; i < mine.layers.size() && i < theirs.layers.size(); ++i) {
    auto* a = std::get_if<Moe>(&mine.layers[i].ffn);
    const auto* b = std::get_if<Moe>(&theirs.layers[i].ffn);
    if (a && b) a->aux_loss = b->aux_loss, a->z_loss = b->z_loss, a->bias_rate = b->bias_rate;
  }
  for (size_t i = 0; i < mine.layers.size() && i < theirs.layers.size(); ++i) {
    auto* a = std::get_if<Mla>(&mine.layers[i].mixer);
    const auto* b = std::get_if<Mla>(&theirs.layers[i].mixer);
    if (a && b && a->indexer && b->indexer) a->indexer->loss = b->indexer->loss;
  }
  // The type of the decays is that of a file.
  for (size_t i = 0; i < mine.layers.size() && i < theirs.layers.size(); ++i) {
    auto* a = std::get_if<Lightning>(&mine.layers[i].mixer);
    const auto* b = std::get_if<Lightning>(&theirs.layers[i].mixer);
    if (a && b) a->decays = b->decays;
  }
  for (Block& b : mine.layers)
    if (auto* a = std::get_if<Attention>(&b.mixer))
      if (auto* r = std::get_if<Rope>(&a->position); r && r->dims == a->head_dim) r->dims = 0;
  const bool zeros = lend_biases(mine, theirs);
  // Of most classes the first layer says that it is another's, long before all of them do.
  if (mine.layers.size() != theirs.layers.size() ||
      !close(to_json(mine.layers[0]), to_json(theirs.layers[0])))
    return std::nullopt;
  if (!close(to_json(mine), to_json(theirs))) return std::nullopt;
  mine.score = model.score;
  return Expressed{
      {c.model_type, model.score ? sequence_class(c) : c.architecture, c.family, zeros},
      std::move(mine)};
}
/// By its family's class, or by another; rather by one that adds no zeros.
std::optional<Expressed> expressed(const Model& m) {
  std::optional<Expressed> with_zeros;
  for (const bool own : {true, false}) {
    for (const auto& c : hf_classes()) {
      if ((m.family == c.family) != own || (m.score && sequence_class(c).empty())) continue;
      auto found = expressed_by(c, m);
      if (found && !found->form.zero_biases) return found;
      if (found && !with_zeros) with_zeros = std::move(found);
    }
  }
  return with_zeros;
}

/// What the class's keys say, without the "lmxlab" object.
Model read_class(const Json& config, const HfClass& c, std::vector<std::string>& unread) {
  Problems problems;
  Keys keys(config, problems);
  Decoder d;
  c.keys(keys, d);
  if (!keys.unsupported().empty()) {
    Problems unsupported;
    for (const auto& u : keys.unsupported()) unsupported.add(u);
    unsupported.raise(Kind::unsupported, std::string("[hf] config.json of a ") + c.model_type +
                                             " model has what we do not");
  }
  problems.raise(Kind::bad_data, std::string("[hf] config.json of a ") + c.model_type + " model");
  unread = keys.unread();
  return c.build(d);
}

Json form_keys(const Model& m, const HfForm& form) {
  if (const auto* c = hf_class(form.model_type)) return class_keys(*c, *decoder_of(m));
  return Json::object({{"vocab_size", m.vocab},
                       {"max_position_embeddings", m.context},
                       {"hidden_size", m.dim},
                       {"num_hidden_layers", m.layers.size()},
                       {"tie_word_embeddings", m.tie_head}});
}

constexpr std::string_view kSequence = "ForSequenceClassification";

/// Whether config.json is of a model with a head of one number. @throws Error(unsupported) for
/// more.
bool has_score(const Json& config) {
  const Json* names = config.find("architectures");
  const bool any = names && names->is_array() && names->size() > 0;
  const Json* first = any ? &names->as_array()[0] : nullptr;
  if (!first || !first->is_string() || !first->as_string().ends_with(kSequence)) return false;
  const Json* labels = config.find("id2label");
  const Json* number = config.find("num_labels");
  const int64_t n = labels && labels->is_object()    ? static_cast<int64_t>(labels->size())
                    : number && number->is_integer() ? number->as_integer()
                                                     : 2;  // transformers' default
  if (n != 1)
    throw Error(Kind::unsupported, "[hf] config.json: a " + first->as_string() +
                                       " of one label is read, a reward model; this one has " +
                                       std::to_string(n) + " (id2label)");
  return true;
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

/// A multimodal model's config has the language model's inside.
const Json& text_of(const Json& config, std::vector<std::string>& warnings) {
  const Json* type = config.find("model_type");
  const Json* text = config.find("text_config");
  const bool known =
      type && type->is_string() && (hf_class(type->as_string()) || type->as_string() == kOurs);
  if (known || !text || !text->is_object() || !text->contains("model_type")) return config;
  warnings.push_back("config.json: of a model of type " +
                     (type && type->is_string() ? type->as_string() : std::string("?")) +
                     ", only the language model is read");
  return *text;
}

}  // namespace

std::vector<std::string> hf_model_types() {
  std::vector<std::string> out;
  for (const auto& c : hf_classes()) out.emplace_back(c.model_type);
  out.emplace_back(kOurs);
  return out;
}

HfForm hf_form(const Model& m) {
  const auto found = expressed(m);
  return found ? found->form
               : HfForm{kOurs, "Lmxlab" + std::string(m.score ? kSequence : "ForCausalLM"), "",
                        false};
}
Model with_class_biases(const Model& m) {
  auto found = expressed(m);
  return found ? std::move(found->model) : m;
}

Json to_hf(const Model& model, std::string_view dtype) {
  const HfForm form = hf_form(model);
  Json out = Json::object(
      {{"architectures", Json::array({Json(form.architecture)})}, {"model_type", form.model_type}});
  Json keys = form_keys(model, form);
  for (auto& [key, value] : keys.as_object()) out[key] = std::move(value);
  // The class's defaults are another model's.
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"}) out[id] = Json();
  out["torch_dtype"] = Json(dtype);
  if (model.score) {  // one label, which transformers counts by its names
    out["id2label"] = Json::object({{"0", "LABEL_0"}});
    out["label2id"] = Json::object({{"LABEL_0", 0}});
  }
  if (!model.mtp_heads.empty()) out[kHeadsKey] = Json(model.mtp_heads.size());
  out[kOurs] = Json::object({{"version", kVersion}, {"config", to_json(model)}});
  return out;
}

HfRead from_hf(const Json& whole, bool strict) {
  if (!whole.is_object())
    throw Error(Kind::bad_data,
                "[hf] config.json: expected an object, got " + std::string(whole.type_name()));
  HfRead out;
  const Json& config = text_of(whole, out.warnings);
  const Json* type_key = config.find("model_type");
  if (!type_key || !type_key->is_string())
    throw Error(Kind::bad_data,
                "[hf] config.json: model_type " +
                    (type_key ? "must be a string, got " + std::string(type_key->type_name())
                              : std::string("is missing")));
  const std::string& type = type_key->as_string();
  const auto known = hf_model_types();
  const Json* ours = config.find(kOurs);
  if (std::find(known.begin(), known.end(), type) == known.end())
    throw Error(Kind::unsupported, "[hf] config.json: model_type \"" + type +
                                       "\" is not supported; " + suggestion(type, known));

  const HfClass* c = hf_class(type);
  std::vector<std::string> unread;
  if (ours) {
    believe(*ours, out.model);
    validate(out.model, Kind::bad_data);
    const HfForm form = out.form = hf_form(out.model);
    std::vector<std::string> differ;
    if (config.contains("architectures") && has_score(config) != out.model.score)
      differ.push_back("architectures (expected " + form.architecture + ")");
    if (form.model_type != type)
      differ.push_back("model_type (" + type + ", expected " + form.model_type + ")");
    const Json expected = form_keys(out.model, form);
    Json found = config;
    if (differ.empty() && c) {
      const Model theirs = read_class(config, *c, unread);
      validate(theirs, Kind::bad_data);
      if (expressed_by(*c, theirs))
        found = form_keys(theirs, form);
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
  } else if (!c) {
    throw Error(Kind::bad_data,
                "[hf] config.json: a model of type lmxlab needs its \"lmxlab\" object");
  } else {
    out.model = read_class(config, *c, unread);
    out.model.score = has_score(config);
    out.form = {c->model_type, out.model.score ? sequence_class(*c) : c->architecture, c->family,
                false};
    if (out.form.architecture.empty())
      throw Error(Kind::unsupported, "[hf] config.json: transformers has no " + type +
                                         " model with a score, and neither have we");
    std::erase(unread, "num_labels");
    validate(out.model, Kind::bad_data);
  }
  std::erase(unread, std::string(kHeadsKey));  // whoever loads the weights reads it
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
