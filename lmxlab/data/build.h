// Text and token files of other programs into one mapped file of tokens (corpus.h): in parallel, in
// constant memory, and with the same bytes whatever the number of threads.
#pragma once

#include "lmxlab/data/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace lmxlab::data {

struct BuildOptions {
  int threads = 0;                // 0: all that this process may use
  std::string text_key = "text";  // of a JSON line that is an object
  /// The id behind each document; none: none. Token files stay as they are.
  std::optional<int> end_of_document = {};
  std::stop_token stop = {};
};

struct BuildResult {
  int64_t documents = 0, tokens = 0, bytes = 0;  // bytes: of the file written
};

/// Each input by its name: `.jsonl` (a document a line: a string, or an object with the text),
/// `.bin` (of llm.c, by its magic number, else of nanoGPT: uint16 ids without a header), anything
/// else is text, one document a file. Large texts are cut where a cut changes no token.
/// Writes a safetensors file: `tokens` (uint16, or uint32 for more than 65,536 ids), `documents`
/// (int64 [n + 1], where each begins, and the end), the tokenizer's fingerprint in the metadata.
/// @param progress  called with (bytes read, all) from the calling thread
/// @throws Error(not_found), Error(bad_data) naming the file and the line, Error(mismatch) for an
///   id that the tokenizer does not have, Error(canceled), Error(resource). Nothing is left behind.
BuildResult build_token_file(const std::vector<std::filesystem::path>& inputs,
                             const std::filesystem::path& out, const Tokenizer& tokenizer,
                             const BuildOptions& options = {},
                             const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace lmxlab::data
