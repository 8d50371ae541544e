#include "lmxlab/data/sample_tokens.h"

#include "lmxlab/data/token_spans.h"

#include <algorithm>
#include <numeric>

namespace lmxlab::data {
namespace {

bool is_role(const Json& message, std::string_view role) {
  return message.at("role").as_string() == role;
}
Json first_messages(const Json& list, size_t count) {
  const auto& all = list.as_array();
  return Json(Json::Array(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count)));
}
size_t common_prefix(std::string_view a, std::string_view b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                             a.begin());
}
constexpr std::string_view kSpace = " \t\r\n";

// Whether a sample is judged as a whole, so that it is neither split nor shortened.
bool judged(SampleKind kind) {
  return kind == SampleKind::preference || kind == SampleKind::unpaired;
}

// A piece of text for a message, on one line.
std::string quoted(std::string_view text) {
  constexpr size_t kMost = 40;
  size_t end = std::min(text.size(), kMost);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  return Json(text.substr(0, end)).dump() + (end < text.size() ? "..." : "");
}

}  // namespace

int64_t TokenSample::learned() const {
  return std::accumulate(loss.begin(), loss.end(), int64_t{0});
}

// A turn of the assistant as it is when the model writes it.
struct SampleTokenizer::Turn {
  size_t message;      // its place among the messages
  std::string before;  // all before it, and what opens it
  std::string after;   // with it as the last one
  size_t end = 0;      // of what the model writes, in `after`
};
struct SampleTokenizer::Marked {
  std::string text;
  std::vector<ByteSpan> spans;
  std::vector<size_t> turns;  // messages whose turns are marked
  size_t last = 0;            // the last one's place
};

// The renderings of one conversation.
class SampleTokenizer::Chat {
 public:
  /// @param first  the turns before this message are not learned
  Chat(const SampleTokenizer& owner, Json messages, size_t first, ChatOptions options)
      : owner_(owner), options_(std::move(options)), messages_(std::move(messages)), first_(first) {
    const auto& all = messages_.as_array();
    for (size_t i = first; i < all.size(); ++i)
      if (is_role(all[i], "assistant")) turns_.push_back(i);
  }

  const std::vector<size_t>& turns() const { return turns_; }

  /// One text that ends with the last of `wanted`, and as many of them as it has as they were
  /// written.
  Marked text(const std::vector<size_t>& wanted) {
    Marked out{{}, {}, {}, wanted.back()};
    auto whole = owner_.template_->render_marked(first_messages(messages_, out.last + 1), options_);
    out.text = std::move(whole.text);
    if (whole.generated) {
      const size_t from = first_ == 0 ? 0 : common_prefix(prompt_text(), out.text);
      for (const auto& span : *whole.generated)
        if (span.first >= from) out.spans.push_back(span);
      out.turns = wanted;
      return out;
    }
    for (const size_t i : wanted) {
      const Turn& t = turn(i);
      const auto written = std::string_view(t.after).substr(0, t.end);
      if (!out.text.starts_with(written)) continue;
      out.spans.emplace_back(t.before.size(), t.end + next_end(out.text, t));
      out.turns.push_back(i);
    }
    return out;
  }

  /// The same conversation without its oldest turns: behind the messages in front of the first
  /// user's, from the message `from` on.
  Chat without(size_t front, size_t from) const {
    Json::Array kept(messages_.as_array());
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(front),
               kept.begin() + static_cast<std::ptrdiff_t>(from));
    const size_t gone = from - front;
    return Chat(owner_, Json(std::move(kept)), first_ > gone ? first_ - gone : 0, options_);
  }
  /// Where a conversation could begin: its user's messages but the first, and the first itself.
  std::vector<size_t> beginnings() const {
    std::vector<size_t> out;
    for (size_t i = 0; i < messages_.size(); ++i)
      if (is_role(messages_.as_array()[i], "user")) out.push_back(i);
    return out;
  }

  std::string prompt_text() {
    if (!prompt_text_) prompt_text_ = render(first_, false);
    return *prompt_text_;
  }

 private:
  std::string render(size_t count, bool open) const {
    ChatOptions options = options_;
    options.add_generation_prompt = open;
    return owner_.template_->render(first_messages(messages_, count), options);
  }
  const Turn& turn(size_t i) {
    for (const Turn& t : known_)
      if (t.message == i) return t;
    const auto name = "message " + std::to_string(i + 1) + " (assistant)";
    Turn t = with_context(name, [&] { return Turn{i, render(i, true), render(i + 1, false)}; });
    if (!t.after.starts_with(t.before)) {
      const size_t same = common_prefix(t.before, t.after);
      throw Error(Kind::mismatch,
                  "[samples] " + name +
                      ": the template does not write the turn behind the text that opens it: "
                      "expected " +
                      quoted(std::string_view(t.before).substr(same)) + " there, got " +
                      quoted(std::string_view(t.after).substr(same)) +
                      ". Use a template with {% generation %} blocks; if it is about reasoning, "
                      "give that as \"reasoning_content\", or set enable_thinking=false.");
    }
    t.end = t.before.size() + owner_.end_of_turn(std::string_view(t.after).substr(t.before.size()));
    known_.push_back(std::move(t));
    return known_.back();
  }
  // Where the token that opens the next turn ends this one: its length, if it follows.
  size_t next_end(std::string_view text, const Turn& t) const {
    const auto written = text.substr(t.before.size(), t.end - t.before.size());
    for (const bool behind : {false, true})
      for (const int id : owner_.options_.end_of_turn) {
        const auto token = owner_.tokenizer_.token(id);
        if (token.empty()) continue;
        if (!behind && written.ends_with(token)) return 0;
        if (behind && text.substr(t.end).starts_with(token)) return token.size();
      }
    return 0;
  }

  const SampleTokenizer& owner_;
  ChatOptions options_;
  Json messages_;
  size_t first_;
  std::vector<size_t> turns_;
  std::vector<Turn> known_;
  std::optional<std::string> prompt_text_;
};

SampleTokenizer::SampleTokenizer(Tokenizer tokenizer, std::optional<ChatTemplate> chat_template,
                                 SampleOptions options)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      options_(std::move(options)) {
  for (const int id : options_.end_of_turn)
    if (id < 0 || id >= tokenizer_.vocab_size())
      throw Error(Kind::mismatch, "[samples] end of turn: expected ids below " +
                                      std::to_string(tokenizer_.vocab_size()) + ", got " +
                                      std::to_string(id));
}

bool SampleTokenizer::ends_turn(int id) const {
  const auto& ends = options_.end_of_turn;
  return std::find(ends.begin(), ends.end(), id) != ends.end();
}

// How much of a turn the model writes: up to the special token that ends it. Behind it stand only
// spaces and other special tokens.
size_t SampleTokenizer::end_of_turn(std::string_view tail) const {
  struct Found {
    int id;
    size_t begin, end;
  };
  std::vector<Found> found;  // the last one first
  const auto ids = tokenizer_.encode_ids(tail);
  size_t at = tail.size();
  for (size_t i = ids.size(); i-- > 0;) {
    if (!tokenizer_.is_special(ids[i]) && !ends_turn(ids[i])) {
      const auto text = tokenizer_.decode(std::vector<int>{ids[i]});
      if (text.find_first_not_of(kSpace) != text.npos) break;
      continue;
    }
    const auto token = tokenizer_.token(ids[i]);
    const size_t last = tail.substr(0, at).find_last_not_of(kSpace);
    if (last == tail.npos || !tail.substr(0, last + 1).ends_with(token)) break;
    found.push_back({ids[i], last + 1 - token.size(), last + 1});
    at = found.back().begin;
  }
  if (found.empty()) return tail.size();
  std::reverse(found.begin(), found.end());
  for (const auto& f : found)
    if (ends_turn(f.id)) return f.end;
  size_t end = found[0].end;
  for (size_t i = 1; i < found.size() && found[i].begin == end; ++i) end = found[i].end;
  return end;
}

ChatOptions SampleTokenizer::chat_options(const Sample& sample) const {
  if (!template_)
    throw Error(Kind::not_found,
                "[samples] the sample has messages, and there is no chat template: expected one "
                "in the model's folder. Give a template's file.");
  ChatOptions options = options_.chat;
  options.tools = sample.tools;
  options.add_generation_prompt = false;
  if (sample.variables.is_object())
    for (const auto& [name, value] : sample.variables.as_object()) options.variables[name] = value;
  return options;
}

bool SampleTokenizer::fits(const TokenSample& s) const {
  return options_.length == 0 || static_cast<int64_t>(s.ids.size()) <= options_.length;
}

TokenSample SampleTokenizer::marked(const Marked& text) const {
  TokenSample out;
  out.ids = tokenizer_.encode_ids(text.text);
  out.loss = tokens_in(tokenizer_, text.text, out.ids, text.spans);
  return out;
}

std::vector<TokenSample> SampleTokenizer::chat(const Sample& sample, const Json& prompt,
                                               const Json& response, SampleCounts& counts) const {
  Json messages = prompt.is_array() ? prompt : Json::array();
  const size_t first = messages.size();
  for (const Json& m : response.as_array()) messages.push_back(m);
  Chat conversation(*this, messages, first, chat_options(sample));
  std::vector<TokenSample> out;
  auto left = conversation.turns();
  bool split = false;
  while (!left.empty()) {
    Marked text = conversation.text(left);
    std::vector<size_t> others;
    std::set_difference(left.begin(), left.end(), text.turns.begin(), text.turns.end(),
                        std::back_inserter(others));
    if (!others.empty()) {
      const bool whole = judged(sample.kind);
      if (whole || options_.reformatted == Reformatted::refuse)
        throw Error(Kind::mismatch,
                    "[samples] message " + std::to_string(others.back() + 1) +
                        " (assistant): the template writes it otherwise once message " +
                        std::to_string(text.last + 1) + " follows" +
                        (whole ? ", which what is judged as a whole cannot have. End the "
                                 "conversation with its first answer."
                               : ". Allow the sample to be split, or use a template that keeps "
                                 "earlier turns as they are."));
      split = true;
    }
    TokenSample tokens = marked(text);
    if (!fits(tokens) && options_.overlong == Overlong::shorten && !judged(sample.kind)) {
      const auto begin = conversation.beginnings();
      for (size_t i = 1; i < begin.size() && begin[i] <= text.last && !fits(tokens); ++i) {
        Chat shorter = conversation.without(begin[0], begin[i]);
        std::vector<size_t> kept;
        for (const size_t t : text.turns)
          if (t > begin[i]) kept.push_back(t - (begin[i] - begin[0]));
        if (!kept.empty()) tokens = marked(shorter.text(kept));
      }
      counts.shortened += fits(tokens);
    }
    if (fits(tokens))
      out.push_back(std::move(tokens));
    else
      ++counts.dropped;
    left = std::move(others);
  }
  counts.split += split;
  std::reverse(out.begin(), out.end());
  return out;
}

// Strings: what the tokenizer puts in front of a text, the text, eos.
TokenSample SampleTokenizer::plain(std::string_view prompt, std::string_view text) const {
  const std::string both = std::string(prompt) + std::string(text);
  const auto ids = tokenizer_.encode_ids(both);
  const auto loss = tokens_in(tokenizer_, both, ids, {{prompt.size(), both.size()}});
  const auto around = tokenizer_.encode_ids(both, {.add_special = true});
  TokenSample out;
  const auto at = std::search(around.begin(), around.end(), ids.begin(), ids.end());
  if (at != around.end()) out.ids.assign(around.begin(), at);
  out.loss.assign(out.ids.size(), 0);
  out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  out.loss.insert(out.loss.end(), loss.begin(), loss.end());
  if (const auto eos = tokenizer_.eos_id(); eos && (ids.empty() || ids.back() != *eos))
    out.ids.push_back(*eos), out.loss.push_back(1);
  return out;
}

std::vector<TokenSample> SampleTokenizer::sequences(const Sample& sample,
                                                    SampleCounts& counts) const {
  ++counts.samples;
  std::vector<TokenSample> out;
  const auto keep = [&](std::vector<TokenSample> list) {
    if (std::all_of(list.begin(), list.end(), [&](const auto& s) { return fits(s); }))
      out = std::move(list);
    else
      ++counts.dropped;
  };
  switch (sample.kind) {
    case SampleKind::text: {
      TokenSample all = plain("", sample.response.as_string());
      if (!fits(all) && options_.overlong == Overlong::shorten) {
        all.ids.resize(static_cast<size_t>(options_.length));
        all.loss.resize(all.ids.size());
        ++counts.shortened;
      }
      keep({std::move(all)});
      break;
    }
    case SampleKind::completion:
    case SampleKind::unpaired:
    case SampleKind::chat:
      if (sample.is_chat())
        out = chat(sample, sample.prompt, sample.response, counts);
      else
        keep({plain(sample.prompt.as_string(), sample.response.as_string())});
      break;
    case SampleKind::preference: {
      SampleCounts own;  // a pair counts once
      std::vector<TokenSample> pair;
      for (const Json* response : {&sample.response, &sample.rejected}) {
        auto one = sample.is_chat()
                       ? chat(sample, sample.prompt, *response, own)
                       : std::vector{plain(sample.prompt.as_string(), response->as_string())};
        std::move(one.begin(), one.end(), std::back_inserter(pair));
      }
      if (pair.size() == 2)
        keep(std::move(pair));
      else
        ++counts.dropped;
      break;
    }
    case SampleKind::answer: {
      TokenSample prompt;
      if (sample.is_chat()) {
        ChatOptions options = chat_options(sample);
        options.add_generation_prompt = true;
        prompt.ids = tokenizer_.encode_ids(template_->render(sample.prompt, options));
      } else {
        prompt.ids = tokenizer_.encode_ids(sample.prompt.as_string(), {.add_special = true});
      }
      prompt.loss.assign(prompt.ids.size(), 0);
      keep({std::move(prompt)});
      break;
    }
  }
  for (auto& s : out) {
    s.value = sample.kind == SampleKind::unpaired ? float(sample.desirable) : float(sample.margin);
    ++counts.sequences;
    counts.tokens += static_cast<int64_t>(s.ids.size());
    counts.loss_tokens += s.learned();
  }
  return out;
}

TokenSamples SampleTokenizer::operator()(const SampleFile& file) const {
  TokenSamples out{file.kind, {}, {}};
  for (size_t i = 0; i < file.samples.size(); ++i) {
    if (options_.stop.stop_requested()) throw Error(Kind::canceled, "[samples] interrupted");
    const Sample& sample = file.samples[i];
    auto list = with_context(file.name + ", line " + std::to_string(sample.line),
                             [&] { return sequences(sample, out.counts); });
    for (auto& s : list) {
      s.sample = i, s.difficulty = sample.difficulty;
      out.sequences.push_back(std::move(s));
    }
  }
  if (out.sequences.empty())
    throw Error(Kind::bad_data, "[samples] " + file.name + ": none of its " +
                                    std::to_string(file.samples.size()) + " samples fits in " +
                                    std::to_string(options_.length) +
                                    " tokens. Raise the context, or let long ones be shortened.");
  return out;
}

}  // namespace lmxlab::data
