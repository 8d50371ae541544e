// What a GGUF file carries besides the model: its tokenizer and its chat template.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/io/gguf.h"

namespace lmxlab::data {

/// @throws Error(not_found) if the file has none, Error(bad_data) naming the key.
GgufVocabulary read_gguf_vocabulary(const io::Gguf& file);

/// As a tokenizer_config.json would say it: `chat_template` (one, or a list of them by name), and
/// bos_token, eos_token, ...
Json gguf_tokenizer_config(const io::Gguf& file);

}  // namespace lmxlab::data
