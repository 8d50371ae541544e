#include "lmxlab/models/gguf_save.h"

#include "lmxlab/base/text.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/rope.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/quantize_blocks.h"
#include "lmxlab/models/gguf_config.h"
#include "lmxlab/models/gguf_mix.h"
#include "lmxlab/models/gguf_names.h"
#include "lmxlab/models/rotary_order.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace lmxlab {
namespace {

using config::Attention;
using config::Rope;

[[noreturn]] void cannot(const std::string& what) {
  throw Error(Kind::unsupported, "[gguf] no architecture of llama.cpp expresses this model: " +
                                     what + ". Convert to safetensors, which keeps everything.");
}

const GgufArchitecture& architecture_of(const std::string& model_type) {
  for (const auto& a : gguf_architectures())
    if (model_type == a.model_type) return a;
  cannot("it is none of the classes that have one");
}

// ---- metadata ----

class Metadata {
 public:
  Metadata(io::GgufWriter& file, const GgufArchitecture& arch, config::Model& model,
           std::vector<std::string>& warnings)
      : file_(file),
        arch_(arch),
        model_(model),
        warnings_(warnings),
        prefix_(std::string(arch.written ? arch.written : arch.name) + "."),
        attention_(std::get<Attention>(model.layers.at(0).mixer)) {
    for (const auto& b : model.layers)
      if (const auto* r = std::get_if<Rope>(&std::get<Attention>(b.mixer).position))
        if (!std::get<Attention>(b.mixer).window || !rope_) rope_ = r;
  }

  void write(const std::string& name, const GgufMix& mix) {
    file_.set("general.architecture", prefix_.substr(0, prefix_.size() - 1));
    file_.set("general.type", std::string("model"));
    if (!name.empty()) file_.set("general.name", name);
    file_.set("general.file_type", mix.file_type);
    if (io::ggml_type(std::string_view(mix.usual))->weights > 1)
      file_.set("general.quantization_version", uint32_t{2});
    limit_context();
    const Json hf = config::to_hf(model_);
    for (const auto& k : gguf_keys()) {
      const Json* value = hf.find(k.hf);
      for (const auto& [others, own] : gpt2_keys())
        if (!value && std::string(others) == k.hf) value = hf.find(own);
      if (!value || !value->is_number()) continue;
      if (k.value == GgufKey::Value::integer)
        file_.set(prefix_ + k.gguf, static_cast<uint32_t>(value->as_integer()));
      else
        file_.set(prefix_ + k.gguf, static_cast<float>(value->as_number()));
    }
    file_.set(prefix_ + "vocab_size", static_cast<uint32_t>(model_.vocab));
    if (const auto* l = std::get_if<config::LayerNorm>(&model_.final_norm))
      file_.set(prefix_ + "attention.layer_norm_epsilon", l->eps);
    if (rope_) positions();
  }

 private:
  // What an architecture cannot say makes no difference to shorter texts.
  void limit_context() {
    int limit = model_.context;
    std::string why;
    const std::string type = arch_.model_type;
    const bool windows = type == "gemma2" || type == "gemma3_text" || type == "phi3";
    if (attention_.window && !windows && *attention_.window < limit)
      limit = *attention_.window, why = "a sliding window";
    const auto* dynamic = rope_ ? std::get_if<config::DynamicNtk>(&rope_->scaling) : nullptr;
    if (dynamic && dynamic->original < limit)
      limit = dynamic->original, why = "rotations by the length of the text (dynamic NTK)";
    for (auto& b : model_.layers) {
      auto& a = std::get<Attention>(b.mixer);
      if (!windows) a.window.reset();
      if (auto* r = std::get_if<Rope>(&a.position); r && dynamic) r->scaling = config::Unscaled{};
    }
    if (limit == model_.context) return;
    warnings_.push_back("llama.cpp's architecture \"" + prefix_.substr(0, prefix_.size() - 1) +
                        "\" has no " + why.substr(why.find(' ') + 1) +
                        ": the context is cut from " + with_commas(model_.context) + " to " +
                        with_commas(limit) + " tokens, up to which the answers are the same");
    model_.context = limit;
  }

  void positions() {
    const auto number = [&](const char* key, float v) { file_.set(prefix_ + key, v); };
    const auto integer = [&](const char* key, int v) {
      file_.set(prefix_ + key, static_cast<uint32_t>(v));
    };
    const int dims = rope_->dims > 0 ? rope_->dims : attention_.head_dim;
    integer("attention.key_length", attention_.head_dim);
    integer("attention.value_length", attention_.head_dim);
    integer("rope.dimension_count", dims);
    number("rope.freq_base", rope_->theta);
    for (const auto& b : model_.layers) {
      const auto& a = std::get<Attention>(b.mixer);
      const auto* local = std::get_if<Rope>(&a.position);
      if (a.window && local && local->theta != rope_->theta)
        number("rope.freq_base_swa", local->theta);
    }
    const auto scaling = [&](const char* type, float factor) {
      file_.set(prefix_ + "rope.scaling.type", std::string(type));
      number("rope.scaling.factor", factor);
    };
    if (rope_->scale != 1) scaling("linear", 1 / rope_->scale);
    if (const auto* yarn = std::get_if<config::Yarn>(&rope_->scaling)) {
      scaling("yarn", yarn->factor);
      integer("rope.scaling.original_context_length", yarn->original);
      number("rope.scaling.yarn_beta_fast", yarn->beta_fast);
      number("rope.scaling.yarn_beta_slow", yarn->beta_slow);
      number("rope.scaling.attn_factor",
             yarn->attention_factor / static_cast<float>(yarn_magnitude(yarn->factor)));
      if (!yarn->truncate) cannot("its YaRN scaling does not round to whole pairs");
    }
    if (const auto* l = std::get_if<config::LongRope>(&rope_->scaling)) {
      const bool one = l->short_factor == l->long_factor && l->attention_factor == 1;
      if (one) return table("rope_freqs.weight", l->long_factor);
      integer("rope.scaling.original_context_length", l->original);
      number("rope.scaling.attn_factor", l->attention_factor);
      table("rope_factors_long.weight", l->long_factor);
      table("rope_factors_short.weight", l->short_factor);
    }
    if (std::holds_alternative<config::Llama3Scaling>(rope_->scaling)) {
      Rope plain = *rope_;
      plain.scaling = config::LongRope{};  // of which rope_table makes all frequencies
      const auto scaled = config::rope_table(*rope_, dims, 1).frequencies,
                 all = config::rope_table(plain, dims, 1).frequencies;
      std::vector<float> divisors;
      for (size_t i = 0; i < scaled.size(); ++i) divisors.push_back(all[i] / scaled[i]);
      table("rope_freqs.weight", divisors);
    }
  }

  void table(const char* name, const std::vector<float>& values) {
    file_.add(name, *io::ggml_type("F32"), {static_cast<int>(values.size())});
    tables_.emplace(name,
                    mx::array(values.begin(), {static_cast<int>(values.size())}, mx::float32));
  }

 public:
  std::map<std::string, mx::array> tables_;

 private:
  io::GgufWriter& file_;
  const GgufArchitecture& arch_;
  config::Model& model_;
  std::vector<std::string>& warnings_;
  std::string prefix_;
  const Attention& attention_;
  const Rope* rope_ = nullptr;
};

// ---- tensors ----

class Weights {
 public:
  Weights(LanguageModel& model, const GgufArchitecture& arch, const GgufMix& mix)
      : arch_(arch), mix_(mix), layers_(static_cast<int>(model.config().layers.size())) {
    for (const auto& [path, w, embedding] : core::weights_of(model.transformer()))
      weights_[path + ".weight"] = w;
    auto config = model.config();
    order_ = arch.pairs ? RotaryOrder::pairs : RotaryOrder::halves;
    turns_ = set_rotary_order(config, order_);
    for (const auto& e : core::collect(model.transformer())) {
      if (e.path.starts_with("model.mtp_heads.")) continue;
      const auto dot = e.path.rfind('.');
      const auto leaf = e.path.substr(dot + 1);
      if (leaf.starts_with("scales") || leaf.starts_with("biases")) continue;
      // Rows interleaved for our kernels have a leaf of another name.
      const auto path = leaf.starts_with("weight") ? e.path.substr(0, dot) + ".weight" : e.path;
      params_[path] = e.param;
      plan(path, model.config());
    }
  }

  struct Out {
    std::string name;
    std::vector<std::string> sources;  // rows one after another
    const io::GgmlType* type = nullptr;
    mx::Shape shape = {};
  };
  const std::vector<Out>& all() const { return out_; }

  void add_to(io::GgufWriter& file) {
    for (auto& o : out_) {
      o.shape = shape_of(o.sources[0]);
      for (size_t i = 1; i < o.sources.size(); ++i) o.shape[0] += shape_of(o.sources[i])[0];
      o.type = &type_of(o);
      file.add(o.name, *o.type, o.shape);
    }
  }

  mx::array bytes(const std::string& name) const {
    const auto& o = *std::find_if(out_.begin(), out_.end(),
                                  [&](const Out& other) { return other.name == name; });
    const auto w = weights_.find(o.sources[0]);
    if (o.sources.size() == 1 && w != weights_.end() && w->second->blocks() &&
        !turn(o.sources[0]) && kernels::block_format(w->second->format).ggml == o.type->number)
      return w->second->w.value;
    std::vector<mx::array> parts;
    for (const auto& source : o.sources) parts.push_back(numbers(source));
    auto rows = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
    if (o.type->weights > 1) return kernels::quantize_blocks(o.type->number, rows);
    rows = mx::contiguous(mx::astype(rows, o.type->name == "F16"    ? mx::float16
                                           : o.type->name == "BF16" ? mx::bfloat16
                                                                    : mx::float32));
    mx::eval(rows);
    return rows;
  }

 private:
  const RotaryRows* turn(const std::string& path) const {
    const auto it = turns_.find(path.substr(0, path.rfind('.')));
    return it == turns_.end() ? nullptr : &it->second;
  }
  core::Weight* weight(const std::string& path) const {
    const auto it = weights_.find(path);
    return it == weights_.end() ? nullptr : it->second;
  }
  mx::Shape shape_of(const std::string& path) const {
    if (const auto* w = weight(path); w && w->quantized()) {
      const auto packed = w->packed();
      return {packed.out, packed.in};
    }
    return params_.at(path)->value.shape();
  }
  mx::array numbers(const std::string& path) const {
    const auto* w = weight(path);
    auto value = w && w->quantized()
                     ? w->rows(mx::arange(shape_of(path)[0], mx::int32), mx::float32)
                     : mx::astype(params_.at(path)->value, mx::float32);
    if (const auto* t = turn(path)) value = reorder(value, *t, order_);
    const bool norm = path.find("norm.") != path.npos;
    return norm && arch_.plus_one ? mx::add(value, mx::array(1.0f)) : value;
  }

  void plan(const std::string& path, const config::Model& model) {
    const std::string prefix = "model.layers.";
    const bool in_block = path.starts_with(prefix);
    const auto layer = in_block ? std::strtoul(path.c_str() + prefix.size(), nullptr, 10) : 0;
    const auto wiring = in_block ? model.layers[layer].wiring : config::Wiring::pre;
    auto name = name_to_gguf(path, wiring);
    if (name == path) cannot("llama.cpp has no name for " + path);
    // Some classes have three projections in one matrix, or two.
    const std::string type = arch_.model_type;
    const auto fuse = [&](std::initializer_list<const char*> parts, const char* one) {
      for (const char* part : parts) {
        const auto at = name.find(part);
        if (at == name.npos) continue;
        name.replace(at, std::string(part).size(), one);
        return;
      }
    };
    if (type == "phi3" || type == "gpt2") fuse({".attn_q.", ".attn_k.", ".attn_v."}, ".attn_qkv.");
    if (type == "phi3") fuse({".ffn_gate.", ".ffn_up."}, ".ffn_up.");
    const auto there =
        std::find_if(out_.begin(), out_.end(), [&](const Out& o) { return o.name == name; });
    if (there != out_.end())
      there->sources.push_back(path);
    else
      out_.push_back({name, {path}});
  }

  const io::GgmlType& type_of(const Out& o) const {
    if (o.shape.size() != 2 || !weights_.contains(o.sources[0])) return *io::ggml_type("F32");
    using Kind = GgufRole::Kind;
    const auto has = [&](const char* part) { return o.name.find(part) != o.name.npos; };
    const bool tied = !weights_.contains("lm_head.weight");
    GgufRole role{.layers = layers_};
    if (o.name.starts_with("blk.")) role.layer = std::atoi(o.name.c_str() + 4);
    if (o.name == "output.weight" || (o.name == "token_embd.weight" && tied))
      role.kind = Kind::head;
    else if (has(".attn_v.") || has(".attn_qkv."))
      role.kind = Kind::value;
    else if (has(".ffn_down."))
      role.kind = Kind::down;
    return mixed_type(mix_, role, o.shape[1]);
  }

  const GgufArchitecture& arch_;
  const GgufMix& mix_;
  int layers_;
  std::map<std::string, core::Weight*> weights_;
  std::map<std::string, core::Param*> params_;
  std::map<std::string, RotaryRows> turns_;
  RotaryOrder order_ = RotaryOrder::halves;
  std::vector<Out> out_;
};

// ---- what was written ----

// Frequencies and magnitude of each layer, at a short length and at the whole context.
std::vector<config::RopeTable> tables_of(const config::Model& model) {
  std::vector<config::RopeTable> out;
  for (const auto& b : model.layers) {
    const auto& a = std::get<Attention>(b.mixer);
    const auto* rope = std::get_if<Rope>(&a.position);
    if (!rope) continue;
    const int dims = rope->dims > 0 ? rope->dims : a.head_dim;
    for (const int64_t length : {1, model.context})
      out.push_back(config::rope_table(*rope, dims, length));
  }
  return out;
}
bool same_rotations(const config::Model& a, const config::Model& b) {
  const auto x = tables_of(a), y = tables_of(b);
  if (x.size() != y.size()) return false;
  const auto near = [](float p, float q) { return std::abs(p - q) <= 1e-5f * std::abs(q); };
  for (size_t i = 0; i < x.size(); ++i) {
    // No list: the powers of theta, which are compared with the rest of the config.
    if (!near(x[i].magnitude, y[i].magnitude)) return false;
    if (x[i].frequencies.size() != y[i].frequencies.size()) return false;
    for (size_t k = 0; k < x[i].frequencies.size(); ++k)
      if (!near(x[i].frequencies[k], y[i].frequencies[k])) return false;
  }
  return true;
}

// What neither a GGUF file says nor an answer depends on, and what is compared as numbers.
config::Model essence(config::Model m) {
  m.family = "", m.dropout = 0, m.init_std = 0;
  set_rotary_order(m, RotaryOrder::halves);
  for (auto& b : m.layers) {
    auto& a = std::get<Attention>(b.mixer);
    if (!a.scale) a.scale = 1 / std::sqrt(static_cast<float>(a.head_dim));
    if (auto* r = std::get_if<Rope>(&a.position)) {
      r->scaling = config::Unscaled{};
      if (r->dims == a.head_dim) r->dims = 0;
    }
  }
  return m;
}

// The first place at which what was read is another value.
std::string difference(const std::string& path, const Json& want, const Json& got) {
  if (want.is_object() && got.is_object())
    for (const auto& [key, value] : want.as_object())
      if (const Json* other = got.find(key); other && *other != value)
        return difference(path + "." + key, value, *other);
  if (want.is_array() && got.is_array() && want.size() == got.size())
    for (size_t i = 0; i < want.size(); ++i)
      if (want.as_array()[i] != got.as_array()[i])
        return difference(path + "." + std::to_string(i), want.as_array()[i], got.as_array()[i]);
  return "its " + path + " is " + want.dump() + ", and what llama.cpp takes it for is " +
         got.dump();
}

void check(const std::filesystem::path& path, const config::Model& want) {
  const auto got = read_gguf_config(io::Gguf(path)).model;
  const auto a = essence(got), b = essence(want);
  if (!same_rotations(got, want)) cannot("its rotations by position read back as others");
  if (a == b) return;
  cannot(difference("model", to_json(b), to_json(a)));
}

}  // namespace

std::vector<std::string> gguf_types() {
  return gguf_mixes();
}

GgufSaved save_gguf(LanguageModel& model, const std::filesystem::path& path,
                    const GgufSaveOptions& options) {
  const auto* mix = gguf_mix(options.type);
  if (!mix)
    throw Error(Kind::usage, "[gguf] type: expected one of " + join(gguf_mixes(), ", ") +
                                 ", got \"" + options.type + "\"");
  expect_tokens(model.config(), "gguf");
  auto config = model.config();
  const bool heads = !config.mtp_heads.empty();
  config.mtp_heads.clear();
  set_rotary_order(config, RotaryOrder::halves);
  for (const auto& b : config.layers)
    if (!std::holds_alternative<Attention>(b.mixer))
      cannot("its mixers are not all attention over heads");
  const auto& arch = architecture_of(config::hf_form(config).model_type);
  const Enter enter(model.runtime());
  GgufSaved out;
  if (heads) out.warnings.push_back("the heads for further tokens are left out");
  io::GgufWriter file;
  Metadata metadata(file, arch, config, out.warnings);
  metadata.write(options.name, *mix);
  if (options.more) options.more(file);
  Weights weights(model, arch, *mix);
  weights.add_to(file);
  out.tensors = static_cast<int>(weights.all().size() + metadata.tables_.size());
  out.bytes = static_cast<int64_t>(file.tensor_bytes());
  int done = 0;
  file.write(path, [&](const std::string& name) {
    if (options.progress) options.progress(done++, out.tensors);
    const auto table = metadata.tables_.find(name);
    return table == metadata.tables_.end() ? weights.bytes(name) : table->second;
  });
  try {
    check(path, config);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    throw;
  }
  return out;
}

}  // namespace lmxlab
