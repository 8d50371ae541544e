// Masks: as transformers gives them, as rules written by hand give them, and what else must hold.
#include "lmxlab/data/sample_tokens.h"

#include "lmxlab/base/files.h"
#include "lmxlab/data/token_spans.h"
#include "tests/support/error_of.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>

namespace lmxlab::data {
namespace {

using test::error_of;

const fs::path kFolder = fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/samples";

const Json& cases() {
  static const Json json = Json::parse(read_file(kFolder / "cases.json"), "cases.json");
  return json;
}
Tokenizer tokenizer(const std::string& name = "byte_level") {
  const Json config = Json::parse(R"({"bos_token": "<s>", "eos_token": "</s>"})");
  return Tokenizer::from_json(Json::parse(read_file(kFolder / (name + ".json"))), config);
}
// With the special tokens' names, as a tokenizer_config.json has them.
ChatTemplate chat_template(const std::string& source) {
  Json config = Json::parse(R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})");
  config["chat_template"] = Json(source);
  return ChatTemplate::from_config(config);
}
std::optional<std::string> shared_template(const std::string& name) {
  const auto path = test::shared_fixtures("chat_templates.json");
  if (!path) return std::nullopt;
  static const Json json = Json::parse(read_file(*path), "chat_templates.json");
  for (const Json& t : json.at("templates").as_array())
    if (t.at("name").as_string() == name) return t.at("template").as_string();
  throw Error(Kind::not_found, name);
}

std::vector<int> ints(const Json& list) {
  std::vector<int> out;
  for (const Json& j : list.as_array()) out.push_back(static_cast<int>(j.as_integer()));
  return out;
}
std::vector<int> ints(const std::vector<uint8_t>& v) {
  return {v.begin(), v.end()};
}
// The learned stretches as text, apart.
std::string learned(const Tokenizer& t, const TokenSample& s) {
  std::string out;
  std::vector<int> run;
  for (size_t i = 0; i <= s.ids.size(); ++i) {
    if (i < s.ids.size() && s.loss[i]) {
      run.push_back(s.ids[i]);
    } else if (!run.empty()) {
      out += "[" + t.decode(run) + "]";
      run.clear();
    }
  }
  return out;
}

Sample chat(const Json& messages, const Json& tools = {}) {
  Sample s;
  s.kind = SampleKind::chat;
  s.response = messages;
  s.tools = tools;
  return s;
}
Sample case_sample(const Json& c) {
  return chat(cases().at("messages").at(c.at("messages").as_string()),
              c.at("tools").as_bool() ? cases().at("tools") : Json());
}
Json talk(const std::vector<std::string>& turns, const std::string& system = "") {
  Json out = Json::array();
  if (!system.empty())
    out.push_back(Json::object({{"role", Json("system")}, {"content", Json(system)}}));
  for (size_t i = 0; i < turns.size(); ++i)
    out.push_back(Json::object(
        {{"role", Json(i % 2 == 0 ? "user" : "assistant")}, {"content", Json(turns[i])}}));
  return out;
}

constexpr const char* kChatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
// Old reasoning is left out.
constexpr const char* kStripping =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif "
    "%}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

std::vector<TokenSample> sequences(const char* source, const Sample& sample,
                                   const SampleOptions& options = {}) {
  SampleCounts counts;
  return SampleTokenizer(tokenizer(), chat_template(source), options).sequences(sample, counts);
}

TEST(SampleTokens, GenerationBlocksAreAsInTransformers) {
  size_t compared = 0;
  for (const Json& t : cases().at("generation").as_array())
    for (const Json& c : t.at("cases").as_array()) {
      const auto& kind = c.at("tokenizer").as_string();
      SCOPED_TRACE(t.at("name").as_string() + ", " + kind + ", " + c.at("messages").as_string());
      const auto owner = tokenizer(kind);
      const SampleTokenizer tokens(owner, chat_template(t.at("template").as_string()));
      SampleCounts counts;
      const auto got = tokens.sequences(case_sample(c), counts);
      ASSERT_EQ(got.size(), 1u);
      EXPECT_EQ(got[0].ids, ints(c.at("ids")));
      EXPECT_EQ(ints(got[0].loss), ints(c.at("mask"))) << learned(owner, got[0]);
      ++compared;
    }
  EXPECT_EQ(compared, 30u);
}

TEST(SampleTokens, TurnsAreAsRulesByHandSay) {
  size_t compared = 0;
  for (const Json& t : cases().at("turns").as_array()) {
    const auto source = shared_template(t.at("name").as_string());
    if (!source) return;
    for (const Json& c : t.at("cases").as_array()) {
      SCOPED_TRACE(t.at("name").as_string() + ", " + c.at("messages").as_string());
      SampleCounts counts;
      const SampleTokenizer tokens(tokenizer(), chat_template(*source));
      const auto got = tokens.sequences(case_sample(c), counts);
      const auto& expected = c.at("sequences").as_array();
      ASSERT_EQ(got.size(), expected.size());
      EXPECT_EQ(counts.split, expected.size() > 1);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].ids, ints(expected[i].at("ids")));
        EXPECT_EQ(ints(got[i].loss), ints(expected[i].at("mask"))) << learned(tokenizer(), got[i]);
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 25u);
}

// The same template with blocks and without (and the line break that Jinja drops behind a tag): the
// renderings of prefixes find what the blocks say.
TEST(SampleTokens, PrefixesFindWhatBlocksSay) {
  for (const Json& t : cases().at("generation").as_array()) {
    std::string source = t.at("template").as_string();
    if (source.find("add_generation_prompt") == source.npos) continue;
    for (const char* tag : {"{% generation %}", "{% endgeneration %}\n"})
      for (size_t at; (at = source.find(tag)) != source.npos;)
        source.erase(at, std::string(tag).size());
    for (const Json& c : t.at("cases").as_array()) {
      if (c.at("tokenizer").as_string() != "byte_level") continue;
      const auto got = sequences(source.c_str(), case_sample(c));
      ASSERT_EQ(got.size(), 1u);
      EXPECT_EQ(ints(got[0].loss), ints(c.at("mask"))) << learned(tokenizer(), got[0]);
    }
  }
}

TEST(SampleTokens, WhatFollowsTheLastTurnIsLeftOut) {
  auto messages = talk({"a", "b", "c"});
  const auto got = sequences(kChatml, chat(messages));
  EXPECT_EQ(got[0].ids, sequences(kChatml, chat(talk({"a", "b"})))[0].ids);
  EXPECT_EQ(learned(tokenizer(), got[0]), "[b<|im_end|>]");
}

TEST(SampleTokens, ReformattedTurnsGetSequencesOfTheirOwn) {
  Json messages = talk({"a", "b", "c", "d"});
  messages.as_array()[1]["reasoning_content"] = Json("B");
  messages.as_array()[3]["reasoning_content"] = Json("D");
  const auto got = sequences(kStripping, chat(messages));
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(learned(tokenizer(), got[0]), "[<think>B</think>b<|im_end|>]");
  EXPECT_EQ(learned(tokenizer(), got[1]), "[<think>D</think>d<|im_end|>]");
  const Error e = error_of(
      [&] { sequences(kStripping, chat(messages), {.reformatted = Reformatted::refuse}); });
  EXPECT_EQ(e.kind(), Kind::mismatch);
  EXPECT_NE(std::string(e.what()).find("message 2 (assistant)"), std::string::npos) << e.what();
}

TEST(SampleTokens, ATurnThatDoesNotGoOnBehindItsOpeningIsRefused) {
  const std::string opens =
      std::string(kChatml) + "{% if add_generation_prompt %}<think>{% endif %}";
  const Error e = error_of([&] { sequences(opens.c_str(), chat(talk({"a", "b"}))); });
  EXPECT_EQ(e.kind(), Kind::mismatch);
  for (const char* word : {"message 2 (assistant)", "\"<think>\"", "enable_thinking"})
    EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
  EXPECT_EQ(error_of([&] {
              SampleCounts counts;
              SampleTokenizer(tokenizer()).sequences(chat(talk({"a", "b"})), counts);
            }).kind(),
            Kind::not_found);
}

// Mistral's writes the system message only while the user's turn is the last one.
TEST(SampleTokens, AMessageThatVanishesIsRefused) {
  const auto source = shared_template("mistral_v3_tools");
  if (!source) return;
  const auto messages = talk({"a", "b", "c", "d"}, "Be kind.");
  const Error e = error_of([&] { sequences(source->c_str(), chat(messages)); });
  EXPECT_EQ(e.kind(), Kind::mismatch);
  EXPECT_NE(std::string(e.what()).find("Be kind."), std::string::npos) << e.what();
}

// A template that ends no turn: the token that opens the next one does, if it is known to.
TEST(SampleTokens, ANextTurnsTokenMayEndOne) {
  const char* source =
      "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
  const auto t = tokenizer();
  const auto messages = chat(talk({"a", "b", "c", "d"}));
  EXPECT_EQ(learned(t, sequences(source, messages)[0]), "[b][d]");
  EXPECT_EQ(learned(t, sequences(source, messages, {.end_of_turn = {*t.token_id("<|user|>")}})[0]),
            "[b<|user|>][d]");
}

TEST(SampleTokens, LongChatsLoseTheirOldestTurns) {
  const auto messages = talk({"first", "one", "second", "two", "third", "three"}, "S");
  const auto whole = sequences(kChatml, chat(messages))[0];
  const auto last = sequences(kChatml, chat(talk({"third", "three"}, "S")))[0];
  const auto two = sequences(kChatml, chat(talk({"second", "two", "third", "three"}, "S")))[0];
  for (const auto& expected : {whole, two, last}) {
    const auto length = static_cast<int64_t>(expected.ids.size());
    SampleCounts counts;
    const auto got = SampleTokenizer(tokenizer(), chat_template(kChatml),
                                     {.length = length, .overlong = Overlong::shorten})
                         .sequences(chat(messages), counts);
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].ids, expected.ids);
    EXPECT_EQ(got[0].loss, expected.loss);
    EXPECT_EQ(counts.shortened, expected.ids.size() < whole.ids.size());
    EXPECT_EQ(sequences(kChatml, chat(messages), {.length = length}).size(),
              expected.ids.size() < whole.ids.size() ? 0u : 1u);
  }
  SampleCounts counts;
  const SampleTokenizer tiny(tokenizer(), chat_template(kChatml),
                             {.length = 4, .overlong = Overlong::shorten});
  EXPECT_TRUE(tiny.sequences(chat(messages), counts).empty());
  EXPECT_EQ(counts.dropped, 1);
  const SampleFile file{"f", SampleKind::chat, {chat(messages)}};
  EXPECT_EQ(error_of([&] { tiny(file); }).kind(), Kind::bad_data);
}

TEST(SampleTokens, StringsAreLearnedFromTheCompletionOn) {
  const auto t = tokenizer();
  const SampleTokenizer tokens(t);
  const auto one = [&](const char* line) { return tokens(parse_samples(line, "f")).sequences; };
  const auto text = one(R"({"text": "Hello there"})");
  EXPECT_EQ(learned(t, text[0]), "[Hello there</s>]");
  const auto completion = one(R"({"prompt": "To be", "completion": " or not"})");
  EXPECT_EQ(t.decode(completion[0].ids), "To be or not</s>");
  EXPECT_EQ(learned(t, completion[0]), "[ or not</s>]");
  const auto pair = one(R"({"prompt": "To be", "chosen": " or", "rejected": " and"})");
  ASSERT_EQ(pair.size(), 2u);
  EXPECT_EQ(learned(t, pair[0]), "[ or</s>]");
  EXPECT_EQ(learned(t, pair[1]), "[ and</s>]");
  const auto answer = one(R"({"prompt": "2 + 2 =", "answer": 4})");
  EXPECT_EQ(t.decode(answer[0].ids), "2 + 2 =");
  EXPECT_EQ(answer[0].learned(), 0);
}

TEST(SampleTokens, StringsBeginAsTheTokenizerBeginsATextAndEndOnce) {
  Json json = Json::parse(read_file(kFolder / "byte_level.json"));
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                         "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}})");
  const auto t = Tokenizer::from_json(json, Json::parse(R"({"eos_token": "</s>"})"));
  for (const char* line : {R"({"prompt": "To be", "completion": " or not"})",
                           R"({"prompt": "To be", "completion": " or not</s>"})"}) {
    const auto got = SampleTokenizer(t)(parse_samples(line, "f")).sequences;
    EXPECT_EQ(t.decode(got[0].ids), "<s>To be or not</s>");
    EXPECT_EQ(learned(t, got[0]), "[ or not</s>]");
  }
}

TEST(SampleTokens, OnlyACompletionsTurnsAreLearned) {
  const auto file = parse_samples(
      R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
      R"( {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]})",
      "f");
  for (const std::string& source :
       {std::string(kChatml), cases().at("generation").as_array()[0].at("template").as_string()}) {
    const auto got = sequences(source.c_str(), file.samples[0]);
    EXPECT_EQ(learned(tokenizer(), got[0]), "[d<|im_end|>]");
  }
  const auto pairs = parse_samples(
      R"({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],)"
      R"( "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]})",
      "f");
  const auto pair = sequences(kChatml, pairs.samples[0]);
  ASSERT_EQ(pair.size(), 2u);
  EXPECT_EQ(learned(tokenizer(), pair[0]), "[b<|im_end|>]");
  EXPECT_EQ(learned(tokenizer(), pair[1]), "[c<|im_end|>]");
  const auto asked =
      parse_samples(R"({"messages": [{"role": "user", "content": "a"}], "answer": "b"})", "f");
  EXPECT_EQ(tokenizer().decode(sequences(kChatml, asked.samples[0])[0].ids),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
}

TEST(SampleTokens, MayBeInterrupted) {
  std::stop_source stop;
  stop.request_stop();
  const SampleTokenizer tokens(Tokenizer::bytes(), {}, {.stop = stop.get_token()});
  EXPECT_EQ(error_of([&] { tokens(parse_samples("{\"text\": \"a\"}", "f")); }).kind(),
            Kind::canceled);
}

TEST(SampleTokens, ErrorsNameTheLine) {
  const auto file = parse_samples("\n{\"text\": \"a\"}", "f.jsonl", {.kind = SampleKind::text});
  const SampleTokenizer tokens(Tokenizer::characters("xyz"));
  const std::string message = error_of([&] { tokens(file); }).what();
  EXPECT_NE(message.find("f.jsonl, line 2: "), std::string::npos) << message;
}

// Both ways to find tokens agree with a text cut at its borders.
TEST(TokenSpans, AreTheTokensThatHaveAByteOfThem) {
  for (const char* name : {"byte_level", "metaspace"}) {
    const auto t = tokenizer(name);
    const std::string text = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n";
    const std::string answer = "Nothing, 👋🏽 my lord.<|im_end|>";
    const auto ids = t.encode_ids(text + answer + "\n<|im_start|>user");
    const auto mask = tokens_in(t, text + answer + "\n<|im_start|>user", ids,
                                {{text.size(), text.size() + answer.size()}});
    const auto before = t.encode_ids(text).size(), after = t.encode_ids(text + answer).size();
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_FALSE(mask[i] && i + 1 < before) << name << " " << i;
      const bool inside = i >= before && i < after;
      EXPECT_TRUE(mask[i] || !inside) << name << " " << i;
    }
    EXPECT_FALSE(mask.back());
  }
}

}  // namespace
}  // namespace lmxlab::data
