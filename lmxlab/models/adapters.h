// Low-rank adapters of a model: attached, switched, merged, and kept in PEFT's and mlx-lm's files.
// The base is not touched: with every adapter off the model gives what it gave before.
#pragma once

#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace lmxlab {

/// LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), DoRA (arXiv:2402.09353).
struct AdapterOptions {
  int rank = 8;
  float alpha = 16;  ///< the addition counts alpha / rank times; rslora: alpha / sqrt(rank)
  bool rslora = false;
  bool dora = false;    ///< a length for every row, trained apart from its direction
  float dropout = 0;    ///< of what adapters read, in training
  int last_layers = 0;  ///< blocks from the end that get one; 0: all
  /// Linear layers that get one: a path's last names ("q_proj", "mlp.up_proj"), or a pattern of the
  /// whole path where "*" is any text. None: every linear layer of the blocks but routers.
  std::vector<std::string> targets = {};
  struct LayerRank {
    std::string pattern;  ///< as of targets; the first that fits counts
    int rank = 0;
    template <class V>
    void visit(V& v) {
      v("pattern", pattern, "layers, as targets name them");
      v("rank", rank, "of these");
    }
  };
  std::vector<LayerRank> ranks = {};
  template <class V>
  void visit(V& v) {
    v("rank", rank, "of the two matrices that are added up to one");
    v("alpha", alpha, "the addition counts alpha / rank times");
    v("rslora", rslora, "it counts alpha / sqrt(rank) times");
    v("dora", dora, "lengths of rows are trained apart from their directions");
    v("dropout", dropout, "of what adapters read, in training");
    v("last_layers", last_layers, "blocks from the end that get one, 0: all");
    v("targets", targets, "linear layers: last names of a path or patterns with *; none: all");
    v("ranks", ranks, "other ranks, of layers by pattern; the first that fits counts");
  }
};

struct AdapterInfo {
  std::string name;
  bool on = true;
  int layers = 0;
  int64_t parameters = 0;
};

/// Adds an adapter to every target and freezes all else but a reward model's head. A new one
/// changes nothing: A is drawn as PEFT draws it, B is zero. Stacked experts and embeddings get
/// none.
/// @throws Error(usage) for options that make no sense, a name that is taken, a target that fits no
///   layer; the model is unchanged then.
AdapterInfo attach_adapter(LanguageModel& model, const AdapterOptions& options,
                           const std::string& name = "default", uint64_t seed = 0);
/// @throws Error(not_found) with the names there are, as the next ones.
void detach_adapter(LanguageModel& model, const std::string& name);
/// Those named are on and the others off; none: the base as it was. Nothing is loaded or moved.
void use_adapters(LanguageModel& model, const std::vector<std::string>& names);
std::vector<AdapterInfo> adapters_of(LanguageModel& model);

/// The base as it was, for a scope: those adapters that are on are off in it. What was asked for
/// in it, lazily, is the base's.
class AdaptersOff {
 public:
  explicit AdaptersOff(LanguageModel& model);
  ~AdaptersOff();
  AdaptersOff(const AdaptersOff&) = delete;
  AdaptersOff& operator=(const AdaptersOff&) = delete;

 private:
  LanguageModel& model_;
  std::vector<std::string> on_;
};
/// All parameters but those whose paths fit are frozen: last names or patterns, as targets.
/// @throws Error(usage) for a pattern that fits none, or packed weights, which do not train.
void train_only(LanguageModel& model, const std::vector<std::string>& patterns);

/// What merging took away, for the way back, and what it cost.
class Merged {
 public:
  int tensors = 0;
  double max_error = 0;  // largest difference to W + scale B A: of packed weights and 16-bit ones

 private:
  friend Merged merge_adapter(LanguageModel& model, const std::string& name);
  friend void unmerge_adapter(LanguageModel& model, Merged merged);
  struct Kept;
  std::shared_ptr<Kept> kept_;
};
/// The adapter's additions go into the weights, layer by layer; packed ones are packed anew in the
/// format they had. @throws Error(unsupported) for weights in blocks of a GGUF file that cannot be
/// written.
Merged merge_adapter(LanguageModel& model, const std::string& name);
/// The weights of before, bit for bit, and the adapter beside them again.
void unmerge_adapter(LanguageModel& model, Merged merged);

enum class AdapterFormat { peft, mlx };
/// adapter_config.json and adapter_model.safetensors with the names of the model's transformers
/// class; of a reward model with its head (PEFT's SEQ_CLS with modules_to_save "score"); mlx-lm's
/// adapters.safetensors has one rank, so that smaller ones are filled with zeros.
/// @param base  what base_model_name_or_path names; empty: nothing
/// @throws Error(unsupported) for DoRA of a part of one matrix, or a head in mlx-lm's file;
///   Error(resource)
void save_adapter(LanguageModel& model, const std::string& name,
                  const std::filesystem::path& folder, AdapterFormat format = AdapterFormat::peft,
                  const std::string& base = "");
/// base_model_name_or_path of an adapter's folder; empty if it names none.
std::string base_of_adapter(const std::filesystem::path& folder);
/// Either format, known by its config; attached and switched on. One with a head of one number
/// makes a reward model of the model.
/// @throws Error(not_found), Error(bad_data), Error(mismatch) with every tensor that does not fit,
///   Error(unsupported) for other kinds of adapters; the model is unchanged then.
AdapterInfo load_adapter(LanguageModel& model, const std::filesystem::path& folder,
                         const std::string& name = "default");
/// An adapter on disk, and what it is called beside others.
struct AdapterFolder {
  std::filesystem::path path;
  std::string name = "default";
};
/// One beside the other.
void load_adapters(LanguageModel& model, const std::vector<AdapterFolder>& folders);
/// A model folder or GGUF file, or an adapter's folder with the base that it names.
/// @throws as LanguageModel::load and load_adapter; Error(not_found) if it names none.
LanguageModel load_with_adapter(const std::filesystem::path& folder);

}  // namespace lmxlab
