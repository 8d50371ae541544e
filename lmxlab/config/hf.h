// Hugging Face's config.json to a Model and back.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/config/model.h"

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::config {

/// The model type of what no class expresses.
inline constexpr const char* kOwnType = "lmxlab";

/// The key that says how many heads for further tokens there are, as Model::mtp_heads.
inline constexpr const char* kHeadsKey = "num_nextn_predict_layers";

/// The transformers class that expresses a model, for whoever saves or names its weights.
struct HfForm {
  std::string model_type;    // "gpt2", "llama", ..., or "lmxlab" where no class expresses it
  std::string architecture;  // "GPT2LMHeadModel", "LlamaForCausalLM", "LmxlabForCausalLM"
  std::string family;        // whose class it is; empty: nobody's
  bool zero_biases = false;  // the class has biases that the model lacks: they are written as zeros
};
HfForm hf_form(const Model& model);
/// The model with the biases that its class has and it lacks.
Model with_class_biases(const Model& model);

/// The keys of that class, and `"lmxlab": {"version": 1, "config": {...}}` with everything.
/// @param dtype  of the weights, as transformers spells it: float32, bfloat16 or float16.
Json to_hf(const Model& model, std::string_view dtype = "float32");

struct HfRead {
  Model model;
  HfForm form;                        // the class whose tensors belong to it
  std::vector<std::string> warnings;  // keys that nobody read
};

/// Reads the classes of hf_model_types() (keys of transformers 4 and 5) and what to_hf() wrote. An
/// "lmxlab" object is believed, after a check that the class's own keys say the same. Of a
/// multimodal model (`text_config`) only the language model is read.
/// @param strict  keys that nobody read are an error.
/// @throws Error(bad_data) with every missing or unusable key, Error(mismatch) if both descriptions
///         differ, Error(unsupported) for another model_type or kind of rope scaling.
HfRead from_hf(const Json& config, bool strict = false);

/// The model types that from_hf() reads.
std::vector<std::string> hf_model_types();

}  // namespace lmxlab::config
