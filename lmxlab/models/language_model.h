// The model as an application sees it: tokens in, logits and a cache out; loaded and saved as a
// Hugging Face folder.
//
//   LanguageModel model(config::preset("llama-tiny"));
//   auto [logits, cache] = model(tokenizer.encode("Once"));
//   auto next = argmax(logits...);
//   std::tie(logits, cache) = model(next, std::move(cache));
//   eval(logits, cache);
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/config/model.h"
#include "lmxlab/core/cache.h"
#include "lmxlab/core/pass.h"
#include "lmxlab/kernels/quantized.h"

#include <mlx/array.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {

class Runtime;
namespace core {
class Transformer;
}
using core::Cache;
using core::CacheOptions;

/// Element types of weights and activations.
enum class DType { f32, f16, bf16 };
mx::Dtype to_mlx(DType dtype);
DType from_mlx(mx::Dtype dtype);

/// A language model and its weights. Movable, not copyable; may be called from any thread (one call
/// at a time runs, each model for itself). Nothing is evaluated here: results are lazy until
/// `eval`. Operations of a program's own on those results belong to the thread that asked for them:
/// where several threads use one model by themselves, let each finish (`eval`) before the next
/// begins, or use `generate`, which does.
class LanguageModel {
 public:
  /// New weights from a seed; nothing is allocated before the first evaluation.
  /// @throws Error(usage) with every contradiction of the config.
  explicit LanguageModel(const config::Model& config, uint64_t seed = 0, DType dtype = DType::f32);
  /// A folder in Hugging Face layout (config.json and *.safetensors, with or without an index), or
  /// a GGUF file.
  /// @throws Error(not_found), Error(bad_data), Error(unsupported), Error(mismatch) with every
  ///   tensor that does not fit.
  static LanguageModel load(const std::filesystem::path& folder, bool strict = false);
  /// The weights of a folder for a config from elsewhere, as checkpoints of the Python package
  /// lmxlab need it, which have none. @throws as above.
  static LanguageModel load(const std::filesystem::path& folder, const config::Model& config);

  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();

  /// Logits of every position, and a cache that has seen them.
  /// @param tokens  int [L] (a batch of one) or [B, L], L >= 1; a scalar is one token. Ids are
  ///                below `vocab`; others are undefined here and an error in `generate`, `logits`
  ///                and the trainer.
  /// @return  logits [B, L, V] in the dtype of activations, cache.
  /// @throws Error(usage) for another shape or type, or more positions than the model has.
  std::pair<mx::array, Cache> operator()(const mx::array& tokens) const;
  /// The same, after what the cache has seen. Moved in, its buffers are written in place; a copy
  /// stays as it was.
  std::pair<mx::array, Cache> operator()(const mx::array& tokens, Cache cache) const;

  /// Without a cache: the whole forward pass, as training does it.
  /// @param pads  int32 [B]: padding tokens at the left of each row, never looked at.
  mx::array forward(const mx::array& tokens, const std::optional<mx::array>& pads = {},
                    const core::Tap& tap = {}) const;
  /// An empty cache, for rows with `pads` tokens of padding at their left. Learned positions: a
  /// padded row must be kept below their number by the caller; beyond, the last one is repeated.
  Cache make_cache(const std::optional<mx::array>& pads = {},
                   const CacheOptions& options = {}) const;

  /// A pass as the calls above make it, after what the cache has seen.
  core::Pass make_pass(Cache* cache = nullptr) const;

  const config::Model& config() const;
  /// Of the weights; of packed ones, that of their scales.
  DType dtype() const;
  /// Of activations, keys and values. float32 where our kernels run on the CPU, which widen 16-bit
  /// weights as they read them, at no cost while weights are what a step reads; elsewhere that of
  /// the weights.
  DType activations() const;
  void set_activations(DType dtype) { activations_ = dtype; }
  /// How keys and values are kept where nobody says (CacheOptions): 16 bits beside packed weights,
  /// whose rounding is far coarser; else as computed.
  int kv_bits() const;
  /// How a piece of a prompt of so many tokens meets packed weights: rounded to bfloat16 from 128
  /// on, where it takes half the time, unless set_activations chose float32. (docs/decisions/022)
  kernels::Activations prompt_activations(int64_t tokens) const;
  /// Numbers that the weights stand for, packed or not.
  int64_t parameter_count() const;
  int64_t parameter_bytes() const;
  /// Of them what a pass over so many tokens reads at least: of n experts of which each token meets
  /// k, n (1 - (1 - k / n)^tokens), as many as are expected where every choice is as likely; tables
  /// of which it looks up rows, and heads for further tokens, not at all.
  int64_t bytes_read(int64_t tokens) const;

  /// Writes config.json and model.safetensors with the names, shapes and (zero) biases of the
  /// nearest transformers class; each file atomically. Evaluates the weights. @throws
  /// Error(resource)
  void save(const std::filesystem::path& folder) const;

  /// Makes a reward model of it: the head for tokens goes, one of a single number is drawn from the
  /// seed, as transformers draws it. A reward model stays as it is.
  void put_score(uint64_t seed);

  /// bos_token_id, eos_token_id and pad_token_id of the config.json that it was loaded from, for
  /// the one that is saved; what is missing is null there, not the class's default.
  const Json& special_ids() const { return special_ids_; }
  void set_special_ids(Json ids) { special_ids_ = std::move(ids); }

  /// What the loader had to say: config keys that nobody read.
  const std::vector<std::string>& warnings() const { return warnings_; }

  core::Transformer& transformer() { return *transformer_; }
  const core::Transformer& transformer() const { return *transformer_; }
  const std::shared_ptr<Runtime>& runtime() const { return runtime_; }

 private:
  LanguageModel(std::shared_ptr<Runtime> runtime, std::unique_ptr<core::Transformer> transformer);
  std::shared_ptr<Runtime> runtime_;
  std::unique_ptr<core::Transformer> transformer_;
  std::vector<std::string> warnings_;
  Json special_ids_ = Json::object();
  std::optional<DType> activations_;
};

/// @throws Error(usage) for a reward model, which predicts no tokens. @param who  for the message
void expect_tokens(const config::Model& model, const char* who);

/// Evaluates what a model returned, together, from any thread.
void eval(const mx::array& logits, const Cache& cache);
void eval(const Cache& cache);

/// Copies the values out as T, whatever the strides; evaluates.
template <class T>
std::vector<T> to_vector(const mx::array& a);

}  // namespace lmxlab
