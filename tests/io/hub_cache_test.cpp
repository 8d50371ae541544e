#include "lmxlab/io/hub_cache.h"

#include "lmxlab/base/text.h"
#include "tests/support/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace lmxlab::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kCommit(40, 'c');

template <class F>
std::string error_of(Kind kind, F&& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(kind_name(e.kind()), kind_name(kind)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(HubName, TheFormsThatAHubHas) {
  const auto plain = hub_name("org/name");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->repository, "org/name");
  EXPECT_EQ(plain->file, "");
  EXPECT_EQ(plain->revision, "main");
  const auto file = hub_name("Org-1/n.a_me-0.5B:Q4/x.gguf");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->repository, "Org-1/n.a_me-0.5B");
  EXPECT_EQ(file->file, "Q4/x.gguf");
  EXPECT_EQ(file->text(), "Org-1/n.a_me-0.5B:Q4/x.gguf");
}

TEST(HubName, EverythingElseIsNone) {
  for (const char* text : {"",
                           "name",
                           "/org/name",
                           "org/",
                           "/name",
                           "org/name/more",
                           "./name",
                           "../name",
                           "~/name",
                           "org/..",
                           "org/na..me",
                           "org/na--me",
                           "-org/name",
                           "org/name-",
                           "org/.name",
                           "org/na me",
                           "org/name.git",
                           "org/name:",
                           "org/name:/etc/passwd",
                           "org/name:../x",
                           "org/name:a//b",
                           "org/name:a\nb",
                           "https://huggingface.co/org/name",
                           "org\\name",
                           "org/n\xc3\xa4me"})
    EXPECT_FALSE(hub_name(text)) << text;
  EXPECT_FALSE(hub_name("org/" + std::string(97, 'a')));
}

TEST(UnsafePath, WhatLeadsOutside) {
  for (const char* text :
       {"/etc/passwd", "..", "../x", "a/../x", "a/..", "./x", "a//b", "a/", "a/./b"})
    EXPECT_EQ(unsafe_path(text), "leads outside") << text;
  for (const char* text : {"a\nb", "a\x1b[2Jb", "a\x7f",
                           "a\xc2\x9b"
                           "2J"})
    EXPECT_EQ(unsafe_path(text), "has control characters") << text;
  EXPECT_EQ(unsafe_path(std::string_view("a\0b", 3)), "has control characters");
  EXPECT_EQ(unsafe_path("a\xff"), "is no UTF-8");
  EXPECT_EQ(unsafe_path(""), "is empty");
  EXPECT_EQ(unsafe_path(std::string(2000, 'a')), "is too long");
  for (const char* text : {"a", "a/b.c", "..a", "a..", "...", "\xc3\xa4", "a b"})
    EXPECT_EQ(unsafe_path(text), "") << text;
}

Json entry(const std::string& name) {
  return Json::object(
      {{"rfilename", Json(name)}, {"size", Json(3)}, {"blobId", Json(std::string(40, 'b'))}});
}
Json answer(Json::Array files) {
  return Json::object({{"sha", Json(kCommit)}, {"siblings", Json(std::move(files))}});
}

TEST(Listing, IsRead) {
  Json large = entry("model.safetensors");
  large["lfs"] = Json::object({{"sha256", Json(std::string(64, 'a'))}, {"size", Json(1000)}});
  Json small = entry("config.json");
  small["lfs"] = Json();
  const auto got = read_listing(answer({large, small}));
  EXPECT_EQ(got.commit, kCommit);
  ASSERT_EQ(got.files.size(), 2u);
  EXPECT_EQ(got.files[0].bytes, 1000);
  EXPECT_EQ(got.files[0].etag(), std::string(64, 'a'));
  EXPECT_EQ(got.files[1].bytes, 3);
  EXPECT_EQ(got.files[1].etag(), std::string(40, 'b'));
}

TEST(Listing, HostileOnesAreBadData) {
  for (const char* name : {"../../x", "/etc/x", "a/../../x", "x\x1b[0m", ""})
    EXPECT_THAT(error_of(Kind::bad_data, [&] { read_listing(answer({entry(name)})); }),
                HasSubstr("file name"));
  const auto with = [&](const char* key, Json value) {
    Json file = entry("a");
    file[key] = std::move(value);
    error_of(Kind::bad_data, [&] { read_listing(answer({file})); });
  };
  with("blobId", Json("../../../x"));
  with("blobId", Json(std::string(40, 'B')));
  with("blobId", Json());
  with("size", Json(-1));
  with("size", Json(int64_t(1) << 60));
  with("size", Json("many"));
  with("lfs", Json::object({{"sha256", Json("x/../../y")}, {"size", Json(1)}}));
  with("rfilename", Json(7));
  for (const auto& text : {"{}", "[]", R"({"sha": "../x", "siblings": []})", R"({"sha": 1})"})
    error_of(Kind::bad_data, [&] { read_listing(Json::parse(text)); });
}

std::vector<std::string> chosen(const std::vector<std::string>& names, const std::string& file = {},
                                HubPart part = HubPart::whole) {
  HubListing listing{kCommit, {}};
  for (const auto& n : names) listing.files.push_back({.name = n, .bytes = 1'200'000'000});
  std::vector<std::string> out;
  for (const auto& f : choose_files({"org/name", file}, listing, part)) out.push_back(f.name);
  return out;
}

TEST(ChooseFiles, WhatMakesAModelTheWeightsLast) {
  const std::vector<std::string> names{"model.safetensors",
                                       ".gitattributes",
                                       "README.md",
                                       "config.json",
                                       "tokenizer.json",
                                       "pytorch_model.bin",
                                       "model.fp16.safetensors",
                                       "onnx/model.onnx",
                                       "tf_model.h5",
                                       "onnx/config.json",
                                       "chat_template.jinja",
                                       "additional_chat_templates/tool_use.jinja",
                                       "unet/model.safetensors",
                                       "x.gguf"};
  EXPECT_THAT(chosen(names),
              ElementsAre("config.json", "tokenizer.json", "chat_template.jinja",
                          "additional_chat_templates/tool_use.jinja", "model.safetensors"));
  EXPECT_THAT(chosen(names, "", HubPart::texts),
              ElementsAre("config.json", "tokenizer.json", "chat_template.jinja",
                          "additional_chat_templates/tool_use.jinja"));
  EXPECT_THAT(chosen(names, "onnx/model.onnx"), ElementsAre("onnx/model.onnx"));
}

TEST(ChooseFiles, ShardsAndTheirIndex) {
  EXPECT_THAT(
      chosen({"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
              "model.safetensors", "consolidated.safetensors", "model.safetensors.index.json",
              "pytorch_model.bin.index.json"}),
      ElementsAre("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
                  "model-00002-of-00002.safetensors"));
  EXPECT_THAT(chosen({"adapter_config.json", "adapter_model.safetensors"}),
              ElementsAre("adapter_config.json", "adapter_model.safetensors"));
}

TEST(ChooseFiles, ErrorsTeach) {
  const auto gguf = error_of(Kind::usage, [] {
    chosen({"README.md", "a-Q4_0.gguf", "a-Q8_0.gguf"});
  });
  EXPECT_THAT(gguf, HasSubstr("org/name:a-Q4_0.gguf (1.20 GB), org/name:a-Q8_0.gguf (1.20 GB)"));
  EXPECT_THAT(error_of(Kind::unsupported,
                       [] {
                         chosen({"config.json", "pytorch_model.bin"});
                       }),
              HasSubstr("*.safetensors"));
  EXPECT_THAT(error_of(Kind::not_found, [] { chosen({"a-Q4_0.gguf"}, "a-Q5_0.gguf"); }),
              HasSubstr("org/name:a-Q4_0.gguf (1.20 GB)"));
  EXPECT_THAT(error_of(Kind::not_found, [] { chosen({"config.json"}, "confg.json"); }),
              HasSubstr("did you mean \"config.json\"?"));
}

// As huggingface_hub lays it out.
class Kept : public testing::Test {
 protected:
  void put(const std::string& name, const std::string& content) {
    const auto blob = "blob-of-" + std::to_string(++blobs_);
    const auto link = top / "snapshots" / kCommit / name;
    make_directory(top / "blobs");
    make_directory(link.parent_path());
    write_file_atomic(top / "blobs" / blob, content);
    fs::create_symlink("../../blobs/" + blob, link);
  }
  void refer(const std::string& revision) {
    make_directory((top / "refs" / revision).parent_path());
    write_file_atomic(top / "refs" / revision, kCommit);
  }
  bool found(const std::string& text, HubPart part = HubPart::whole,
             const std::string& revision = "main") {
    auto name = *hub_name(text);
    name.revision = revision;
    return HubCache(folder.path(), "org/name").find(name, part).has_value();
  }

  const test::TemporaryFolder folder;
  const fs::path top = folder / "models--org--name";

 private:
  int blobs_ = 0;
};

TEST_F(Kept, IsFoundWhenAllOfItIsThere) {
  EXPECT_FALSE(found("org/name"));
  put("config.json", "{}");
  refer("main");
  EXPECT_FALSE(found("org/name", HubPart::texts));
  put("tokenizer.json", "{}");
  EXPECT_TRUE(found("org/name", HubPart::texts));
  EXPECT_FALSE(found("org/name"));
  put("model.safetensors", "weights");
  EXPECT_TRUE(found("org/name"));
  EXPECT_TRUE(found("org/name:config.json"));
  EXPECT_FALSE(found("org/name:x.gguf"));
  EXPECT_FALSE(found("org/name", HubPart::whole, "v2"));
  EXPECT_TRUE(found("org/name", HubPart::whole, kCommit));
  refer("refs/pr/1");
  EXPECT_TRUE(found("org/name", HubPart::whole, "refs/pr/1"));
  fs::remove(top / "blobs/blob-of-3");  // a link without its blob
  EXPECT_FALSE(found("org/name"));
}

TEST_F(Kept, OfShardsAllMustBeThere) {
  put("config.json", "{}");
  put("tokenizer.json", "{}");
  put("model.safetensors.index.json",
      R"({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})");
  put("m-1.safetensors", "");
  refer("main");
  EXPECT_FALSE(found("org/name"));
  put("m-2.safetensors", "");
  EXPECT_TRUE(found("org/name"));
}

TEST_F(Kept, DamagedOnesAreNotThere) {
  put("config.json", "{}");
  put("tokenizer.json", "{}");
  put("model.safetensors.index.json", R"({"weight_map": {"a": "../../../secret"}})");
  write_file_atomic(folder / "secret", "");
  refer("main");
  EXPECT_FALSE(found("org/name"));
  write_file_atomic(top / "refs/main", "../../../..");
  EXPECT_FALSE(found("org/name"));
  EXPECT_FALSE(found("org/name", HubPart::texts));
}

}  // namespace
}  // namespace lmxlab::io
