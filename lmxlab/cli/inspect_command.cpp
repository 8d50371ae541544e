// data inspect: what a model would be fine-tuned on, token by token.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/chat_arguments.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/data/packing.h"
#include "lmxlab/data/sample_tokens.h"
#include "lmxlab/inference/generation_config.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace lmxlab::cli {
namespace {

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f%%", 100 * share);
  return text;
}

struct Bin {
  size_t from = 0, to = 0, count = 0;  // lengths in [from, to)
};

// At most a dozen bins, 1, 2 or 5 times a power of ten wide.
std::vector<Bin> histogram(const std::vector<data::TokenSample>& sequences) {
  constexpr size_t kMostBins = 12;
  size_t least = SIZE_MAX, most = 0;
  for (const auto& s : sequences)
    least = std::min(least, s.ids.size()), most = std::max(most, s.ids.size());
  size_t width = 1;
  const auto bins = [&] { return most / width - least / width + 1; };
  for (size_t power = 1; bins() > kMostBins; power *= 10)
    for (const size_t step : {1, 2, 5})
      if (bins() > kMostBins) width = step * power;
  std::vector<Bin> out(bins());
  for (size_t i = 0; i < out.size(); ++i)
    out[i].from = (least / width + i) * width, out[i].to = out[i].from + width;
  for (const auto& s : sequences) ++out[s.ids.size() / width - least / width].count;
  return out;
}

// Text for a terminal: nothing in it moves the cursor or changes its colours.
std::string visible(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n\n";
    } else if ((code < 0x20 && c != '\t') || code == 0x7F) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02X", code);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out;
}

class DataInspect : public Command {
  std::string file_, kind_ = "auto", overlong_ = "drop", reformatted_ = "split";
  std::optional<std::string> model_, tokenizer_, template_;
  std::vector<std::string> variables_;
  int context_ = 0, limit_ = 3;
  bool pack_ = false;

  void declare(Options& o) override {
    o.argument(
         "FILE", &file_,
         "JSON lines: text, prompt and completion, messages, pairs of chosen and rejected, or "
         "prompts with an answer")
        .require();
    o.option("--model", "MODEL", &model_,
             "a model folder, a GGUF file or a hub name: its tokenizer and chat template");
    o.option("--tokenizer", "T", &tokenizer_,
             "instead: a tokenizer's file, or a folder that has one");
    o.option("--template", "FILE", &template_, "another chat template than theirs");
    o.option("--var", "NAME=JSON", &variables_,
             "a variable of the template, as in enable_thinking=false");
    o.option("--kind", "KIND", &kind_, "what the lines are, if their keys do not say it")
        .one_of({"auto", "text", "completion", "chat", "preference", "answer"});
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
    o.option("--limit", "N", &limit_, "sequences that are shown").range(0, 1 << 24);
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

  static std::string shown(const data::Tokenizer& tokenizer, const data::TokenSample& s,
                           bool colour) {
    std::string out;
    data::StreamDecoder decoder(tokenizer);
    bool inside = false;  // a learned stretch, where there are no colours
    std::string_view now;
    for (size_t i = 0; i < s.ids.size(); ++i) {
      const bool learned = s.loss[i] != 0;
      if (colour) {  // learned tokens in two colours by turns, to tell them apart
        const std::string_view style = !learned ? "2" : now == "32" ? "36" : "32";
        if (style != now) out += "\x1b[0;" + std::string(now = style) + "m";
      } else if (inside != learned) {
        out += learned ? "[[" : "]]";
        inside = learned;
      }
      out += visible(decoder.push(s.ids[i]));
      if (i + 1 == s.ids.size()) out += visible(decoder.finish());
    }
    return out + (colour ? "\x1b[0m" : inside ? "]]" : "") + "\n";
  }

  int run(Context& context) override {
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
    return std::min(static_cast<size_t>(limit_), made.sequences.size());
  }

  void print_json(const data::SampleFile& file, const data::TokenSamples& made,
                  const std::optional<data::Packing>& packing, const Context& context) const {
    const auto& c = made.counts;
    Json rows = Json::array(), lengths = Json::array();
    for (size_t i = 0; i < shown_count(made); ++i) {
      const auto& s = made.sequences[i];
      rows.push_back(Json::object({{"line", Json(file.samples[s.sample].line)},
                                   {"length", Json(s.ids.size())},
                                   {"tokens", Json(Json::Array(s.ids.begin(), s.ids.end()))},
                                   {"mask", Json(Json::Array(s.loss.begin(), s.loss.end()))}}));
    }
    for (const auto& bin : histogram(made.sequences))
      lengths.push_back(Json::object(
          {{"from", Json(bin.from)}, {"to", Json(bin.to)}, {"count", Json(bin.count)}}));
    Json out = Json::object({{"kind", Json(data::sample_kind_name(made.kind))},
                             {"samples", Json(c.samples)},
                             {"sequences", Json(c.sequences)},
                             {"tokens", Json(c.tokens)},
                             {"loss_tokens", Json(c.loss_tokens)},
                             {"split", Json(c.split)},
                             {"shortened", Json(c.shortened)},
                             {"dropped", Json(c.dropped)},
                             {"lengths", lengths},
                             {"rows", rows}});
    if (packing)
      out["packing"] = Json::object({{"context", Json(packing->context)},
                                     {"rows", Json(packing->rows.size())},
                                     {"fill", Json(packing->fill())},
                                     {"cut", Json(packing->cut)}});
    context.print_json(out);
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
                                    with_commas(s.learned()) + " learned") +
                    "\n" + shown(tokenizer, s, colour) + "\n");
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
    const auto bins = histogram(made.sequences);
    size_t most = 1, digits = 1;
    for (const auto& bin : bins) {
      most = std::max(most, bin.count);
      digits = std::max(digits, std::to_string(bin.to - 1).size());
    }
    const auto right = [&](size_t n) {
      const auto text = std::to_string(n);
      return std::string(digits - text.size(), ' ') + text;
    };
    for (const auto& bin : bins) {
      const std::string bar((40 * bin.count + most - 1) / most, '#');
      const std::string range =
          bin.to - bin.from == 1 ? right(bin.from) : right(bin.from) + " - " + right(bin.to - 1);
      context.print(range + "  " + styled("32", bar) + (bar.empty() ? "" : " ") +
                    std::to_string(bin.count) + "\n");
    }
  }
};

}  // namespace

Command* make_data_inspect() {
  return new DataInspect;
}

}  // namespace lmxlab::cli
