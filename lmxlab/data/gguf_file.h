// What a GGUF file carries besides the model: its tokenizer and its chat template.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/io/gguf.h"
#include "lmxlab/io/gguf_writer.h"

namespace lmxlab::data {

/// @throws Error(not_found) if the file has none, Error(bad_data) naming the key.
GgufVocabulary read_gguf_vocabulary(const io::Gguf& file);

/// The keys of the vocabulary.
void write_gguf_vocabulary(io::GgufWriter& file, const GgufVocabulary& vocabulary);
/// All that another file says of its tokenizer, as it lies there.
void copy_gguf_tokenizer(io::GgufWriter& file, const io::Gguf& from);

/// As a tokenizer_config.json would say it: `chat_template` (one, or a list of them by name), and
/// bos_token, eos_token, ...
Json gguf_tokenizer_config(const io::Gguf& file);

}  // namespace lmxlab::data
