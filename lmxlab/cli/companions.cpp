#include "lmxlab/cli/companions.h"

#include "lmxlab/base/files.h"
#include "lmxlab/cli/chat_arguments.h"
#include "lmxlab/data/gguf_file.h"
#include "lmxlab/inference/generation_config.h"
#include "lmxlab/io/gguf.h"

namespace lmxlab::cli {
namespace {

void copy_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const auto name = entry.path().filename();
    const auto kind = name.extension();
    const bool own = name == "config.json" || name == "model.safetensors.index.json";
    const bool text = kind == ".json" || kind == ".jinja" || kind == ".txt" || kind == ".model";
    if (entry.is_regular_file() && text && !own)
      write_file_atomic(to / name, read_file(entry.path()));
  }
}

void write_files(const OpenModel& model, const fs::path& to) {
  if (model.tokenizer) model.tokenizer->save(to);
  if (const auto form = chat_template_of(model.place))
    write_file_atomic(to / "chat_template.jinja", form->source());
  Json ids = Json::array();
  for (const int id : eos_tokens(model.place.path)) ids.push_back(Json(id));
  if (ids.size() > 0)
    write_file_atomic(to / "generation_config.json",
                      Json::object({{"eos_token_id", ids}}).dump(2) + "\n");
}

}  // namespace

void expect_new_folder(const std::string& command, const fs::path& out) {
  std::error_code ignored;
  if (out.empty()) throw Error(Kind::usage, "[" + command + "] OUT: expected a folder, got \"\"");
  if (fs::exists(out, ignored) && !(fs::is_directory(out, ignored) && fs::is_empty(out, ignored)))
    throw Error(Kind::usage, "[" + command + "] " + out.string() +
                                 " exists and is no empty folder: expected the name of a new one, "
                                 "so that nothing is lost.");
}

void expect_new_file(const std::string& command, const fs::path& out) {
  std::error_code ignored;
  if (out.empty()) throw Error(Kind::usage, "[" + command + "] OUT: expected a file, got \"\"");
  if (fs::exists(out, ignored))
    throw Error(Kind::usage, "[" + command + "] " + out.string() +
                                 " exists: expected the name of a new file, so that nothing is "
                                 "lost.");
}

void write_companions(const OpenModel& model, const fs::path& out) {
  if (model.place.path.empty()) return;
  io::is_gguf(model.place.path) ? write_files(model, out) : copy_files(model.place.path, out);
}

void write_gguf_companions(const OpenModel& model, io::GgufWriter& file, const Context& context) {
  if (io::is_gguf(model.place.path)) {
    data::copy_gguf_tokenizer(file, io::Gguf(model.place.path));
    return;
  }
  if (!model.tokenizer) {
    context.warn(model.place.path.string() +
                 " has no tokenizer: llama.cpp will not open a file without one");
    return;
  }
  auto vocabulary = data::gguf_vocabulary_of(*model.tokenizer);
  // The table of embeddings has a row for each token and may have more.
  const auto rows = static_cast<size_t>(model.model.config().vocab);
  if (vocabulary.tokens.size() > rows)
    throw Error(Kind::mismatch, "[convert] the tokenizer has " +
                                    std::to_string(vocabulary.tokens.size()) +
                                    " tokens, the model " + std::to_string(rows) +
                                    ": expected no more than the model's");
  for (size_t i = vocabulary.tokens.size(); i < rows; ++i) {
    vocabulary.tokens.push_back("[PAD" + std::to_string(i) + "]");
    vocabulary.token_type.push_back(5);  // unused
    if (!vocabulary.scores.empty()) vocabulary.scores.push_back(vocabulary.scores.back());
  }
  const auto ends = eos_tokens(model.place.path);
  if (!ends.empty() && !vocabulary.eos_token_id) vocabulary.eos_token_id = ends[0];
  data::write_gguf_vocabulary(file, vocabulary);
  for (const int id : ends)
    if (id != vocabulary.eos_token_id)
      file.set("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(id));
  if (const auto form = chat_template_of(model.place))
    file.set("tokenizer.chat_template", form->source());
}

}  // namespace lmxlab::cli
