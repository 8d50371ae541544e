#include "lmxlab/data/samples.h"

#include "lmxlab/base/files.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

namespace lmxlab::data {
namespace {

using test::error_of;

void expect_bad(const std::string& text, const std::vector<std::string>& says,
                const SampleReadOptions& options = {}) {
  SCOPED_TRACE(text);
  const Error e = error_of([&] { parse_samples(text, "f.jsonl", options); });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  const std::string message = e.what();
  EXPECT_NE(message.find("f.jsonl"), std::string::npos) << message;
  for (const auto& word : says)
    EXPECT_NE(message.find(word), std::string::npos) << word << " in " << message;
}

TEST(Samples, EveryKindIsFoundByItsKeys) {
  const std::string user = R"({"role": "user", "content": "q"})";
  const std::string both = user + R"(, {"role": "assistant", "content": "a"})";
  const std::vector<std::pair<std::string, SampleKind>> lines{
      {R"({"text": "a", "id": 3})", SampleKind::text},
      {R"({"prompt": "a", "completion": "b"})", SampleKind::completion},
      {R"({"prompt": [)" + user + R"(], "completion": [{"role": "assistant", "content": "a"}]})",
       SampleKind::completion},
      {R"({"messages": [)" + both + R"(], "answer": null})", SampleKind::chat},
      {R"({"messages": [)" + both + R"(], "answer": "a column of something else"})",
       SampleKind::chat},
      {R"({"prompt": "a", "chosen": "b", "rejected": "c"})", SampleKind::preference},
      {R"({"prompt": "a", "answer": 4})", SampleKind::answer},
      {R"({"messages": [)" + user + R"(], "answer": "b"})", SampleKind::answer},
      {R"({"prompt": "a", "completion": "b", "label": false})", SampleKind::unpaired},
      {R"({"prompt": "a", "completion": "b", "label": "a column of something else"})",
       SampleKind::completion},
  };
  for (const auto& [line, kind] : lines) {
    const auto file = parse_samples(line, "f");
    EXPECT_EQ(file.kind, kind) << line;
    ASSERT_EQ(file.samples.size(), 1u);
    EXPECT_EQ(file.samples[0].kind, kind);
    EXPECT_EQ(file.samples[0].line, 1u);
    EXPECT_EQ(sample_kind(sample_kind_name(kind)), kind);
  }
  EXPECT_EQ(parse_samples(lines[6].first, "f").samples[0].answer, "4");
  EXPECT_FALSE(parse_samples(lines[8].first, "f").samples[0].desirable);
  const auto margin = R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.5})";
  EXPECT_EQ(parse_samples(margin, "f").samples[0].margin, 1.5);
  EXPECT_EQ(error_of([] {
              parse_samples(R"({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"})",
                            "f");
            }).kind(),
            Kind::bad_data);
  EXPECT_EQ(error_of([] {
              parse_samples(R"({"prompt": "a", "completion": "b"})", "f",
                            {.kind = SampleKind::unpaired});
            }).kind(),
            Kind::bad_data);
  EXPECT_EQ(error_of([] { sample_kind("chats"); }).kind(), Kind::usage);
}

TEST(Samples, MarksOfEditorsAndBlankLinesAreFine) {
  const auto file =
      parse_samples("\xEF\xBB\xBF\r\n{\"text\": \"a\"}\r\n\r\n  {\"text\": \"b\\r\\n\"}", "f");
  ASSERT_EQ(file.samples.size(), 2u);
  EXPECT_EQ(file.samples[0].line, 2u);
  EXPECT_EQ(file.samples[1].line, 4u);
  EXPECT_EQ(file.samples[1].response.as_string(), "b\r\n");
  EXPECT_EQ(parse_samples("{\"text\": \"a\"}\n{", "f", {.limit = 1}).samples.size(), 1u);
}

std::string one_line(std::string text) {
  std::erase(text, '\n');
  return text;
}

TEST(Samples, ToolCallsAreAsTemplatesTakeThem) {
  const auto file = parse_samples(one_line(R"(
{"messages": [{"role": "user", "content": "q", "name": null},
 {"role": "assistant", "content": null, "tool_calls":
   [{"type": "function", "id": null, "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
 {"role": "tool", "content": "2", "tool_calls": []},
 {"role": "assistant", "content": "done"}],
 "tools": "[{\"type\": \"function\"}]", "chat_template_kwargs": {"x": 1}})"),
                                  "f");
  const auto& s = file.samples[0];
  EXPECT_EQ(s.response, Json::parse(R"([{"role": "user", "content": "q"},
      {"role": "assistant", "content": "", "tool_calls":
        [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
      {"role": "tool", "content": "2"}, {"role": "assistant", "content": "done"}])"));
  EXPECT_EQ(s.tools, Json::parse(R"([{"type": "function"}])"));
  EXPECT_EQ(s.variables, Json::parse(R"({"x": 1})"));
}

TEST(Samples, APairsPromptIsWhatBothBeginWith) {
  const std::string begin =
      R"({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
         {"role": "user", "content": "r"}, )";
  const auto line = [&](const std::string& prompt) {
    return one_line("{" + prompt + R"("chosen": [)" + begin +
                    R"({"role": "assistant", "content": "yes"}], "rejected": [)" + begin +
                    R"({"role": "assistant", "content": "no"}]})");
  };
  for (const std::string prompt : {"", "\"prompt\": \"q\", "}) {
    const auto s = parse_samples(line(prompt), "f").samples[0];
    EXPECT_EQ(s.prompt.size(), 3u);
    EXPECT_EQ(s.response.as_array()[0].at("content").as_string(), "yes");
    EXPECT_EQ(s.rejected.as_array()[0].at("content").as_string(), "no");
  }
}

TEST(Samples, BadLinesAreNamed) {
  expect_bad("", {"is empty"});
  expect_bad(" \n\r\n", {"is empty"});
  expect_bad("{\"text\": \"a\"}\n{\"text\": 3}\n{\"text\": \"b\"}\n{",
             {"2 problems", "line 2: \"text\": expected a string, got an integer", "line 4: "});
  expect_bad("{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}",
             {"line 2", "expected the kind text, as in line 1, found completion"});
  expect_bad("{\"question\": \"a\"}", {"line 1", "\"messages\"", "found \"question\""});
  expect_bad("[{\"text\": \"a\"}]", {"line 1", "found a list"});
  expect_bad("7", {"expected an object, found an integer"});
  expect_bad("{\"text\": \"\xFF\"}", {"line 1", "UTF-8"});
  expect_bad("{\"messages\": []}", {"empty list"});
  expect_bad("{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}",
             {"expected a message of the role \"assistant\""});
  expect_bad("{\"messages\": [{\"content\": \"q\"}]}", {"\"messages\"[0]: \"role\""});
  expect_bad("{\"messages\": [{\"role\": \"assistant\"}]}", {"[0]", "\"content\""});
  expect_bad("{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"id\": 1}]}]}",
             {"tool_calls[0]", "\"name\""});
  expect_bad(
      "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"f\", "
      "\"arguments\": \"{\"}]}]}",
      {"tool_calls[0].arguments"});
  expect_bad("{\"messages\": \"hi\"}", {"expected a list of messages, got a string"});
  expect_bad("{\"prompt\": \"a\", \"completion\": [{\"role\": \"assistant\", \"content\": \"\"}]}",
             {"both as messages"});
  expect_bad("{\"chosen\": \"a\", \"rejected\": \"b\"}", {"\"prompt\" is missing"});
  expect_bad("{\"text\": \"a\"}", {"expected \"messages\" of the kind chat"},
             {.kind = SampleKind::chat});
  expect_bad("{\"prompt\": \"a\", \"answer\": {}}", {"\"answer\""});
  EXPECT_EQ(error_of([] { parse_samples("PAR1", "f"); }).kind(), Kind::unsupported);
  EXPECT_EQ(error_of([] { read_samples("/no/such/file"); }).kind(), Kind::not_found);
}

TEST(Samples, AreReadFromAFile) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "a.jsonl", "{\"text\": \"a\"}\n");
  const auto file = read_samples(folder / "a.jsonl");
  EXPECT_EQ(file.samples.size(), 1u);
  EXPECT_EQ(file.name, (folder / "a.jsonl").string());
  write_file_atomic(folder / "b.jsonl", "");
  EXPECT_EQ(error_of([&] { read_samples(folder / "b.jsonl"); }).kind(), Kind::bad_data);
}

}  // namespace
}  // namespace lmxlab::data
