// Files of adapters: PEFT's and mlx-lm's folders.
#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/base/text.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/adapter_layers.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/names.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace lmxlab {
namespace {

namespace mx = mlx::core;
using core::Adapter;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kPeftFile = "adapter_model.safetensors";
constexpr const char* kMlxFile = "adapters.safetensors";
constexpr const char* kPeftRoot = "base_model.model.";
constexpr const char* kScore = "score.weight";  // of a reward model

std::string last_name(const std::string& path) {
  return path.substr(path.rfind('.') + 1);
}
bool ends_as(const std::string& path, const std::string& pattern) {
  return path == pattern || path.ends_with("." + pattern);
}

/// How the checkpoint of a model names its linear layers.
std::vector<std::string> checkpoint_paths(LanguageModel& model, const config::HfForm& form) {
  LowRanks all;
  for (const auto& t : adaptable_layers(model)) {
    const auto [in, out] = sizes_of(*t.layer);
    all.emplace(t.path, LowRank{mx::zeros({1, in}), mx::zeros({out, 1})});
  }
  std::vector<std::string> out;
  for (const auto& [path, low] : adapters_to_checkpoint(form, all, model.config()))
    out.push_back(path);
  return out;
}

/// Last names where they fit these layers alone, else whole paths.
Json names_of(const std::vector<std::string>& some, const std::vector<std::string>& all) {
  std::map<std::string, int> more;
  for (const auto& path : all) ++more[last_name(path)];
  for (const auto& path : some) --more[last_name(path)];
  std::set<std::string> names;
  for (const auto& path : some) names.insert(more[last_name(path)] == 0 ? last_name(path) : path);
  Json out = Json::array();
  for (const auto& n : names) out.push_back(n);
  return out;
}

struct Stored {
  LowRank low;
  float scale, dropout;
};
/// By our paths.
std::map<std::string, Stored> stored(LanguageModel& model, const std::string& name) {
  std::map<std::string, Stored> out;
  for (const auto& t : adaptable_layers(model))
    for (const auto& a : t.layer->adapters)
      if (a.name == name)
        out.emplace(t.path, Stored{{a.a.value, a.b.value,
                                    a.magnitude ? std::optional(a.magnitude->value) : std::nullopt},
                                   a.scale,
                                   a.dropout});
  return out;
}

Json peft_config(const LowRanks& theirs, float scale, float dropout, const Json& targets, bool dora,
                 bool turned, bool score) {
  // The most frequent rank is everybody's, others stand by themselves; alpha / rank is the scale.
  std::map<int, int> ranks;
  for (const auto& [path, low] : theirs) ++ranks[low.a.shape(0)];
  const int rank = std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) {
                     return a.second < b.second;
                   })->first;
  const double own = double(scale) * rank;
  Json rank_pattern = Json::object(), alpha_pattern = Json::object();
  for (const auto& [path, low] : theirs) {
    if (low.a.shape(0) == rank) continue;
    rank_pattern[path] = low.a.shape(0), alpha_pattern[path] = double(scale) * low.a.shape(0);
  }
  return Json::object({{"peft_type", "LORA"},
                       {"task_type", score ? "SEQ_CLS" : "CAUSAL_LM"},
                       {"base_model_name_or_path", nullptr},
                       {"r", rank},
                       {"lora_alpha", own},
                       {"lora_dropout", dropout},
                       {"use_rslora", false},  // alpha says it already
                       {"use_dora", dora},
                       {"target_modules", targets},
                       {"rank_pattern", rank_pattern},
                       {"alpha_pattern", alpha_pattern},
                       {"bias", "none"},
                       {"fan_in_fan_out", turned},
                       {"init_lora_weights", true},
                       {"modules_to_save", score ? Json::array({Json("score")}) : Json()},
                       {"inference_mode", true}});
}

// All of one rank, as mlx-lm's files have it: zeros add nothing.
LowRanks of_one_rank(LowRanks all) {
  int most = 0;
  for (const auto& [path, low] : all) most = std::max(most, low.a.shape(0));
  for (auto& [path, low] : all) {
    const int missing = most - low.a.shape(0);
    low.a = mx::pad(low.a, {{0, missing}, {0, 0}}), low.b = mx::pad(low.b, {{0, 0}, {0, missing}});
  }
  return all;
}

Json mlx_config(const LowRanks& theirs, float scale, float dropout, int layers) {
  std::set<std::string> inside;  // behind "model.layers.N."
  for (const auto& [path, low] : theirs) {
    const auto digit = path.find_first_of("0123456789");
    inside.insert(path.substr(path.find('.', digit) + 1));
  }
  Json keys = Json::array();
  for (const auto& k : inside) keys.push_back(k);
  const auto& first = theirs.begin()->second;
  return Json::object({{"fine_tune_type", first.magnitude ? "dora" : "lora"},
                       {"num_layers", layers},
                       {"lora_parameters", Json::object({{"rank", first.a.shape(0)},
                                                         {"scale", scale},
                                                         {"dropout", dropout},
                                                         {"keys", keys}})}});
}

[[noreturn]] void bad(const fs::path& file, const std::string& what) {
  throw Error(Kind::bad_data, "[adapter] " + file.string() + ": " + what);
}

/// One part of an adapter, by the end of its tensor's name; none of what is no part.
struct Part {
  std::string path;
  enum Which { a, b, magnitude } which;
};
std::optional<Part> part_of(std::string name, bool peft) {
  const auto cut = [&](std::string_view end) {
    if (!name.ends_with(end)) return false;
    name.erase(name.size() - end.size());
    return true;
  };
  if (!peft) {
    if (cut(".lora_a")) return Part{name, Part::a};
    if (cut(".lora_b")) return Part{name, Part::b};
    if (cut(".m")) return Part{name, Part::magnitude};
    return std::nullopt;
  }
  if (name.starts_with(kPeftRoot)) name.erase(0, std::string_view(kPeftRoot).size());
  cut(".weight");
  for (const auto& [word, which] : {std::pair(".lora_A", Part::a), std::pair(".lora_B", Part::b),
                                    std::pair(".lora_magnitude_vector", Part::magnitude)}) {
    const auto at = name.rfind(word);
    if (at == name.npos) continue;
    // PEFT's own state has the adapter's name behind it, its files have not.
    if (name.find('.', at + 1 + std::string_view(word).size()) != name.npos) continue;
    return Part{name.substr(0, at), which};
  }
  return std::nullopt;
}

float number(const Json& config, const char* key, double otherwise, const fs::path& file) {
  const auto* v = config.find(key);
  if (!v || v->is_null()) return static_cast<float>(otherwise);
  if (!v->is_number())
    bad(file, std::string(key) + ": expected a number, got " + std::string(v->type_name()));
  return static_cast<float>(v->as_number());
}

/// alpha / rank of a PEFT module.
float peft_scale(const Json& config, const std::string& path, int rank, const fs::path& file) {
  float alpha = number(config, "lora_alpha", 8, file);
  if (const auto* patterns = config.find("alpha_pattern"); patterns && patterns->is_object())
    for (const auto& [pattern, value] : patterns->as_object())
      if (ends_as(path, pattern) && value.is_number()) {
        alpha = static_cast<float>(value.as_number());
        break;
      }
  const auto* rs = config.find("use_rslora");
  const bool root = rs && rs->is_bool() && rs->as_bool();
  return alpha / (root ? std::sqrt(static_cast<float>(rank)) : static_cast<float>(rank));
}

void must_be_lora(const Json& config, const fs::path& file) {
  const auto refuse = [&](const std::string& what) {
    throw Error(Kind::unsupported, "[adapter] " + file.string() + ": " + what);
  };
  if (const auto* type = config.find("peft_type"); type && *type != Json("LORA"))
    refuse("peft_type " + type->dump() + "; LORA is read.");
  if (const auto* bias = config.find("bias"); bias && !bias->is_null() && *bias != Json("none"))
    refuse("bias " + bias->dump() + ": trained biases are not read. Train with bias \"none\".");
  for (const char* key : {"trainable_token_indices", "target_parameters"})
    if (const auto* v = config.find(key); v && !v->is_null() && v->size() > 0)
      refuse(std::string(key) + ": whole weights beside an adapter are not read.");
  const auto* whole = config.find("modules_to_save");
  if (!whole || !whole->is_array()) return;
  for (const auto& module : whole->as_array())  // PEFT names both of SEQ_CLS, whichever there is
    if (module != Json("score") && module != Json("classifier"))
      refuse("modules_to_save " + module.dump() +
             ": of whole weights only a reward model's score "
             "is read.");
}

}  // namespace

void save_adapter(LanguageModel& model, const std::string& name, const fs::path& folder,
                  AdapterFormat format, const std::string& base) {
  const auto all = stored(model, name);
  if (all.empty()) adapter_must_exist(model, name);
  const Enter enter(model.runtime());
  const auto form = config::hf_form(model.config());
  // A matrix of several of ours has one scale: where they differ, they go into B.
  const auto& one = all.begin()->second;
  const bool same = std::all_of(all.begin(), all.end(),
                                [&](const auto& p) { return p.second.scale == one.scale; });
  const float scale = same ? one.scale : 1;
  LowRanks ours;
  for (const auto& [path, s] : all) {
    auto low = s.low;
    if (!same) low.b = mx::multiply(low.b, mx::array(s.scale, low.b.dtype()));
    ours.emplace(path, std::move(low));
  }
  const bool peft = format == AdapterFormat::peft, score = model.config().score;
  if (score && !peft)
    throw Error(Kind::unsupported,
                "[adapter] mlx-lm's file has no place for a reward model's head: expected PEFT's");
  auto theirs = adapters_to_checkpoint(form, ours, model.config());
  if (!peft) theirs = of_one_rank(std::move(theirs));
  std::vector<std::string> paths;
  io::Tensors tensors;
  for (const auto& [path, low] : theirs) {
    paths.push_back(path);
    const auto put = [&](const char* end, const mx::array& a) {
      tensors.emplace((peft ? kPeftRoot + path : path) + end, mx::contiguous(a));
    };
    if (peft) {
      put(".lora_A.weight", low.a), put(".lora_B.weight", low.b);
      if (low.magnitude) put(".lora_magnitude_vector", *low.magnitude);
    } else {
      put(".lora_a", mx::transpose(low.a)), put(".lora_b", mx::transpose(low.b));
      if (low.magnitude) put(".m", *low.magnitude);
    }
  }
  auto config =
      peft ? peft_config(theirs, scale, one.dropout, names_of(paths, checkpoint_paths(model, form)),
                         one.low.magnitude.has_value(), form.model_type == "gpt2", score)
           : mlx_config(theirs, scale, one.dropout, static_cast<int>(model.config().layers.size()));
  if (score)
    tensors.emplace(std::string(kPeftRoot) + kScore, model.transformer().score->weight.w.value);
  if (peft && !base.empty()) config["base_model_name_or_path"] = Json(base);
  fs::create_directories(folder);
  io::write_safetensors(folder / (peft ? kPeftFile : kMlxFile), tensors, {{"format", "pt"}});
  write_file_atomic(folder / kConfig, config.dump(2) + "\n");
}

std::string base_of_adapter(const fs::path& folder) {
  const auto path = folder / kConfig;
  const auto config = Json::parse(read_file(path), path.string());
  const auto* base = config.find("base_model_name_or_path");
  return base && base->is_string() ? base->as_string() : "";
}

AdapterInfo load_adapter(LanguageModel& model, const fs::path& folder, const std::string& name) {
  adapter_must_be_new(model, name);
  const auto file = folder / kConfig;
  const Json config = Json::parse(read_file(file), file.string());
  const bool peft = config.contains("peft_type");
  if (!peft && !config.contains("lora_parameters"))
    bad(file, "expected an adapter of PEFT (\"peft_type\") or of mlx-lm (\"lora_parameters\")");
  if (peft) must_be_lora(config, file);
  const auto* own = config.find("lora_parameters");
  const io::SafeTensors tensors(folder / (peft ? kPeftFile : kMlxFile));

  std::map<std::string, std::map<Part::Which, mx::array>> parts;
  std::optional<mx::array> score;
  for (const auto& tensor : tensors.names()) {
    if (peft && tensor == std::string(kPeftRoot) + kScore) {
      score = tensors.get(tensor);
      continue;
    }
    const auto part = part_of(tensor, peft);
    if (!part)
      throw Error(Kind::unsupported, "[adapter] " + (folder / kPeftFile).string() + ": " + tensor +
                                         " is no part of a linear layer's LoRA.");
    parts[part->path].emplace(part->which, tensors.get(tensor));
  }
  LowRanks theirs;
  std::map<std::string, float> scales;
  std::vector<std::string> problems;
  for (auto& [path, of] : parts) {
    const auto a = of.find(Part::a), b = of.find(Part::b), m = of.find(Part::magnitude);
    if (a == of.end() || b == of.end()) {
      problems.push_back(path + ": one of its two matrices is missing");
      continue;
    }
    auto low = peft ? LowRank{a->second, b->second}
                    : LowRank{mx::transpose(a->second), mx::transpose(b->second)};
    if (low.a.ndim() != 2 || low.b.ndim() != 2 || low.a.shape(0) != low.b.shape(1)) {
      problems.push_back(path + ": its matrices do not fit each other");
      continue;
    }
    if (m != of.end()) low.magnitude = m->second;
    scales[path] =
        peft ? peft_scale(config, path, low.a.shape(0), file) : number(*own, "scale", 20, file);
    theirs.emplace(path, std::move(low));
  }
  const float dropout = number(peft ? config : *own, peft ? "lora_dropout" : "dropout", 0, file);

  // Layer by layer, since each has its own scale.
  const Enter enter(model.runtime());
  const auto form = config::hf_form(model.config());
  std::map<std::string, core::Linear*> layers;
  for (const auto& t : adaptable_layers(model)) layers.emplace(t.path, t.layer);
  std::vector<std::pair<core::Linear*, Adapter>> found;
  for (const auto& [path, low] : theirs) {
    for (const auto& [ours, l] : adapters_from_checkpoint(form, {{path, low}}, model.config())) {
      const auto it = layers.find(ours);
      if (it == layers.end()) {
        problems.push_back(path + ": the model has no such linear layer");
        continue;
      }
      const auto [in, out] = sizes_of(*it->second);
      if (l.a.shape(1) != in || l.b.shape(0) != out ||
          (l.magnitude && l.magnitude->shape() != mx::Shape{out})) {
        problems.push_back(path + ": expected " + std::to_string(in) + " inputs and " +
                           std::to_string(out) + " outputs, got " + std::to_string(l.a.shape(1)) +
                           " and " + std::to_string(l.b.shape(0)));
        continue;
      }
      const auto wide = [](const mx::array& x) {
        return core::Param{mx::contiguous(mx::astype(x, mx::float32))};
      };
      Adapter adapter{name, wide(l.a), wide(l.b)};
      if (l.magnitude) adapter.magnitude = wide(*l.magnitude);
      adapter.scale = scales.at(path), adapter.dropout = dropout;
      found.emplace_back(it->second, std::move(adapter));
    }
  }
  const int dim = model.config().dim;
  if (score && score->shape() != mx::Shape{1, dim})
    problems.push_back(std::string(kScore) + ": expected a head of one number, [1, " +
                       std::to_string(dim) + "]");
  if (!problems.empty())
    throw Error(Kind::mismatch, "[adapter] " + folder.string() + " does not fit the model:\n  " +
                                    join(problems, "\n  "));
  if (found.empty()) bad(folder / (peft ? kPeftFile : kMlxFile), "no adapter is in it");
  for (auto& [layer, adapter] : found) add_adapter(*layer, std::move(adapter));
  if (score) {
    model.put_score(0);
    model.transformer().score->weight.w.value = mx::contiguous(mx::astype(*score, mx::float32));
  }
  freeze_base(model);
  return adapter_info(model, name);
}

void load_adapters(LanguageModel& model, const std::vector<AdapterFolder>& folders) {
  for (const auto& f : folders) load_adapter(model, f.path, f.name);
}

LanguageModel load_with_adapter(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / kConfig, ignored) || fs::exists(folder / "config.json", ignored))
    return LanguageModel::load(folder);
  const auto base = base_of_adapter(folder);
  if (base.empty())
    throw Error(Kind::not_found, "[adapter] " + folder.string() +
                                     " names no base: expected base_model_name_or_path in its " +
                                     kConfig);
  auto model = LanguageModel::load(base);
  load_adapter(model, folder);
  return model;
}

}  // namespace lmxlab
