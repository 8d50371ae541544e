#include "tests/cli/program.h"
#include "tests/support/temp_folder.h"

namespace lmxlab::test {
namespace {

class Template : public testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& text) {
    write_file_atomic(folder_ / name, text);
    return (folder_ / name).string();
  }
  TemporaryFolder folder_;
  std::string messages_ = file("messages.json", R"([{"role": "user", "content": "Hé\n"}])");
};

TEST_F(Template, PrintsTheseBytesAndNoMore) {
  const auto chat =
      file("chat.jinja",
           "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
           "{{ tools|length if tools }}{{ x }}{{ name }}{{ n }}"
           "{% if add_generation_prompt %}>{% endif %}{{ strftime_now('%H:%M') }}\n\n");
  auto o = lmxlab_run({"template", chat, "--messages", messages_, "--now", "2024-07-26T13:05:09"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.out, "[user] Hé\n13:05\n");
  EXPECT_EQ(o.err, "");
  const auto tools = file("tools.json", R"([{"type": "function"}, {}])");
  o = lmxlab_run({"template", chat, "--messages", messages_, "--tools", tools,
                  "--add-generation-prompt", "--var", "x=1.0", "--var", "name=<s>", "--var",
                  "n=[null, 12345678901234567890]", "--now", "2024-07-26", "--json"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(json_of(o).at("text").as_string(),
            "[user] Hé\n21.0<s>[None, 12345678901234567890]>00:00\n");
}

TEST_F(Template, TakesAModelFolder) {
  file("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "chat_template": [
      {"name": "default", "template": "{{ bos_token }}d"}, {"name": "tool_use", "template": "t"}]})");
  const auto folder = folder_.path().string();
  EXPECT_EQ(lmxlab_run({"template", folder, "--messages", messages_}).out, "<s>d");
  EXPECT_EQ(
      lmxlab_run({"template", folder + "/tokenizer_config.json", "--messages", messages_}).out,
      "<s>d");
  const auto tools = file("tools.json", "[]");
  EXPECT_EQ(lmxlab_run({"template", folder, "--messages", messages_, "--tools", tools}).out, "t");
}

TEST_F(Template, Errors) {
  const auto chat =
      file("chat.jinja", "{% if messages %}\n{{ raise_exception('no ' ~ x) }}{% endif %}");
  expect_error({"template", chat, "--messages", messages_, "--var", "x=7"}, 4, "bad_data",
               {"line 2: no 7"});
  expect_error({"template", chat, "--messages", messages_, "--var", "x"}, 2, "usage",
               {"NAME=JSON"});
  expect_error({"template", chat, "--messages", messages_, "--now", "today"}, 2, "usage",
               {"today"});
  expect_error({"template", chat}, 2, "usage", {"--messages"});
  expect_error({"template", chat, "--messages", folder_.path().string() + "/none"}, 3, "not_found",
               {"none"});
  expect_error({"template", chat, "--messages", file("object.json", "{}")}, 4, "bad_data",
               {"object.json", "a list of messages"});
  expect_error({"template", chat, "--messages", file("texts.json", "[\"a\"]")}, 4, "bad_data",
               {"texts.json", "objects"});
  expect_error({"template", "gpt-tiny", "--messages", messages_}, 3, "not_found", {"gpt-tiny"});
  expect_error({"template", folder_.path().string(), "--messages", messages_}, 3, "not_found",
               {"chat_template.jinja"});
  expect_error({"template", file("m.gguf", "GGUF"), "--messages", messages_}, 4, "bad_data",
               {"cut off"});
  expect_error({"template", file("open.jinja", "{% if %}"), "--messages", messages_}, 4, "bad_data",
               {"open.jinja", "line 1"});
  expect_error({"template",
                file("endless.jinja",
                     "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
                     "{% endfor %}"),
                "--messages", messages_},
               7, "resource", {"steps"});
}

}  // namespace
}  // namespace lmxlab::test
