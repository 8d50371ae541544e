#include "lmxlab/training/run_data.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/fnv.h"
#include "lmxlab/data/corpus.h"
#include "lmxlab/training/distillation.h"

#include <mlx/ops.h>

#include <algorithm>

namespace lmxlab {
namespace {

constexpr uint64_t kBasis = 1469598103934665603;  // of the fingerprints in folders of runs

std::string fingerprint_of(const mx::array& tokens) {
  // The ends and the length, so that a file of any size is known in no time.
  const auto* bytes = tokens.data<char>();
  const size_t n = tokens.nbytes(), part = std::min<size_t>(n, 1 << 20);
  return std::to_string(tokens.size()) + "-" +
         Fnv(kBasis).add({bytes, part}).add({bytes + (n - part), part}).digits();
}
std::string fingerprint_of(const data::TokenSamples& samples) {
  Fnv hash;
  for (const auto& s : samples.sequences) {
    hash.add({reinterpret_cast<const char*>(s.ids.data()), s.ids.size() * sizeof(int)});
    hash.add({reinterpret_cast<const char*>(s.loss.data()), s.loss.size()});
  }
  return std::to_string(samples.sequences.size()) + "-" + hash.digits();
}

data::Tokenizer load_tokenizer(const std::string& path) {
  return with_context("data.tokenizer", [&] { return data::Tokenizer::load(path); });
}
bool named(const std::string& tokenizer) {
  return !tokenizer.empty() && tokenizer != "char" && tokenizer != "byte";
}
// Where the model's own files are: the recipe's tokenizer, or the trained model.
std::optional<std::string> own_files(const Recipe& recipe) {
  if (named(recipe.data.tokenizer)) return recipe.data.tokenizer;
  const auto trained = trained_weights(recipe.model);
  if (!recipe.data.tokenizer.empty() || !trained || data::tokenizer_file(*trained).empty())
    return std::nullopt;
  return trained;
}
bool are_samples(const std::string& file) {
  return fs::path(file).extension() == ".jsonl";
}

data::SampleFile read_file_of(const Recipe& recipe, const std::string& file) {
  data::SampleReadOptions reading;
  if (recipe.data.samples != "auto") reading.kind = data::sample_kind(recipe.data.samples);
  return data::read_samples(file, reading);
}

data::SampleTokenizer sample_tokenizer(const Recipe& recipe, const data::SampleFile& samples,
                                       const data::Tokenizer& tokenizer) {
  const bool tools = std::any_of(samples.samples.begin(), samples.samples.end(),
                                 [](const auto& s) { return !s.tools.is_null(); });
  std::optional<data::ChatTemplate> form;
  const auto own = own_files(recipe);
  if (own && data::ChatTemplate::present(*own)) form = data::ChatTemplate::load(*own, tools);
  const bool turns = recipe.objective.kind == ObjectiveKind::sft ||
                     recipe.objective.kind == ObjectiveKind::distill;
  return data::SampleTokenizer(
      tokenizer, std::move(form),
      {.length = recipe.run.context,
       .overlong = turns ? data::Overlong::shorten : data::Overlong::drop});
}

// Questions with answers, the last ones held out.
void read_questions(const Recipe& recipe, RunData& out) {
  const auto& c = recipe.data;
  out.questions = read_file_of(recipe, c.file);
  if (out.questions->kind != data::SampleKind::answer)
    throw Error(Kind::usage, "[data] " + c.file + " has samples of the kind " +
                                 std::string(data::sample_kind_name(out.questions->kind)) +
                                 ", objective grpo expects answer: {\"prompt\", \"answer\"}");
  out.tokenize = sample_tokenizer(recipe, *out.questions, *out.tokenizer);
  auto& all = out.questions->samples;
  if (!c.validation_file.empty()) {
    out.held_out_questions = read_file_of(recipe, c.validation_file);
  } else if (const auto n = static_cast<size_t>(c.validation * double(all.size())); n > 0) {
    out.held_out_questions = data::SampleFile{out.questions->name, out.questions->kind, {}};
    const auto from = all.end() - static_cast<std::ptrdiff_t>(n);
    out.held_out_questions->samples.assign(from, all.end());
    all.erase(from, all.end());
  }
  Fnv hash;
  for (const auto* some : {&out.questions, &out.held_out_questions})
    if (*some)
      for (const auto& q : (*some)->samples) hash.add(q.prompt.dump()).add(q.answer);
  out.fingerprint = std::to_string(all.size()) + "-" + hash.digits();
}

data::TokenSamples read(const Recipe& recipe, const std::string& file,
                        const data::Tokenizer& tokenizer) {
  const auto samples = read_file_of(recipe, file);
  const bool pairs = samples.kind == data::SampleKind::preference;
  if (samples.kind == data::SampleKind::answer)
    throw Error(Kind::usage, "[data] " + file +
                                 " has prompts with answers to check, which objective grpo alone "
                                 "learns from: expected text, completion, chat or preference "
                                 "samples");
  if (pairs != recipe.objective.of_pairs())
    throw Error(Kind::usage, "[data] " + file + " has samples of the kind " +
                                 std::string(data::sample_kind_name(samples.kind)) +
                                 ", objective " + enum_name(recipe.objective.kind) + " expects " +
                                 (pairs ? "text, completion or chat" : "preference"));
  const auto tokenize = sample_tokenizer(recipe, samples, tokenizer);
  return tokenize(samples);
}

int64_t tokens_of(const data::TokenSamples& samples) {
  int64_t n = 0;
  for (const auto& s : samples.sequences) n += static_cast<int64_t>(s.ids.size());
  return n;
}

// The last samples, whole; a sample's sequences stay together.
data::TokenSamples split_off(data::TokenSamples& samples, double share) {
  const auto count = static_cast<size_t>(samples.counts.samples);
  const auto first = count - static_cast<size_t>(share * static_cast<double>(count));
  data::TokenSamples held{samples.kind, {}, {}};
  auto& all = samples.sequences;
  const auto from =
      std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.sample >= first; });
  held.sequences.assign(std::make_move_iterator(from), std::make_move_iterator(all.end()));
  all.erase(from, all.end());
  return held;
}

data::HeldOut packed_held_out(const data::TokenSamples& samples, const Recipe& recipe,
                              bool together) {
  const auto packing = data::pack(samples.sequences, recipe.run.context, {.together = together});
  const auto rows = static_cast<int64_t>(packing.rows.size());
  if (rows == 0) return {};
  const auto batch = std::min<int64_t>(recipe.run.batch, rows);
  // The last batch has the rows that are left.
  const auto shared = std::make_shared<const std::vector<data::TokenSample>>(samples.sequences);
  const auto of = std::make_shared<const data::Packing>(packing);
  return {(rows + batch - 1) / batch, [=](int64_t i) {
            const int64_t first = i * batch, count = std::min(batch, rows - first);
            return data::packed_batch(*shared, *of, first, static_cast<int>(count));
          }};
}

}  // namespace

size_t RunData::bytes() const {
  size_t n = tokens.nbytes();
  for (const auto* some : {&samples, &held_out})
    if (*some)
      for (const auto& s : (*some)->sequences) n += s.ids.size() * sizeof(int) + s.loss.size();
  return n;
}

RunData load_data(const Recipe& recipe, const std::optional<fs::path>& saved) {
  const auto& c = recipe.data;
  RunData out;
  for (const auto& file : {c.file, c.validation_file})
    if (!file.empty() && !fs::exists(file))
      throw Error(Kind::not_found, "[data] there is no file " + file);
  const bool samples = are_samples(c.file);
  if (!samples && (recipe.objective.needs_samples() || !c.validation_file.empty()))
    throw Error(Kind::usage, "[data] " +
                                 std::string(c.validation_file.empty()
                                                 ? "objective " + enum_name(recipe.objective.kind)
                                                 : "data.validation_file") +
                                 " needs samples: expected data.file to be a .jsonl file, got " +
                                 (c.file.empty() ? "the built-in text" : c.file));
  if (samples && recipe.objective.kind == ObjectiveKind::pretrain)
    throw Error(Kind::usage, "[data] " + c.file +
                                 " has samples: set objective.kind = \"sft\", or make a file of "
                                 "tokens of it with `data build`");
  const auto own = own_files(recipe);
  if (!samples && !c.file.empty() && data::is_token_file(c.file)) {
    if (own) out.tokenizer = load_tokenizer(*own);
    out.tokens = data::token_file(c.file, out.tokenizer ? out.tokenizer->vocab_size() : 0);
    out.fingerprint = fingerprint_of(out.tokens);
    return out;
  }
  if (saved && !data::tokenizer_file(*saved).empty())
    out.tokenizer = data::Tokenizer::load(*saved);
  else if (c.tokenizer == "byte")
    out.tokenizer = data::Tokenizer::bytes();
  else if (own)
    out.tokenizer = load_tokenizer(*own);
  if (samples) {
    if (!out.tokenizer)
      throw Error(Kind::usage,
                  "[data] samples need a tokenizer: set data.tokenizer to byte, a folder or a "
                  "tokenizer.json, or model.preset to a trained model");
    if (recipe.objective.kind == ObjectiveKind::grpo) {
      read_questions(recipe, out);
      return out;
    }
    out.samples = read(recipe, c.file, *out.tokenizer);
    out.held_out = c.validation_file.empty() ? split_off(*out.samples, c.validation)
                                             : read(recipe, c.validation_file, *out.tokenizer);
    out.fingerprint = fingerprint_of(*out.samples) + "-" + fingerprint_of(*out.held_out);
    return out;
  }
  std::optional<MappedFile> file;
  if (!c.file.empty()) file.emplace(c.file);
  const auto text = file ? file->text() : data::tiny_shakespeare();
  const std::string source = c.file.empty() ? "the built-in text" : c.file;
  if (text.empty()) throw Error(Kind::bad_data, "[data] " + source + " is empty: expected text");
  with_context(source, [&] {
    if (!out.tokenizer) out.tokenizer = data::Tokenizer::characters(text);
    out.tokens = out.tokenizer->encode(text);
  });
  out.fingerprint = fingerprint_of(out.tokens);
  return out;
}

RunBatches run_batches(RunData& data, const Recipe& recipe, bool packs) {
  RunBatches out;
  const auto& run = recipe.run;
  if (data.questions) return out;  // batches are made on the way
  if (!data.samples) {
    const auto split = data::split_tokens(data.tokens, recipe.data.validation);
    out.train_tokens = static_cast<int64_t>(split.train.size());
    out.held_out_tokens = static_cast<int64_t>(split.validation.size());
    out.data = token_data(split.train, split.validation, run);
    return out;
  }
  out.train_tokens = tokens_of(*data.samples), out.held_out_tokens = tokens_of(*data.held_out);
  if (recipe.objective.of_pairs()) {
    out.pairs = pairs_of(std::move(*data.samples));
    out.held_out_pairs = pairs_of(std::move(*data.held_out));
    return out;
  }
  const bool together = packs && recipe.data.packing;
  auto packing = data::pack(data.samples->sequences, run.context, {.together = together});
  out.fill = packing.fill();
  out.data.held_out = packed_held_out(*data.held_out, recipe, together);
  out.data.train = data::endless(
      data::PackedBatches(std::move(data.samples->sequences), std::move(packing), run.batch,
                          {.shuffle = true, .seed = run.seed, .epochs = 0}));
  return out;
}

TrainData pair_data(RunBatches batches, const Recipe& recipe) {
  const auto& run = recipe.run;
  const bool reference = recipe.objective.kind == ObjectiveKind::dpo;
  TrainData out{pair_source(std::move(*batches.pairs), run.batch, run.context, reference, run.seed),
                {}};
  if (!batches.held_out_pairs->empty())
    out.held_out =
        pair_held_out(std::move(*batches.held_out_pairs), run.batch, run.context, reference);
  return out;
}

data::Batch batch_like(const Recipe& recipe, const RunConfig& run, bool packs, mx::Dtype token) {
  const bool samples = are_samples(recipe.data.file), pairs = recipe.objective.of_pairs();
  const int rows = pairs ? 2 * run.batch : run.batch;
  const auto zeros = [&](mx::Dtype type) {
    auto a = mx::zeros({rows, run.context}, type);
    a.eval();
    return a;
  };
  if (!samples) {
    auto block = mx::zeros({rows, run.context + 1}, token);
    block.eval();
    return {mx::slice(block, {0, 0}, {rows, run.context}),
            mx::slice(block, {0, 1}, {rows, run.context + 1})};
  }
  data::Batch out{zeros(mx::int32), zeros(mx::int32), zeros(mx::bool_)};
  if (!pairs && packs && recipe.data.packing)
    out.documents = zeros(mx::int32), out.positions = zeros(mx::int32);
  if (recipe.objective.kind == ObjectiveKind::dpo) {
    out.beside.push_back(mx::zeros({rows}, mx::float32));
    out.beside[0].eval();
  }
  return out;
}

std::shared_ptr<const Objective> make_objective(const ObjectiveConfig& config,
                                                const config::Model& model) {
  if (config.of_pairs()) return preference_objective(config);
  if (config.kind == ObjectiveKind::grpo) return nullptr;  // RunMethod has it
  if (config.kind == ObjectiveKind::distill) {
    auto teacher = std::make_shared<LanguageModel>(LanguageModel::load(config.teacher));
    if (teacher->config().vocab != model.vocab)
      throw Error(Kind::mismatch,
                  "[objective] the teacher " + config.teacher + " has a vocabulary of " +
                      std::to_string(teacher->config().vocab) + ", the student one of " +
                      std::to_string(model.vocab) + ": expected the same tokens");
    return distill_objective(std::move(teacher), config);
  }
  return next_token({.label_smoothing = static_cast<float>(config.label_smoothing.value_or(0)),
                     .z_loss = static_cast<float>(config.z_loss.value_or(0))});
}

}  // namespace lmxlab
