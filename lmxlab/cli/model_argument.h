// MODEL on the command line: a folder in Hugging Face layout (a run folder is one), a GGUF file, a
// preset or a name on a hub; found by looking.
#pragma once

#include "lmxlab/cli/context.h"
#include "lmxlab/config/model.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/governor/measure.h"
#include "lmxlab/io/hub_cache.h"
#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab::cli {

struct ModelPlace {
  std::filesystem::path path;  // a folder or a GGUF file; empty: a preset
  std::string preset;
  /// Beside the weights: an adapter's folder stands for its base and itself, and --adapter adds.
  std::vector<AdapterFolder> adapters = {};
};

/// @param part  of a model on a hub, if that has to be pulled.
/// @throws Error(not_found) naming the nearest presets, Error(usage) for another file; as io::pull.
ModelPlace find_model(const std::string& argument, const Context& context,
                      io::HubPart part = io::HubPart::whole);

/// Where its weights are; empty: nowhere, for a preset or a folder of config.json alone.
/// @throws Error(unsupported) if that config is of packed weights: new ones are not.
std::filesystem::path weights_of(const ModelPlace& place);

/// Its config, without its weights. Warnings go to the context.
config::Model read_config(const ModelPlace& place, const Context& context);

struct OpenModel {
  LanguageModel model;
  std::optional<data::Tokenizer> tokenizer;
  ModelPlace place;
  std::optional<int> bits = {};  // that the weights were packed to since
};

/// Its weights too, and its tokenizer if the folder has one.
/// @param seed  of a preset's weights.
/// @param dtype  none: a checkpoint's own, f32 of a preset.
/// @throws as find_model, LanguageModel::load, Tokenizer::load.
OpenModel open_model(const std::string& argument, uint64_t seed, std::optional<DType> dtype,
                     const Context& context);
OpenModel open_model(ModelPlace place, uint64_t seed, std::optional<DType> dtype,
                     const Context& context);
/// @throws Error(usage) if it is an adapter's folder, whose weights alone `command` would take.
void expect_no_adapter(const std::string& command, const OpenModel& m);
/// New weights, also for a folder of config.json alone: where nobody looks at the answers.
OpenModel new_model(ModelPlace place, uint64_t seed, DType dtype, const Context& context);

/// What a plan of its use asks.
Subject subject_of(const OpenModel& m);
/// What this process may still take, the weights included, those of a draft model too.
plan::Budget budget_beside(const OpenModel& m, const OpenModel* draft = nullptr);

/// "f32", "bf16" or empty. (The option's choices have checked it.)
std::optional<DType> dtype_argument(const std::string& text);
const char* dtype_name(DType dtype);

/// Ids as "1,2,3". @throws Error(usage) naming the part that is no id below `vocab`.
std::vector<int> parse_ids(const std::string& text, int vocab, const std::string& option);

/// Turns every weight into `dtype`.
void cast_weights(LanguageModel& model, DType dtype);

}  // namespace lmxlab::cli
