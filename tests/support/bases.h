// Model folders that runs begin with.
#pragma once

#include "lmxlab/data/tokenizer.h"
#include "lmxlab/models/quantize.h"

#include <filesystem>

namespace lmxlab::test {

/// New weights of a config with a tokenizer of bytes: FOLDER/dense, and FOLDER/packed of 4 bits.
inline void save_bases(const std::filesystem::path& folder, const config::Model& config) {
  for (const bool packed : {false, true}) {
    LanguageModel model(config, 1);
    if (packed) quantize_model(model, {.bits = 4, .group_size = 64});
    const auto place = folder / (packed ? "packed" : "dense");
    model.save(place);
    data::Tokenizer::bytes().save(place);
  }
}

}  // namespace lmxlab::test
