#include "lmxlab/models/language_model.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/hf_folder.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/models/gguf_model.h"
#include "lmxlab/models/lmxlab_names.h"
#include "lmxlab/models/names.h"
#include "lmxlab/models/quantization_config.h"
#include "lmxlab/models/quantize.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {

mx::Dtype to_mlx(DType dtype) {
  return dtype == DType::f32 ? mx::float32 : dtype == DType::f16 ? mx::float16 : mx::bfloat16;
}
DType from_mlx(mx::Dtype dtype) {
  if (dtype == mx::float32) return DType::f32;
  if (dtype == mx::float16) return DType::f16;
  if (dtype == mx::bfloat16) return DType::bf16;
  throw Error(Kind::internal, "[model] weights of an unexpected type");
}

namespace {

constexpr const char* kSpecialIds[] = {"bos_token_id", "eos_token_id", "pad_token_id"};

// Heads for further tokens are no part of transformers' classes: configs name them whether a
// checkpoint has them or not. Those with blocks that we do not make for them are left out.
void add_heads(config::HfRead& read, const Json& config, core::Tensors& tensors) {
  if (std::none_of(tensors.begin(), tensors.end(),
                   [](const auto& t) { return t.first.ends_with("eh_proj.weight"); }))
    return read.model.mtp_heads.clear();
  const Json* text = config.find("text_config");
  const Json* n = (text && text->is_object() ? *text : config).find(config::kHeadsKey);
  if (!n || !n->is_integer() || !read.model.mtp_heads.empty()) return;
  const auto& layers = read.model.layers;
  const bool can = std::any_of(layers.begin(), layers.end(), config::stands_alone);
  for (int64_t k = 0; k < n->as_integer(); ++k) {
    const auto path =
        "model.layers." + std::to_string(layers.size() + static_cast<size_t>(k)) + ".";
    if (!tensors.contains(path + "eh_proj.weight")) return;
    if (can)
      read.model.mtp_heads.push_back(config::mtp_block(read.model));
    else
      std::erase_if(tensors, [&](const auto& t) { return t.first.starts_with(path); });
  }
}

}  // namespace

LanguageModel::LanguageModel(std::shared_ptr<Runtime> runtime,
                             std::unique_ptr<core::Transformer> transformer)
    : runtime_(std::move(runtime)), transformer_(std::move(transformer)) {}

LanguageModel::LanguageModel(const config::Model& config, uint64_t seed, DType dtype)
    : runtime_(std::make_shared<Runtime>()) {
  config::validate(config);
  const Enter enter(runtime_);
  transformer_ = std::make_unique<core::Transformer>(config, seed);
  if (dtype != DType::f32)
    for (auto& e : core::collect(*transformer_))
      e.param->value = mx::astype(e.param->value, to_mlx(dtype));
}

LanguageModel LanguageModel::load(const std::filesystem::path& folder, bool strict) {
  if (io::is_gguf(folder)) {
    const io::Gguf file(folder);
    auto read = with_context(folder.string(), [&] { return read_gguf_config(file); });
    auto runtime = std::make_shared<Runtime>();
    const Enter enter(runtime);
    LanguageModel model(runtime, std::make_unique<core::Transformer>(read.model, 0));
    model.warnings_ = std::move(read.warnings);
    with_context(folder.string(), [&] {
      const auto tensors = read_gguf_tensors(file, *model.transformer_);
      core::load(core::collect(*model.transformer_), tensors, folder.string());
    });
    return model;
  }
  const auto config_path = folder / "config.json";
  auto json = parse_python_json(read_file(config_path), config_path.string());
  const auto quantization =
      with_context(config_path.string(), [&] { return take_quantization(json); });
  auto read = with_context(config_path.string(), [&] { return config::from_hf(json, strict); });
  config::validate(read.model, Kind::bad_data);

  auto tensors = io::read_folder(folder);
  add_heads(read, json, tensors);
  auto runtime = std::make_shared<Runtime>();
  const Enter enter(runtime);
  LanguageModel model(runtime, std::make_unique<core::Transformer>(read.model, 0));
  model.warnings_ = std::move(read.warnings);
  const Json* text = json.find("text_config");
  for (const char* key : kSpecialIds) {
    const Json* id = text && text->is_object() ? text->find(key) : nullptr;
    if (!id) id = json.find(key);
    if (id) model.special_ids_[key] = *id;
  }
  with_context(folder.string(), [&] {
    tensors = has_lmxlab_names(tensors)
                  ? names_from_lmxlab(std::move(tensors), read.model, model.warnings_)
                  : names_from_checkpoint(read.form, std::move(tensors), read.model);
    if (quantization) expect_packed(*model.transformer_, *quantization, tensors);
    core::load(core::collect(*model.transformer_), tensors, folder.string());
    check_packed(*model.transformer_);
  });
  return model;
}

LanguageModel LanguageModel::load(const std::filesystem::path& folder,
                                  const config::Model& config) {
  config::validate(config);
  auto tensors = io::read_folder(folder);
  auto runtime = std::make_shared<Runtime>();
  const Enter enter(runtime);
  LanguageModel model(runtime, std::make_unique<core::Transformer>(config, 0));
  with_context(folder.string(), [&] {
    tensors = has_lmxlab_names(tensors)
                  ? names_from_lmxlab(std::move(tensors), config, model.warnings_)
                  : names_from_checkpoint(config::hf_form(config), std::move(tensors), config);
    core::load(core::collect(*model.transformer_), tensors, folder.string());
  });
  return model;
}

LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

namespace {

mx::array as_batch(const mx::array& tokens) {
  if (!mx::issubdtype(tokens.dtype(), mx::integer))
    throw Error(Kind::usage, "[model] tokens: expected integers, got another type");
  if (tokens.ndim() > 2 || tokens.size() == 0)
    throw Error(Kind::usage,
                "[model] tokens: expected [L] or [B, L] with at least one token, got " +
                    std::to_string(tokens.ndim()) + " dimensions and " +
                    std::to_string(tokens.size()) + " tokens");
  if (tokens.ndim() == 2) return tokens;
  return mx::reshape(tokens, {1, static_cast<int>(tokens.size())});
}

}  // namespace

std::pair<mx::array, Cache> LanguageModel::operator()(const mx::array& tokens) const {
  return (*this)(tokens, make_cache());
}

std::pair<mx::array, Cache> LanguageModel::operator()(const mx::array& tokens, Cache cache) const {
  const Enter enter(runtime_);
  if (cache.empty()) cache = make_cache();
  const auto batch = as_batch(tokens);
  if (cache.layers() != static_cast<int>(transformer_->layers.size()))
    throw Error(Kind::usage, "[model] the cache has " + std::to_string(cache.layers()) +
                                 " layers, the model " +
                                 std::to_string(transformer_->layers.size()) +
                                 ". A cache serves the model that made it.");
  if (const int rows = cache.rows(); rows > 0 && rows != batch.shape(0))
    throw Error(Kind::usage, "[model] the cache has " + std::to_string(rows) +
                                 " rows, the tokens " + std::to_string(batch.shape(0)));
  auto pass = make_pass(&cache);
  auto logits = (*transformer_)(batch, pass);
  return {std::move(logits), std::move(cache)};
}

mx::array LanguageModel::forward(const mx::array& tokens, const std::optional<mx::array>& pads,
                                 const core::Tap& tap) const {
  const Enter enter(runtime_);
  auto pass = make_pass();
  pass.pads = pads;
  pass.tap = tap;
  return (*transformer_)(as_batch(tokens), pass);
}

Cache LanguageModel::make_cache(const std::optional<mx::array>& pads,
                                const CacheOptions& options) const {
  Cache cache(transformer_->make_caches(options), runtime_);
  cache.pads = pads;
  cache.max_kv = options.max_kv;
  return cache;
}

const config::Model& LanguageModel::config() const {
  return transformer_->config();
}
DType LanguageModel::dtype() const {
  return from_mlx(transformer_->dtype());
}
DType LanguageModel::activations() const {
  return activations_.value_or(kernels::fused(mx::float32) ? DType::f32 : dtype());
}
kernels::Activations LanguageModel::prompt_activations(int64_t tokens) const {
  constexpr int64_t kLong = 128;  // below, exact products take a tenth of a second or two
  return tokens < kLong || activations_ == DType::f32 ? kernels::Activations::int16
                                                      : kernels::Activations::bf16;
}

int LanguageModel::kv_bits() const {
  const auto weights = core::weights_of(*transformer_);
  return std::any_of(weights.begin(), weights.end(),
                     [](const auto& w) { return w.weight->quantized(); })
             ? 16
             : 0;
}

core::Pass LanguageModel::make_pass(Cache* cache) const {
  core::Pass pass;
  pass.dtype = to_mlx(activations());
  pass.cache = cache;
  if (cache) pass.offset = cache->length(), pass.pads = cache->pads;
  return pass;
}
int64_t LanguageModel::parameter_count() const {
  auto n = core::count(core::collect(*transformer_));
  for (const auto& [path, w, embedding] : core::weights_of(*transformer_)) {
    if (!w->quantized()) continue;
    const auto packed = w->packed();
    for (const auto& e : core::collect(*w)) n -= static_cast<int64_t>(e.param->value.size());
    n += int64_t{packed.out} * packed.in;
  }
  return n;
}
int64_t LanguageModel::parameter_bytes() const {
  return core::bytes(core::collect(*transformer_));
}

int64_t LanguageModel::bytes_read(int64_t tokens) const {
  struct Stacks : core::Visitor {
    int64_t bytes = 0;
    void experts(const std::string&, core::ExpertLinear& e) override {
      bytes += core::bytes(core::collect(e));
    }
  };
  auto& t = *transformer_;
  const auto bytes_of = [](auto& part) { return core::bytes(core::collect(part)); };
  auto n = parameter_bytes();
  if (!config().tie_head || config().score) n -= bytes_of(t.embed_tokens);
  if (t.embed_positions) n -= static_cast<int64_t>(t.embed_positions->value.nbytes());
  if (t.layer_inputs) n -= bytes_of(t.layer_inputs->table);
  for (auto& head : t.mtp_heads) n -= bytes_of(head);
  for (size_t i = 0; i < t.layers.size(); ++i) {
    const auto* experts = config::experts_in(config().layers[i]);
    if (!experts) continue;
    Stacks stacks;
    t.layers[i].visit(stacks);
    n -= static_cast<int64_t>(double(stacks.bytes) * (1 - experts->met(double(tokens))));
  }
  return n;
}

void LanguageModel::put_score(uint64_t seed) {
  if (config().score) return;
  const Enter enter(runtime_);
  transformer_->put_score(core::Init(seed));
}

void expect_tokens(const config::Model& model, const char* who) {
  if (model.score)
    throw Error(Kind::usage, "[" + std::string(who) +
                                 "] the model is a reward model: expected one that predicts "
                                 "tokens. A reward model scores texts: generate MODEL --best-of N "
                                 "--judge REWARD_MODEL.");
}

void LanguageModel::save(const std::filesystem::path& folder) const {
  const Enter enter(runtime_);
  for (const auto& e : core::collect(*transformer_))
    if (e.path.find(".adapter.") != e.path.npos)
      throw Error(Kind::usage,
                  "[save] the model has adapters, which a folder of weights cannot hold. Merge or "
                  "detach them first, or save them by themselves.");
  make_directory(folder);
  core::Tensors tensors = folder_tensors(*transformer_);
  const auto form = config::hf_form(config());
  for (const auto& [path, w, embedding] : core::weights_of(*transformer_))
    if (w->blocks())
      throw Error(Kind::unsupported, "[save] " + path +
                                         " lies in blocks of a GGUF file, which a folder cannot "
                                         "hold.");
  const auto quantization = quantization_of(*transformer_);
  if (quantization && !can_save_packed(config()))
    throw Error(Kind::unsupported,
                "[save] packed weights cannot be written in GPT-2's layout: it has its matrices "
                "transposed. Save the model before it is quantized.");
  const char* dtype = this->dtype() == DType::f32   ? "float32"
                      : this->dtype() == DType::f16 ? "float16"
                                                    : "bfloat16";
  io::write_safetensors(folder / "model.safetensors",
                        names_to_checkpoint(form, std::move(tensors), config()),
                        {{"format", "pt"}});
  auto json = config::to_hf(config(), dtype);
  for (const char* key : kSpecialIds) {
    if (const Json* id = special_ids_.find(key)) json[key] = *id;
  }
  for (const char* key : {"quantization", "quantization_config"}) {
    if (quantization) json[key] = *quantization;
  }
  write_file_atomic(folder / "config.json", json.dump(2) + "\n");
}

void eval(const mx::array& logits, const Cache& cache) {
  const Enter enter(cache.runtime());
  auto all = cache.arrays();
  all.push_back(logits);
  as_error([&] { mx::eval(all); });
}
void eval(const Cache& cache) {
  const Enter enter(cache.runtime());
  as_error([&] { mx::eval(cache.arrays()); });
}

template <class T>
std::vector<T> to_vector(const mx::array& a) {
  // What is evaluated is read without any stream: this thread's may be a model's that another
  // thread runs now.
  const mx::Dtype dtype = mx::TypeToDtype<T>();
  mx::array source = a.dtype() == dtype ? a : mx::astype(a, dtype);
  if (!source.is_available()) mx::eval(source);
  const T* first = source.data<T>();
  std::vector<T> out(source.size());
  std::vector<int> at(source.ndim(), 0);
  int64_t from = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = first[from];
    for (auto d = at.size(); d-- > 0;) {
      from += source.strides()[d];
      if (++at[d] < source.shape()[d]) break;
      from -= source.strides()[d] * source.shape()[d], at[d] = 0;
    }
  }
  return out;
}
template std::vector<float> to_vector(const mx::array&);
template std::vector<int32_t> to_vector(const mx::array&);
template std::vector<uint32_t> to_vector(const mx::array&);
template std::vector<bool> to_vector(const mx::array&);

}  // namespace lmxlab
