// The classes of transformers that we read and write, as data: a list of keys and what they mean.
// Private to config. A class more is a function for each in its lineage's file, and a line in the
// table there.
#pragma once

#include "lmxlab/config/hf/keys.h"

#include <string_view>
#include <vector>

namespace lmxlab::config {

struct HfClass {
  const char *model_type, *architecture;
  const char* family;  // what Model::family says
  void (*keys)(Keys&, Decoder&);
  Model (*build)(const Decoder&);
};

/// By lineage, and all of them.
std::vector<HfClass> llama_classes();
std::vector<HfClass> gpt_classes();
std::vector<HfClass> gemma_classes();
std::vector<HfClass> mla_classes();
std::vector<HfClass> moe_classes();
std::vector<HfClass> attention_moe_classes();
std::vector<HfClass> recurrent_classes();
std::vector<HfClass> hybrid_classes();
std::vector<HfClass> rnn_classes();
const std::vector<HfClass>& hf_classes();
/// @return  null for another.
const HfClass* hf_class(std::string_view model_type);

/// The class with one score in the place of the tokens' head; empty: transformers has none.
std::string sequence_class(const HfClass& c);

/// The flat form of a model, whatever its family; none if a layer is not attention and a dense FFN.
std::optional<Decoder> decoder_of(const Model& model);

}  // namespace lmxlab::config
