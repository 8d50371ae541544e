#include "lmxlab/data/conversation.h"

#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <functional>

namespace lmxlab::data {
namespace {

ChatTemplate chat(const std::string& content = "m.content") {
  return ChatTemplate::parse(
      "{% for m in messages %}<{{ m.role }}>{{ " + content +
      " }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}");
}

Kind kind_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind();
  }
  return Kind::internal;
}

TEST(Conversation, GivesOnlyWhatIsNew) {
  Conversation c(chat());
  c.add("user", "Hi");
  auto p = c.prompt();
  EXPECT_TRUE(p.whole);
  EXPECT_EQ(p.text, "<user>Hi</><assistant>");
  c.answered("Hello!");
  c.add("user", "And?");
  p = c.prompt();
  EXPECT_FALSE(p.whole);
  EXPECT_EQ(p.text, "</><user>And?</><assistant>");
  c.answered("That.");
  c.forget();
  c.add("user", "Ok");
  p = c.prompt();
  EXPECT_TRUE(p.whole);
  EXPECT_EQ(
      p.text,
      "<user>Hi</><assistant>Hello!</><user>And?</><assistant>That.</><user>Ok</><assistant>");
  EXPECT_EQ(c.messages().size(), 5u);
}

TEST(Conversation, IsWholeWhereTheTemplateChangesWhatWas) {
  Conversation c(chat("m.content | trim"));
  c.add("user", "Hi");
  c.prompt();
  c.answered("Hello!  ");  // the template cuts what the model has read
  c.add("user", "And?");
  const auto p = c.prompt();
  EXPECT_TRUE(p.whole);
  EXPECT_EQ(p.text, "<user>Hi</><assistant>Hello!</><user>And?</><assistant>");
}

TEST(Conversation, TakesMessagesBack) {
  Conversation c(chat());
  c.add("user", "Hi");
  c.prompt();
  c.answered("Hello!");
  c.keep(1);
  const auto p = c.prompt();  // another answer to the same question
  EXPECT_TRUE(p.whole);
  EXPECT_EQ(p.text, "<user>Hi</><assistant>");
  EXPECT_EQ(kind_of([&] { c.keep(2); }), Kind::usage);
}

TEST(Conversation, AFailedRenderingChangesNothing) {
  Conversation c(ChatTemplate::parse(
      "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no') }}{% endif %}"
      "{{ m.content }}.{% endfor %}"));
  c.add("user", "a");
  c.prompt();
  c.answered("");
  c.add("bad", "b");
  EXPECT_EQ(kind_of([&] { c.prompt(); }), Kind::bad_data);
  c.keep(2);
  const auto p = c.prompt();
  EXPECT_FALSE(p.whole);
  EXPECT_EQ(p.text, ".");
}

TEST(Conversation, SavesAndLoads) {
  const test::TemporaryFolder folder;
  Conversation c(chat(), {.tools = Json::parse(R"([{"name": "add"}])"),
                          .variables = Json::parse(R"({"x": 1.0})")});
  c.add(Json::parse(R"({"role": "user", "content": [{"type": "text", "text": "é"}]})"));
  c.add("assistant", "b");
  c.save(folder / "chat.json");
  const auto again = Conversation::load(folder / "chat.json", chat());
  EXPECT_EQ(again.to_json().dump(), c.to_json().dump());
  EXPECT_EQ(again.messages(), c.messages());
  const auto bare = Conversation::from_json(c.messages(), chat());
  EXPECT_EQ(bare.messages(), c.messages());
  for (const char* wrong :
       {"1", "{}", R"({"version": 1})", R"({"version": 1, "messages": [1]})",
        R"([{"content": "a"}])", R"({"version": 1, "messages": [], "tools": 1})",
        R"({"version": 1, "messages": [], "variables": []})",
        R"({"version": "1", "messages": []})"})
    EXPECT_EQ(kind_of([&] { Conversation::from_json(Json::parse(wrong), chat()); }), Kind::bad_data)
        << wrong;
  EXPECT_EQ(kind_of([&] {
              Conversation::from_json(Json::parse(R"({"version": 2, "messages": []})"), chat());
            }),
            Kind::unsupported);
  EXPECT_EQ(kind_of([&] { Conversation::load(folder / "none.json", chat()); }), Kind::not_found);
  EXPECT_EQ(kind_of([&] { c.add(Json("text")); }), Kind::usage);
}

}  // namespace
}  // namespace lmxlab::data
