#include "tests/cli/program.h"
#include "tests/support/temp_folder.h"

namespace lmxlab::test {
namespace {

class DataInspect : public testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& text) {
    write_file_atomic(folder_ / name, text);
    return (folder_ / name).string();
  }
  TemporaryFolder folder_;
  std::string tokenizer_ =
      (fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/samples/byte_level.json").string();
  std::string template_ =
      file("chat.jinja",
           "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
           "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  std::string chats_ =
      file("chats.jsonl",
           "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
           "\"content\": \"b\\u001b[0m\"}]}\n\n{\"messages\": [{\"role\": \"user\", \"content\": "
           "\"Hello\"}, {\"role\": \"assistant\", \"content\": \"there\"}]}\n");
  std::vector<std::string> command(std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"data", "inspect", chats_, "--tokenizer", tokenizer_, "--template", template_});
    return more;
  }
};

TEST_F(DataInspect, ShowsWhatIsLearned) {
  const auto o = lmxlab_run(command({"--context", "64", "--pack"}));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.err, "");
  for (const char* part :
       {"line 1: ", "line 3: ", "<|im_start|>assistant\\n\n[[b\\x1B[0m<|im_end|>]]\\n\n",
        "[[there<|im_end|>]]", "samples     2\n", "packed      1 row of 64, ", "lengths\n"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part << " in\n" << o.out;
  EXPECT_EQ(o.out.find('\x1b'), std::string::npos);
}

TEST_F(DataInspect, AsJson) {
  const auto o = lmxlab_run(command({"--context", "64", "--pack", "--rows", "1", "--json"}));
  EXPECT_EQ(o.code, 0) << o.err;
  const Json json = json_of(o);
  EXPECT_EQ(json.at("kind").as_string(), "chat");
  EXPECT_EQ(json.at("samples").as_integer(), 2);
  ASSERT_EQ(json.at("rows").size(), 1u);
  const Json& row = json.at("rows").as_array()[0];
  EXPECT_EQ(row.at("line").as_integer(), 1);
  EXPECT_EQ(row.at("length").as_integer(), int64_t(row.at("tokens").size()));
  EXPECT_EQ(row.at("mask").size(), row.at("tokens").size());
  EXPECT_EQ(json.at("packing").at("rows").as_integer(), 1);
  int64_t count = 0;
  for (const Json& bin : json.at("lengths").as_array()) count += bin.at("count").as_integer();
  EXPECT_EQ(count, 2);
}

// The folder's configuration says that the user's turn ends the assistant's.
TEST_F(DataInspect, TakesAModelFolder) {
  const auto tokenizer = read_file(tokenizer_);
  const Json json = Json::parse(tokenizer);
  int64_t user = -1;
  for (const Json& t : json.at("added_tokens").as_array())
    if (t.at("content").as_string() == "<|user|>") user = t.at("id").as_integer();
  file("tokenizer.json", tokenizer);
  file("config.json", "{\"eos_token_id\": [" + std::to_string(user) + "]}");
  file("chat_template.jinja",
       "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
       "{% if add_generation_prompt %}<|assistant|>{% endif %}");
  const auto chat =
      file("turns.jsonl", R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant",)"
                          R"( "content": "b"}, {"role": "user", "content": "c"}, {"role":)"
                          R"( "assistant", "content": "d"}]})");
  const auto o = lmxlab_run({"data", "inspect", chat, "--model", folder_.path().string()});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("<|user|>a<|assistant|>[[b<|user|>]]c<|assistant|>[[d]]\n"),
            std::string::npos)
      << o.out;
}

// The rows that a run takes, in its order.
TEST_F(DataInspect, ARecipe) {
  const auto recipe =
      file("sft.toml", "[data]\nfile = " + Json(chats_).dump() +
                           "\ntokenizer = " + Json(tokenizer_).dump() +
                           "\nvalidation = 0.0\nsamples = \"completion\"\n[objective]\nkind = "
                           "\"sft\"\n[run]\nbatch = 1\ncontext = 16\n");
  file("chats.jsonl",
       "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": "
       "\"dd\"}\n");
  const auto text = lmxlab_run({"data", "inspect", recipe, "--rows", "1"});
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part : {"row 1: ", "2 documents", "---- document 2", "[[dd", "[[b",
                           "objective   sft", "samples     2", "lengths\n"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << " in\n" << text.out;
  const auto o = lmxlab_run(
      {"data", "inspect", recipe, "--rows", "2", "--set", "data.packing=false", "--json"});
  EXPECT_EQ(o.code, 0) << o.err;
  const auto json = json_of(o);
  ASSERT_EQ(json.at("rows").size(), 2u);
  for (const Json& row : json.at("rows").as_array()) {
    EXPECT_EQ(row.at("length").as_integer(), int64_t(row.at("tokens").size()));
    EXPECT_EQ(row.at("mask").size(), row.at("tokens").size());
    EXPECT_EQ(row.at("mask").as_array()[0].as_integer(), 0);
    EXPECT_EQ(row.at("mask").as_array().back().as_integer(), 1);
  }
  // Without a file: windows of the text, and the token behind each.
  const auto plain = file("plain.toml", "[run]\ncontext = 8\nbatch = 2\n");
  const auto rows = json_of(lmxlab_run({"data", "inspect", plain, "--rows", "3", "--json"}));
  ASSERT_EQ(rows.at("rows").size(), 3u);
  EXPECT_EQ(rows.at("rows").as_array()[2].at("length").as_integer(), 9);
  expect_error({"data", "inspect", plain, "--context", "9"}, 2, "usage", {"--rows", "--set"});
  expect_error({"data", "inspect", chats_, "--set", "run.batch=1"}, 2, "usage", {"recipe"});
  expect_error({"data", "inspect", "none.toml"}, 3, "not_found", {"none.toml"});
}

TEST_F(DataInspect, Errors) {
  expect_error(command({"--model", "m"}), 2, "usage", {"--model", "both"});
  expect_error({"data", "inspect", chats_}, 2, "usage", {"--tokenizer", "none"});
  expect_error(command({"--pack"}), 2, "usage", {"--context"});
  expect_error(command({"--context", "9", "--overlong", "cut"}), 2, "usage", {"--pack"});
  expect_error({"data", "inspect", chats_, "--tokenizer", tokenizer_}, 3, "not_found",
               {"line 1", "chat template"});
  expect_error({"data", "inspect", chats_, "--model", "gpt-tiny"}, 3, "not_found",
               {"has no tokenizer"});
  expect_error(command({"--context", "3"}), 4, "bad_data", {"none of its 2 samples fits"});
  expect_error(command({"--kind", "text"}), 4, "bad_data", {"line 1", "line 3", "\"text\""});
  chats_ = file("mixed.jsonl", "{\"text\": \"a\"}\n{\"prompt\": \"a\", \"answer\": 1}\n");
  expect_error(command(), 4, "bad_data", {"mixed.jsonl", "line 2", "answer"});
  chats_ = file("empty.jsonl", "");
  expect_error(command(), 4, "bad_data", {"is empty"});
  chats_ = folder_.path().string() + "/none";
  expect_error(command(), 3, "not_found", {"none"});
}

}  // namespace
}  // namespace lmxlab::test
