// A model as a GGUF file, which llama.cpp and its kin open. The names and keys are llama.cpp's.
#pragma once

#include "lmxlab/io/gguf_writer.h"
#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace lmxlab {

struct GgufSaveOptions {
  std::string type = "q4_k_m";  ///< one of gguf_types()
  std::string name = {};        ///< general.name
  /// Sets what the file says besides the model: its tokenizer and chat template.
  std::function<void(io::GgufWriter&)> more = {};
  /// Called with (done, all) before each tensor. What it throws leaves as it was thrown.
  std::function<void(int, int)> progress = {};
};
struct GgufSaved {
  int tensors = 0;
  int64_t bytes = 0;                  // of their data
  std::vector<std::string> warnings;  // what llama.cpp's architecture cannot say
};

/// f32, f16, bf16, q8_0, q6_k, ...: of the matrices. Norms and biases are float32.
std::vector<std::string> gguf_types();

/// Weights that lie in blocks of the wanted type already stay bit for bit; others are packed anew,
/// one tensor at a time. The file is read back before the answer: it describes this model.
/// @throws Error(usage) for another type, Error(unsupported) for a model that no architecture of
///   llama.cpp expresses, naming what is in the way; no file stays then.
/// @cost  the largest tensor as float32, and packed
GgufSaved save_gguf(LanguageModel& model, const std::filesystem::path& path,
                    const GgufSaveOptions& options = {});

}  // namespace lmxlab
