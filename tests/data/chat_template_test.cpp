#include "lmxlab/data/chat_template.h"

#include "lmxlab/base/files.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>

namespace lmxlab::data {
namespace {

using testing::HasSubstr;

std::string render(std::string_view source, const Json& variables = Json::object(),
                   const std::optional<LocalTime>& now = std::nullopt) {
  return ChatTemplate::parse(source).render_variables(variables, now);
}

Error error_of(std::string_view source, const Json& variables = Json::object()) {
  try {
    const std::string text = render(source, variables);
    ADD_FAILURE() << source << " gave " << text.substr(0, 200);
  } catch (const Error& e) {
    return e;
  }
  return Error(Kind::internal, "none");
}

// One case of a fixture: `run` gives what it should, or fails as it should.
template <class F>
bool matches(const Json& expected, F&& run) {
  const Json* error = expected.find("error");
  try {
    const std::string text = run();
    if (error) {
      ADD_FAILURE() << "expected " << error->dump() << ", got " << Json(text).dump();
      return false;
    }
    EXPECT_EQ(text, expected.at("rendered").as_string());
    return text == expected.at("rendered").as_string();
  } catch (const Error& e) {
    EXPECT_TRUE(error) << e.what();
    if (!error) return false;
    EXPECT_THAT(e.what(), HasSubstr("line "));
    if (error->as_string() == "raise") {
      EXPECT_THAT(e.what(), HasSubstr(": " + expected.at("message").as_string()));
    }
    return true;
  }
}

TEST(ChatTemplate, SnippetsRenderAsJinja) {
  const Json file = Json::parse(
      read_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/chat_templates/snippets.json"),
      "snippets.json");
  const auto now = LocalTime::parse(file.at("now").as_string());
  size_t cases = 0;
  for (const Json& s : file.at("snippets").as_array()) {
    const std::string& source = s.at("template").as_string();
    SCOPED_TRACE(source);
    matches(s, [&] { return render(source, file.at("context"), now); });
    ++cases;
  }
  EXPECT_GE(cases, 180u);
}

// Real templates and single features, rendered by transformers.
TEST(ChatTemplate, SharedFixtures) {
  const auto shared = test::shared_fixtures("chat_templates.json");
  if (!shared) return;
  const auto& path = *shared;
  const Json file = Json::parse(read_file(path), "chat_templates.json");
  const auto now = LocalTime::parse(file.at("now").as_string());
  const Json& features = file.at("features");
  size_t cases = 0;
  for (const Json& s : features.at("snippets").as_array()) {
    const std::string& source = s.at("template").as_string();
    SCOPED_TRACE(source);
    matches(s, [&] { return render(source, features.at("context"), now); });
    ++cases;
  }
  for (const Json& t : file.at("templates").as_array()) {
    const auto parsed = ChatTemplate::parse(t.at("template").as_string());
    for (const Json& c : t.at("cases").as_array()) {
      const std::string& messages = c.at("messages").as_string();
      SCOPED_TRACE(t.at("name").as_string() + " " + messages + " " + c.at("args").dump());
      ChatOptions options{.variables = file.at("tokens"), .now = now};
      for (const auto& [name, value] : c.at("args").as_object()) options.variables[name] = value;
      if (c.at("tools").as_bool()) options.tools = file.at("tools");
      matches(c, [&] { return parsed.render(file.at("message_lists").at(messages), options); });
      ++cases;
    }
  }
  EXPECT_GE(cases, 990u);
}

TEST(ChatTemplate, GivesTemplatesWhatTransformersGives) {
  const Json messages = Json::parse(R"([{"role": "user", "content": "Hi"}])");
  const auto seen = ChatTemplate::parse(
      "{{ messages[0].content }} {{ tools }} {{ documents }} {{ add_generation_prompt }} "
      "{{ bos_token }}");
  EXPECT_EQ(seen.render(messages), "Hi None None False ");
  EXPECT_EQ(seen.render(messages, {.tools = Json::parse(R"([{"a": 1}])"),
                                   .add_generation_prompt = true,
                                   .variables = Json::parse(R"({"bos_token": "<s>"})")}),
            "Hi [{'a': 1}] None True <s>");
  const auto all = ChatTemplate::parse("{{ messages[0]|tojson }}");
  EXPECT_EQ(all.render(Json::parse(R"([{"role": "a", "reasoning": "r"}])")),
            R"({"thinking": "r", "role": "a", "reasoning": "r", "reasoning_content": "r"})");
  EXPECT_EQ(all.render(Json::parse(R"([{"role": "a", "thinking": null, "content": null}])")),
            R"({"role": "a", "thinking": null, "content": null})");
  const auto kind = [&](const Json& list) {
    try {
      seen.render(list);
    } catch (const Error& e) {
      return e.kind();
    }
    return Kind::internal;
  };
  EXPECT_EQ(kind(Json::parse(R"({"role": "user"})")), Kind::usage);
  EXPECT_EQ(kind(Json::parse(R"(["Hi"])")), Kind::usage);
}

TEST(ChatTemplate, NumbersOfAnySizeComeFromJson) {
  const Json v = Json::parse(R"({"a": 123456789012345678901234567890, "b": -9223372036854775809,
                                 "c": 1.0, "d": 18446744073709551616.0, "e": 1e2})");
  EXPECT_EQ(render("{{ a }} {{ b + 1 }} {{ c }} {{ d }} {{ e }} {{ a|tojson }}", v),
            "123456789012345678901234567890 -9223372036854775808 1.0 1.8446744073709552e+19 100.0 "
            "123456789012345678901234567890");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(error_of("a\n\n{{ none.x.y }}").what(), HasSubstr("line 3: "));
  EXPECT_THAT(
      error_of("{% if x %}\n{{ 1 +\n'a' }}\n{% endif %}", Json::parse(R"({"x": 1})")).what(),
      HasSubstr("line 2: unsupported operand type(s) for +: 'int' and 'str'"));
  EXPECT_THAT(error_of("\n{% for x in y %}\n").what(), HasSubstr("Unexpected end of template"));
  EXPECT_THAT(error_of("{{ raise_exception('boom') }}").what(), HasSubstr("line 1: boom"));
  EXPECT_EQ(error_of("{{ raise_exception('boom') }}").kind(), Kind::bad_data);
  EXPECT_EQ(error_of("{{ x }").kind(), Kind::bad_data);
  EXPECT_EQ(error_of("\xff").kind(), Kind::bad_data);
  EXPECT_EQ(error_of("{% include 'x' %}").kind(), Kind::unsupported);
  EXPECT_EQ(error_of("{{ [1]|random }}").kind(), Kind::unsupported);
  EXPECT_EQ(error_of("{{ strftime_now('%Y') }}").kind(), Kind::usage);
}

TEST(ChatTemplate, HostileTemplatesEnd) {
  const auto repeated = [](const std::string& part, size_t n, const std::string& end = "") {
    std::string out;
    for (size_t i = 0; i < n; ++i) out += part;
    return out + end;
  };
  const std::string big = "{% set ns = namespace(v='abcdefghij') %}{% for i in range(99999) %}";
  const std::vector<std::string> sources{
      "{{ 'a' * 10000000000 }}",
      "{{ [1] * 10000000000 }}",
      "{{ 'a'|center(10000000000) }}",
      "{{ 'a'.ljust(10000000000) }}",
      "{{ '%10000000000d' % 1 }}" + repeated("{{ 'a'.zfill(9000000) }}", 100),
      "{{ '{:9000000}'.format(1)|length }}" + repeated("{{ '{:9999999}'.format(1) }}", 40),
      "{{ 'a\nb'|indent(10000000000) }}",
      "{{ [1]|tojson(indent=10000000000) }}",
      "{{ range(100001) }}",
      "{{ 10 ** (10 ** 10) }}",
      "{{ (10 ** 4000) * (10 ** 4000) }}",
      big + "{% set ns.v = ns.v + ns.v %}{% endfor %}",
      big + "{% set ns.v = [ns.v] %}{% endfor %}",
      big + "{% set ns.v = ns.v|map('upper') %}{% endfor %}",
      big + "{% set ns.v = [ns.v, ns.v] %}{% if i == 150 %}{{ ns.v }}{% endif %}{% endfor %}",
      big + "{% set ns.v = (ns.v, ns.v) %}{% if i == 150 %}{{ {ns.v: 1} }}{% endif %}{% endfor %}",
      big +
          "{% set ns.v = [ns.v, ns.v] %}{% if i == 150 %}{{ ns.v|tojson }}{% endif %}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
      repeated("(", 5000),
      repeated("{{ ", 1) + repeated("(", 5000),
      "{{ " + repeated("[", 5000),
      "{{ " + repeated("not ", 5000, "1 }}"),
      "{{ " + repeated("-", 5000, "1 }}"),
      "{{ 1" + repeated(" + 1", 5000, " }}"),
      "{{ x" + repeated(".a", 5000, " }}"),
      "{{ x" + repeated("|e", 5000, " }}"),
      "{{ 1" + repeated(" if 1 else 1", 5000, " }}"),
      repeated("{% if 1 %}", 5000),
      repeated("{% for x in y %}", 5000),
      repeated("{% macro m() %}", 5000),
      "{% if x %}" + repeated("{% elif a %}{% set b = c %}", 5000),
  };
  for (const auto& source : sources) {
    SCOPED_TRACE(source.substr(0, 100));
    if (source == repeated("(", 5000)) {
      EXPECT_EQ(render(source), source);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    const Error e = error_of(source);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_TRUE(e.kind() == Kind::resource || e.kind() == Kind::bad_data) << e.what();
    EXPECT_LT(std::string(e.what()).size(), 300u);
    EXPECT_LT(seconds.count(), 60) << e.what();
  }
}

TEST(ChatTemplate, MacrosMayRecurseAsDeepAsInPython) {
  const std::string source =
      "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ m(150) "
      "}}";
  EXPECT_EQ(render(source), "end");
}

// Bytes at random, and templates with bytes changed, end in text or in an Error.
TEST(ChatTemplate, AnyBytesAreSafe) {
  const Json file = Json::parse(
      read_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/chat_templates/snippets.json"),
      "snippets.json");
  std::mt19937 random(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const std::string pieces[] = {"{{", "}}", "{%", "%}",  "{#", "#}",    "-",   "(",    "[",  "'",
                                "\"", "|",  ".",  "for", "if", "endif", "set", "\xC3", "\\", "\n"};
  size_t rendered = 0;
  for (const Json& s : file.at("snippets").as_array()) {
    for (int round = 0; round < 6; ++round) {
      std::string source = s.at("template").as_string();
      for (size_t n = 1 + below(4); n > 0; --n) {
        const size_t at = below(source.size() + 1);
        if (below(2))
          source.insert(at, pieces[below(std::size(pieces))]);
        else
          source.erase(at, 1 + below(8));
      }
      try {
        render(source, file.at("context"), LocalTime{});
        ++rendered;
      } catch (const Error&) {
      }
    }
  }
  EXPECT_GT(rendered, 50u);
}

TEST(ChatTemplate, LoadsWhatAModelFolderHas) {
  const test::TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    fs::create_directories((folder.path() / name).parent_path());
    write_file_atomic(folder.path() / name, text);
    return folder.path() / name;
  };
  const Json messages = Json::array();
  EXPECT_FALSE(ChatTemplate::present(folder.path()));
  EXPECT_THROW(ChatTemplate::load(folder.path()), Error);
  const auto config = write("tokenizer_config.json", R"({"bos_token": "<s>",
      "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null, "add_bos_token": true,
      "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}"})");
  EXPECT_TRUE(ChatTemplate::present(folder.path()));
  EXPECT_EQ(ChatTemplate::load(folder.path()).render(messages), "<s></s>");
  EXPECT_EQ(ChatTemplate::load(config).render(messages), "<s></s>");
  EXPECT_EQ(ChatTemplate::load(folder.path())
                .render(messages, {.variables = Json::parse(R"({"bos_token": "B"})")}),
            "B</s>");
  write("special_tokens_map.json", R"({"pad_token": "<p>", "bos_token": "other"})");
  EXPECT_EQ(ChatTemplate::load(folder.path()).render(messages), "<s></s><p>");
  write("chat_template.jinja", "jinja{{ eos_token }}\n");
  EXPECT_EQ(ChatTemplate::load(folder.path()).render(messages), "jinja</s>");
  EXPECT_EQ(ChatTemplate::load(folder.path() / "chat_template.jinja").render(messages), "jinja");
  write("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(ChatTemplate::load(folder.path(), true).render(messages), "tools");
  EXPECT_EQ(ChatTemplate::load(folder.path(), false).render(messages), "jinja</s>");

  const Json two = Json::parse(R"({"chat_template": [{"name": "default", "template": "d"},
                                                     {"name": "tool_use", "template": "t"}]})");
  EXPECT_EQ(ChatTemplate::from_config(two).render(messages), "d");
  EXPECT_EQ(ChatTemplate::from_config(two, true).render(messages), "t");
  const Json other = Json::parse(R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THROW(ChatTemplate::from_config(other), Error);
}

TEST(LocalTime, ReadsIso8601) {
  const auto t = LocalTime::parse("2024-07-26T13:05:09.25+02:00");
  EXPECT_EQ(t.year, 2024);
  EXPECT_EQ(t.month, 7);
  EXPECT_EQ(t.day, 26);
  EXPECT_EQ(t.hour, 13);
  EXPECT_EQ(t.minute, 5);
  EXPECT_EQ(t.second, 9);
  EXPECT_EQ(t.microsecond, 250'000);
  EXPECT_EQ(LocalTime::parse("2024-02-29").day, 29);
  EXPECT_EQ(LocalTime::parse("2024-02-29 01:02Z").minute, 2);
  for (const char* wrong : {"", "now", "2023-02-29", "2024-13-01", "2024-1-1", "2024-07-26T25:00",
                            "2024-07-26T13:05:09x", "0000-01-01", "2024-07-26T13:05:09."})
    EXPECT_THROW(LocalTime::parse(wrong), Error) << wrong;
}

}  // namespace
}  // namespace lmxlab::data
