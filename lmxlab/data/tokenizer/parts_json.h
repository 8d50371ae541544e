// The steps around the model, from and to their JSON. Private.
#pragma once

#include "lmxlab/data/tokenizer/json_reader.h"
#include "lmxlab/data/tokenizer/parts.h"

#include <string>
#include <vector>

namespace lmxlab::data {

/// Each reads a part, or the parts of a Sequence (of Sequences).
std::vector<Normalizer> read_normalizers(const Json& j, const std::string& path);
std::vector<PreTokenizer> read_pre_tokenizers(const Json& j, const std::string& path);
std::vector<PostProcessor> read_post_processors(const Json& j, const std::string& path);
std::vector<Decoder> read_decoders(const Json& j, const std::string& path);
Truncation read_truncation(const Json& j, const std::string& path);
Padding read_padding(const Json& j, const std::string& path);

/// null: there are none.
Json write_normalizers(const std::vector<Normalizer>& steps);
Json write_pre_tokenizers(const std::vector<PreTokenizer>& steps);
Json write_post_processors(const std::vector<PostProcessor>& steps);
Json write_decoders(const std::vector<Decoder>& steps);
Json write_truncation(const Truncation& t);
Json write_padding(const Padding& p);

/// SentencePiece's own steps, which tokenizer.json has no words for. `write` gives null where there
/// is none, and the functions above write what comes nearest to it.
Json write_own_steps(const Parts& parts);
void read_own_steps(const Json& j, const std::string& path, Parts& parts);

}  // namespace lmxlab::data
