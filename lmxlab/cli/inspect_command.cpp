// data inspect: what a model would be fine-tuned on, token by token.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/chat_arguments.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/cli/recipe_rows.h"
#include "lmxlab/cli/token_text.h"
#include "lmxlab/data/packing.h"
#include "lmxlab/data/sample_tokens.h"
#include "lmxlab/inference/generation_config.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace lmxlab::cli {
namespace {

std::vector<size_t> lengths_of(const data::TokenSamples& samples) {
  std::vector<size_t> out;
  for (const auto& s : samples.sequences) out.push_back(s.ids.size());
  return out;
}

class DataInspect : public Command {
  std::string file_, kind_ = "auto", overlong_ = "drop", reformatted_ = "split";
  std::optional<std::string> model_, tokenizer_, template_;
  std::vector<std::string> variables_, set_;
  int context_ = 0, rows_ = 3;
  bool pack_ = false;

  void declare(Options& o) override {
    o.argument(
         "RECIPE or FILE", &file_,
         "a recipe (.toml) or the folder of a run: the rows that it trains on; or samples as JSON "
         "lines: text, prompt and completion (and label), messages, pairs of chosen and rejected, "
         "or prompts with an answer")
        .require();
    o.option("--rows", "N", &rows_, "rows of the recipe, or sequences of the file, that are shown")
        .range(0, 1 << 24);
    o.option("--set", "KEY=VALUE", &set_, "another value of the recipe's key");
    o.option("--model", "MODEL", &model_,
             "a model folder, a GGUF file or a hub name: its tokenizer and chat template");
    o.option("--tokenizer", "T", &tokenizer_,
             "instead: a tokenizer's file, or a folder that has one");
    o.option("--template", "FILE", &template_, "another chat template than theirs");
    o.option("--var", "NAME=JSON", &variables_,
             "a variable of the template, as in enable_thinking=false");
    o.option("--kind", "KIND", &kind_, "what the lines are, if their keys do not say it")
        .one_of({"auto", "text", "completion", "chat", "preference", "unpaired", "answer"});
    o.option("--context", "N", &context_, "tokens of a sequence and of a row, at most")
        .range(0, 1 << 24)
        .otherwise("any number");
    o.option("--overlong", "HOW", &overlong_,
             "what becomes of longer ones: they are left out; they lose their oldest turns (a text "
             "its end); or, with --pack, they are cut into several rows")
        .one_of({"drop", "shorten", "cut"});
    o.option("--reformatted", "HOW", &reformatted_,
             "what becomes of turns that the template writes otherwise once others follow: a "
             "sequence of their own, or an error")
        .one_of({"split", "refuse"});
    o.flag("--pack", &pack_, "many samples in a row of --context tokens");
  }

  data::TokenSamples tokenize(const data::SampleFile& file, data::Tokenizer& tokenizer,
                              Context& context) const {
    data::SampleOptions options;
    if (overlong_ != "cut") options.length = context_;
    if (overlong_ == "shorten") options.overlong = data::Overlong::shorten;
    if (reformatted_ == "refuse") options.reformatted = data::Reformatted::refuse;
    options.chat.variables = template_variables(variables_, "data");
    options.chat.now = wall_clock();
    options.stop = context.stop;
    const bool tools = std::any_of(file.samples.begin(), file.samples.end(),
                                   [](const data::Sample& s) { return !s.tools.is_null(); });
    fs::path place;
    if (model_) {
      place = find_model(*model_, context, io::HubPart::texts).path;
      if (place.empty() || data::tokenizer_file(place).empty())
        throw Error(Kind::not_found, "[data] " + *model_ +
                                         " has no tokenizer: expected a model with one. Name one "
                                         "with --tokenizer.");
      options.end_of_turn = eos_tokens(place);
    } else {
      place = local_path(*tokenizer_, io::HubPart::texts, context);
    }
    tokenizer = data::Tokenizer::load(place);
    std::erase_if(options.end_of_turn, [&](int id) { return id >= tokenizer.vocab_size(); });
    std::optional<data::ChatTemplate> chat;
    std::error_code ignored;
    const bool has_config = fs::is_directory(place, ignored) || model_;
    if (template_)
      chat = data::ChatTemplate::load(*template_, tools);
    else if (has_config && data::ChatTemplate::present(place))
      chat = data::ChatTemplate::load(place, tools);
    return data::SampleTokenizer(tokenizer, std::move(chat), options)(file);
  }

  // A recipe says everything itself.
  bool is_recipe() const {
    std::error_code ignored;
    const bool recipe = file_.ends_with(".toml") || fs::is_directory(file_, ignored);
    const bool other = model_ || tokenizer_ || template_ || !variables_.empty() ||
                       kind_ != "auto" || context_ != 0 || pack_ || overlong_ != "drop" ||
                       reformatted_ != "split";
    if (recipe && other)
      throw Error(Kind::usage, "[data] the recipe " + file_ +
                                   " says how its data are read: expected --rows and --set alone");
    if (!recipe && !set_.empty())
      throw Error(Kind::usage, "[data] --set changes a recipe, " + file_ + " is a file of samples");
    return recipe;
  }

  int run(Context& context) override {
    if (is_recipe()) {
      inspect_recipe(file_, set_, rows_, context);
      return 0;
    }
    if (model_.has_value() == tokenizer_.has_value())
      throw Error(Kind::usage, "[data] expected one of --model and --tokenizer, got " +
                                   std::string(model_ ? "both" : "none"));
    if ((pack_ || overlong_ != "drop") && context_ == 0)
      throw Error(Kind::usage, "[data] " + std::string(pack_ ? "--pack" : "--overlong") +
                                   " needs --context, the tokens of a row");
    if (overlong_ == "cut" && !pack_)
      throw Error(Kind::usage, "[data] --overlong cut needs --pack: only rows are cut");
    data::SampleReadOptions reading;
    if (kind_ != "auto") reading.kind = data::sample_kind(kind_);
    const auto file = data::read_samples(file_, reading);
    data::Tokenizer tokenizer = data::Tokenizer::bytes();
    const auto made = tokenize(file, tokenizer, context);
    std::optional<data::Packing> packing;
    if (pack_) packing = data::pack(made.sequences, context_, {.cut = overlong_ == "cut"});
    if (context.json)
      print_json(file, made, packing, context);
    else
      print_text(file, made, packing, tokenizer, context);
    return 0;
  }

  size_t shown_count(const data::TokenSamples& made) const {
    return std::min(static_cast<size_t>(rows_), made.sequences.size());
  }

  void print_json(const data::SampleFile& file, const data::TokenSamples& made,
                  const std::optional<data::Packing>& packing, const Context& context) const {
    const auto& c = made.counts;
    Json rows = Json::array();
    for (size_t i = 0; i < shown_count(made); ++i) {
      const auto& s = made.sequences[i];
      Json row = Json::object({{"line", Json(file.samples[s.sample].line)},
                               {"length", Json(s.ids.size())},
                               {"tokens", Json(Json::Array(s.ids.begin(), s.ids.end()))},
                               {"mask", Json(Json::Array(s.loss.begin(), s.loss.end()))}});
      if (made.kind == data::SampleKind::unpaired) row["label"] = Json(s.value > 0);
      rows.push_back(std::move(row));
    }
    Json out = Json::object({{"kind", Json(data::sample_kind_name(made.kind))},
                             {"samples", Json(c.samples)},
                             {"sequences", Json(c.sequences)},
                             {"tokens", Json(c.tokens)},
                             {"loss_tokens", Json(c.loss_tokens)},
                             {"split", Json(c.split)},
                             {"shortened", Json(c.shortened)},
                             {"dropped", Json(c.dropped)},
                             {"lengths", length_json(length_bins(lengths_of(made)))},
                             {"rows", rows}});
    if (packing)
      out["packing"] = Json::object({{"context", Json(packing->context)},
                                     {"rows", Json(packing->rows.size())},
                                     {"fill", Json(packing->fill())},
                                     {"cut", Json(packing->cut)}});
    context.print_json(out);
  }

  static std::string label(data::SampleKind kind, const data::TokenSample& s) {
    if (kind != data::SampleKind::unpaired) return "";
    return s.value > 0 ? ", desirable" : ", undesirable";
  }

  void print_text(const data::SampleFile& file, const data::TokenSamples& made,
                  const std::optional<data::Packing>& packing, const data::Tokenizer& tokenizer,
                  const Context& context) const {
    const bool colour = context.colour && isatty(STDOUT_FILENO) != 0;
    const auto styled = [&](const char* style, const std::string& text) {
      return colour ? "\x1b[" + std::string(style) + "m" + text + "\x1b[0m" : text;
    };
    for (size_t i = 0; i < shown_count(made); ++i) {
      const auto& s = made.sequences[i];
      context.print(styled("1", "line " + std::to_string(file.samples[s.sample].line) + ": " +
                                    with_commas(int64_t(s.ids.size())) + " tokens, " +
                                    with_commas(s.learned()) + " learned" + label(made.kind, s)) +
                    "\n" + token_text(tokenizer, s.ids, s.loss, colour) + "\n");
    }
    const auto& c = made.counts;
    const auto row = [&](const std::string& name, const std::string& value) {
      context.print(name + std::string(12 - name.size(), ' ') + value + "\n");
    };
    row("kind", std::string(data::sample_kind_name(made.kind)));
    row("samples", with_commas(c.samples));
    row("sequences", with_commas(c.sequences));
    row("tokens", with_commas(c.tokens));
    row("learned", with_commas(c.loss_tokens) + " (" +
                       percent(double(c.loss_tokens) / double(std::max<int64_t>(c.tokens, 1))) +
                       ")");
    if (c.split > 0) row("split", with_commas(c.split) + " samples, whose turns are reformatted");
    if (c.shortened > 0) row("shortened", with_commas(c.shortened));
    if (c.dropped > 0) row("dropped", with_commas(c.dropped) + ", too long");
    if (packing) {
      row("packed", with_commas(int64_t(packing->rows.size())) +
                        (packing->rows.size() == 1 ? " row of " : " rows of ") +
                        with_commas(packing->context) + ", " + percent(packing->fill()) + " full");
      if (packing->cut > 0) row("cut", with_commas(packing->cut) + " sequences");
    }
    context.print("\nlengths\n");
    context.print(length_chart(length_bins(lengths_of(made)), colour));
  }
};

}  // namespace

Command* make_data_inspect() {
  return new DataInspect;
}

}  // namespace lmxlab::cli
