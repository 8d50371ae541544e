#include "lmxlab/training/run_data.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/fnv.h"
#include "lmxlab/data/corpus.h"
#include "lmxlab/data/curriculum.h"
#include "lmxlab/training/distillation.h"
#include "lmxlab/training/multi_token.h"
#include "lmxlab/training/pair_objectives.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

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
    if (s.value != 0) hash.add({reinterpret_cast<const char*>(&s.value), sizeof s.value});
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

data::SampleFile read_file_of(const Recipe& recipe, const std::string& file) {
  data::SampleReadOptions reading;
  if (recipe.data.samples != "auto") reading.kind = data::sample_kind(recipe.data.samples);
  return data::read_samples(file, reading);
}

// The one that lies beside the recipe's tokenizer, whose own file is none.
std::optional<data::ChatTemplate> own_template(const Recipe& recipe, bool tools = false) {
  const auto own = own_files(recipe);
  std::error_code ignored;
  const bool model = own && (fs::is_directory(*own, ignored) || own->ends_with(".gguf"));
  if (!model || !data::ChatTemplate::present(*own)) return std::nullopt;
  return data::ChatTemplate::load(*own, tools);
}

data::SampleTokenizer sample_tokenizer(const Recipe& recipe, const data::SampleFile& samples,
                                       const data::Tokenizer& tokenizer) {
  const bool tools = std::any_of(samples.samples.begin(), samples.samples.end(),
                                 [](const auto& s) { return !s.tools.is_null(); });
  auto form = own_template(recipe, tools);
  const bool turns = recipe.objective.kind == ObjectiveKind::sft ||
                     recipe.objective.kind == ObjectiveKind::mtp ||
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
  const auto kind = recipe.objective.kind;
  using Samples = data::SampleKind;
  const bool fits = recipe.objective.of_pairs() ? samples.kind == Samples::preference
                    : kind == ObjectiveKind::kto
                        ? samples.kind == Samples::unpaired
                        : samples.kind != Samples::preference && samples.kind != Samples::unpaired;
  if (samples.kind == data::SampleKind::answer)
    throw Error(Kind::usage, "[data] " + file +
                                 " has prompts with answers to check, which objective grpo alone "
                                 "learns from: expected text, completion, chat or preference "
                                 "samples");
  if (!fits)
    throw Error(Kind::usage, "[data] " + file + " has samples of the kind " +
                                 std::string(data::sample_kind_name(samples.kind)) +
                                 ", objective " + enum_name(kind) + " expects " +
                                 (recipe.objective.of_pairs()  ? "preference"
                                  : kind == ObjectiveKind::kto ? "unpaired"
                                                               : "text, completion or chat") +
                                 (samples.kind == Samples::unpaired
                                      ? ". With data.samples = \"completion\" labels are not read"
                                      : ""));
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

// Mean of -log p of a sample's tokens, as data::rarity has it of rows.
std::vector<double> sample_rarity(const std::vector<data::TokenSample>& samples) {
  std::unordered_map<int, double> counts;
  double all = 0;
  for (const auto& s : samples)
    for (const int id : s.ids) counts[id] += 1, all += 1;
  std::vector<double> out;
  for (const auto& s : samples) {
    double sum = 0;
    for (const int id : s.ids) sum -= std::log(counts[id] / all);
    out.push_back(s.ids.empty() ? 0 : sum / static_cast<double>(s.ids.size()));
  }
  return out;
}

std::vector<double> difficulty_of(const std::vector<data::TokenSample>& samples, CurriculumBy by) {
  if (by == CurriculumBy::rarity) return sample_rarity(samples);
  std::vector<double> out;
  for (const auto& s : samples) {
    if (by == CurriculumBy::difficulty && !s.difficulty)
      throw Error(Kind::bad_data, "[curriculum] sample " + std::to_string(s.sample + 1) +
                                      " has no difficulty: expected \"difficulty\", a number, "
                                      "beside its other keys, or curriculum.by = \"length\"");
    out.push_back(by == CurriculumBy::length ? static_cast<double>(s.ids.size()) : *s.difficulty);
  }
  return out;
}

// Rows of samples of like difficulty: from the easiest on, parts that are packed each alone.
void pack_by_difficulty(std::vector<data::TokenSample> samples, const Recipe& recipe, bool together,
                        RunBatches& out) {
  const auto& c = *recipe.curriculum;
  const auto difficulty = difficulty_of(samples, c.by);
  std::vector<size_t> order(samples.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return difficulty[a] < difficulty[b]; });
  const auto parts = std::min(static_cast<size_t>(c.stages.value_or(10)), samples.size());
  data::Packing all{recipe.run.context};
  all.together = together;
  for (size_t part = 0; part < parts; ++part) {
    const size_t first = part * order.size() / parts, end = (part + 1) * order.size() / parts;
    std::vector<size_t> lengths;
    for (size_t i = first; i < end; ++i) lengths.push_back(samples[order[i]].ids.size());
    auto packing = data::pack(lengths, recipe.run.context, {.together = together});
    for (auto& row : packing.rows) {
      double sum = 0;
      for (auto& piece : row) {
        piece.sample = order[first + piece.sample];
        sum += difficulty[piece.sample];
      }
      out.difficulty.push_back(sum / static_cast<double>(row.size()));
      all.rows.push_back(std::move(row));
    }
    all.tokens += packing.tokens, all.dropped += packing.dropped;
  }
  out.fill = all.fill();
  out.rows = data::packed_rows(std::move(samples), std::move(all));
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
  const bool samples = c.of_samples();
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
    out.chat_template = own_template(recipe);
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
    const bool grows = recipe.curriculum && recipe.curriculum->by == CurriculumBy::context;
    const bool kept = recipe.objective.keeps_teacher();
    out.data = token_data(split.train, split.validation, run);  // checks too
    if (grows) {
      const auto& c = *recipe.curriculum;
      out.data.train = data::growing_windows(
          split.train, run.batch, run.context, run.seed,
          {.from = *c.from, .stages = c.stages.value_or(4), .batches = c.batches(run)});
    } else if (kept || recipe.curriculum) {
      out.rows = data::window_rows(split.train, run.context);
      if (recipe.curriculum) out.difficulty = data::rarity(*out.rows);
    }
    if (kept && split.validation.size() > 1)
      out.held_out_rows = data::window_rows(
          split.validation,
          static_cast<int>(std::min<size_t>(size_t(run.context), split.validation.size() - 1)));
    return out;
  }
  out.train_tokens = tokens_of(*data.samples), out.held_out_tokens = tokens_of(*data.held_out);
  if (recipe.objective.by_two()) {
    out.pairs = pairs_of(std::move(*data.samples), run.seed);
    out.held_out_pairs = pairs_of(std::move(*data.held_out), run.seed);
    return out;
  }
  const bool together = packs && recipe.data.packing;
  const auto rows_of = [&](std::vector<data::TokenSample> samples) {
    auto packing = data::pack(samples, run.context, {.together = together});
    out.fill = packing.fill();
    return data::packed_rows(std::move(samples), std::move(packing));
  };
  out.held_out_rows = rows_of(std::move(data.held_out->sequences));
  if (recipe.curriculum)
    pack_by_difficulty(std::move(data.samples->sequences), recipe, together, out);
  else
    out.rows = rows_of(std::move(data.samples->sequences));
  return out;
}

TrainData train_data(RunBatches batches, const Recipe& recipe) {
  const auto& run = recipe.run;
  if (batches.pairs) {
    const auto layout = pair_layout(recipe.objective.kind);
    batches.rows = pair_rows(std::move(*batches.pairs), run.context, layout);
    batches.held_out_rows = pair_rows(std::move(*batches.held_out_pairs), run.context, layout);
  }
  TrainData out = std::move(batches.data);
  if (batches.held_out_rows) out.held_out = data::in_order(*batches.held_out_rows, run.batch);
  if (!batches.rows) return out;
  if (recipe.curriculum) {
    const auto& c = *recipe.curriculum;
    out.train = data::easiest_first(
        std::move(*batches.rows), batches.difficulty, run.batch, run.seed,
        {.start = c.start.value_or(0.1), .power = c.power.value_or(2), .batches = c.batches(run)});
  } else {
    out.train = data::endless(data::RowBatches(std::move(*batches.rows), run.batch,
                                               {.shuffle = true, .seed = run.seed, .epochs = 0}));
  }
  return out;
}

data::Batch batch_like(const Recipe& recipe, const RunConfig& run, bool packs, mx::Dtype token,
                       const std::optional<KeptTeacher>& teacher) {
  if (recipe.objective.by_two())
    return pair_batch_like(run.batch, run.context, pair_layout(recipe.objective.kind));
  const bool samples = recipe.data.of_samples();
  const int rows = run.batch;
  const auto zeros = [&](mx::Dtype type) {
    auto a = mx::zeros({rows, run.context}, type);
    a.eval();
    return a;
  };
  const auto put_teacher = [&](data::Batch& batch) {
    if (!teacher) return;
    batch.beside.push_back(mx::zeros({rows, run.context, 2, teacher->top_k}, teacher->type));
    batch.beside[0].eval();
  };
  if (!samples) {
    auto block = mx::zeros({rows, run.context + 1}, token);
    block.eval();
    data::Batch out{mx::slice(block, {0, 0}, {rows, run.context}),
                    mx::slice(block, {0, 1}, {rows, run.context + 1})};
    put_teacher(out);
    return out;
  }
  data::Batch out{zeros(mx::int32), zeros(mx::int32), zeros(mx::bool_)};
  if (packs && recipe.data.packing)
    out.documents = zeros(mx::int32), out.positions = zeros(mx::int32);
  put_teacher(out);
  return out;
}

void check_teacher(const config::Model& teacher, const ObjectiveConfig& config, int vocab) {
  if (teacher.vocab != vocab)
    throw Error(Kind::mismatch, "[objective] the teacher " + config.teacher +
                                    " has a vocabulary of " + std::to_string(teacher.vocab) +
                                    ", the student one of " + std::to_string(vocab) +
                                    ": expected the same tokens");
}

std::shared_ptr<const Objective> make_objective(const ObjectiveConfig& config,
                                                const config::Model& model) {
  if (config.by_two()) return pair_objective(config);
  if (config.kind == ObjectiveKind::grpo) return nullptr;  // RunMethod has it
  if (config.keeps_teacher()) return kept_teacher_objective(config);
  if (config.kind == ObjectiveKind::mtp)
    return mtp_objective(static_cast<int>(model.mtp_heads.size()),
                         static_cast<float>(config.weight.value_or(0.3)));
  if (config.kind == ObjectiveKind::distill) {
    auto teacher = std::make_shared<LanguageModel>(LanguageModel::load(config.teacher));
    expect_tokens(teacher->config(), "objective");
    check_teacher(teacher->config(), config, model.vocab);
    return distill_objective(std::move(teacher), config);
  }
  return next_token({.label_smoothing = static_cast<float>(config.label_smoothing.value_or(0)),
                     .z_loss = static_cast<float>(config.z_loss.value_or(0))});
}

}  // namespace lmxlab
