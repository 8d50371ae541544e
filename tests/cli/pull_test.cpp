// pull, and hub names where a model is asked for, against a server on this machine.
#include "tests/cli/program.h"
#include "tests/support/hub_server.h"

#include <thread>

namespace lmxlab::test {
namespace {

class Pull : public testing::Test {
 protected:
  // A small model with a tokenizer, made once.
  static void SetUpTestSuite() {
    made_ = new TemporaryFolder;
    const auto done = lmxlab_run({"train", "--quiet", "--out", (*made_ / "run").string(), "--steps",
                                  "1", "--set", "model.preset=gpt-tiny", "--set",
                                  "data.tokenizer=byte", "--set", "run.eval_batches=1"});
    ASSERT_EQ(done.code, 0) << done.err;
    make_directory(*made_ / "bare");
    for (const char* name : {"config.json", "model.safetensors"})
      fs::copy_file(*made_ / "run" / name, *made_ / "bare" / name);
    const auto packed =
        lmxlab_run({"convert", (*made_ / "bare").string(), (*made_ / "x.gguf").string(), "--format",
                    "gguf", "--dtype", "q8_0"});
    ASSERT_EQ(packed.code, 0) << packed.err;
  }
  static void TearDownTestSuite() { delete std::exchange(made_, nullptr); }

  Pull() {
    for (const auto& entry : fs::directory_iterator(*made_ / "run"))
      if (entry.is_regular_file()) {
        const auto name = entry.path().filename().string();
        hub.files[name] = {read_file(entry.path()), name == "model.safetensors"};
      }
    hub.files["a.gguf"] = {"GGUF", true};
    how.environment = {{"HF_HOME", folder.path().string()},
                       {"HF_ENDPOINT", hub.url()},
                       {"HF_HUB_OFFLINE", ""},
                       {"HF_HUB_CACHE", ""},
                       {"HF_TOKEN", ""},
                       {"no_proxy", "127.0.0.1"}};
    how.folder = folder.path();
  }
  static std::string gguf() { return read_file(*made_ / "x.gguf"); }
  Outcome go(const std::vector<std::string>& arguments) { return lmxlab_run(arguments, how); }
  void slowly(const std::string& part, int milliseconds) {
    hub.instead = [this, part, milliseconds](const HttpRequest& r) -> std::optional<HttpReply> {
      const auto name = r.path.substr(r.path.rfind('/') + 1);
      if (name != part) return std::nullopt;
      auto reply = HubServer::content(r, hub.files.at(name).content);
      reply.pause = std::chrono::milliseconds(milliseconds);
      return reply;
    };
  }

  const TemporaryFolder folder;
  HubServer hub;
  Spawn how;

 private:
  static inline TemporaryFolder* made_ = nullptr;
};

TEST_F(Pull, SaysWhereItIs) {
  const auto plain = go({"pull", "org/name"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_NE(plain.err.find("fetching org/name"), std::string::npos) << plain.err;
  const Json got = json_of(go({"pull", "org/name", "--json"}));
  const fs::path path = got.at("path").as_string();
  EXPECT_EQ(path, folder / "hub" / "models--org--name/snapshots" / hub.commit);
  EXPECT_NE(plain.out.find(path.string()), std::string::npos) << plain.out;
  EXPECT_EQ(read_file(path / "model.safetensors"), hub.files.at("model.safetensors").content);
  int64_t bytes = 0, files = 0;
  for (const auto& e : fs::directory_iterator(path))
    ++files, bytes += static_cast<int64_t>(fs::file_size(e));
  EXPECT_EQ(got.at("files").as_integer(), files);
  EXPECT_EQ(got.at("bytes").as_integer(), bytes);
  EXPECT_FALSE(fs::exists(path / "recipe.toml"));
  EXPECT_EQ(go({"pull", "org/name", "--quiet"}).err, "");
  const Json one = json_of(go({"pull", "org/name", "--file", "recipe.toml", "--json"}));
  EXPECT_EQ(one.at("path").as_string(), (path / "recipe.toml").string());
  EXPECT_EQ(one.at("files").as_integer(), 1);
  const Json at = json_of(go({"pull", "org/name", "--revision", hub.commit, "--json"}));
  EXPECT_EQ(at.at("path").as_string(), path.string());
}

TEST_F(Pull, AHubNameIsAModel) {
  const std::vector<std::string> generate{
      "generate", "org/name", "--prompt", "ROMEO:", "--max-tokens", "4", "--json"};
  const auto first = go(generate);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("fetching org/name"), std::string::npos) << first.err;
  EXPECT_EQ(json_of(first).at("generated_tokens").as_integer(), 4);
  hub.server().forget();
  const auto second = go(generate);
  EXPECT_EQ(json_of(second).at("tokens"), json_of(first).at("tokens"));
  EXPECT_TRUE(hub.server().requests().empty());
  EXPECT_EQ(second.err.find("fetching"), std::string::npos);
  hub.server().stop();
  EXPECT_EQ(go(generate).code, 0);
  EXPECT_EQ(go({"pull", "org/name"}).code, 0);
  how.environment.emplace_back("HF_HUB_OFFLINE", "1");
  how.environment.erase(how.environment.begin() + 2);
  EXPECT_EQ(go(generate).code, 0);
}

TEST_F(Pull, QuestionsWithoutWeightsFetchNone) {
  EXPECT_EQ(json_of(go({"info", "org/name", "--json"})).at("config").at("family").as_string(),
            "gpt");
  EXPECT_EQ(json_of(go({"tokenize", "org/name", "--text", "abc", "--json"})).at("ids").size(), 3u);
  EXPECT_TRUE(hub.server().requests("model.safetensors").empty());
  EXPECT_EQ(hub.server().requests("/api/").size(), 1u);
}

TEST_F(Pull, AFileOfARepositoryIsAModelToo) {
  const auto file = folder / "hub" / "models--org--name/snapshots" / hub.commit / "a.gguf";
  expect_error({"info", "org/name:a.gguf"}, 4, "bad_data", {file.string()}, how);
  EXPECT_EQ(hub.server().requests("a.gguf").size(), 1u);
  expect_error({"info", "org/name:b.gguf"}, 3, "not_found", {"org/name:a.gguf"}, how);
  expect_error({"info", "org/name:config.json"}, 2, "usage", {"GGUF"}, how);
}

TEST_F(Pull, WhatExistsHereIsNotAskedFor) {
  make_directory(folder / "org" / "name");
  expect_error({"info", "org/name"}, 3, "not_found", {"config.json"}, how);
  fs::copy_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/models/llama_gqa/config.json",
                folder / "org" / "name" / "config.json");
  EXPECT_EQ(go({"info", "org/name"}).code, 0);
  for (const char* name : {"runs/run-7", "a/b/c", "./a/b", "x/model.gguf", "llama-tinny"})
    expect_error({"info", name}, 3, "not_found", {name}, how);
  EXPECT_TRUE(hub.server().requests().empty());
}

TEST_F(Pull, WhatDoesNotFitIsRefusedBeforeItsWeights) {
  how.address_space = rlim_t{2} << 30;
  hub.files["model.safetensors"].claims = int64_t{3} << 30;
  const std::vector<std::string> says{"org/name does not fit", "it needs 3.", "ulimit -v leaves",
                                      "pull org/name --no-plan"};
  expect_error({"pull", "org/name"}, 7, "resource", says, how);
  expect_error({"generate", "org/name", "--prompt", "a"}, 7, "resource", says, how);
  EXPECT_TRUE(hub.server().requests("model.safetensors").empty());
  EXPECT_TRUE(hub.server().requests("tokenizer.json").empty());
  EXPECT_EQ(hub.server().requests("config.json").size(), 1u);
  hub.files["config.json"].content = R"({"model_type": "of another program"})";
  expect_error({"pull", "org/name"}, 7, "resource", says, how);
  // Its parts, its texts and what is asked for all the same are fetched.
  EXPECT_EQ(go({"pull", "org/name", "--file", "tokenizer.json"}).code, 0);
  expect_error({"pull", "org/name", "--no-plan"}, 4, "bad_data", {"model.safetensors"}, how);
  EXPECT_FALSE(hub.server().requests("model.safetensors").empty());
}

TEST_F(Pull, OfAGgufFileTheHeaderIsAskedFor) {
  how.address_space = rlim_t{2} << 30;
  hub.files["a-q8.gguf"] = {gguf(), true, int64_t{3} << 30};
  hub.files["a-q6.gguf"] = {gguf(), true, int64_t{2} << 30};
  hub.files["a-q4.gguf"] = {gguf(), true};
  hub.files["a-q2.gguf"] = {"GGUF", true};
  hub.files["mmproj.gguf"] = {"GGUF", true, int64_t{1} << 20};
  const std::vector<std::string> says{
      "org/name:a-q8.gguf does not fit",
      "1) a smaller file of the same repository, org/name:a-q4.gguf"};
  expect_error({"pull", "org/name:a-q8.gguf"}, 7, "resource", says, how);
  for (const auto& r : hub.server().requests("q8.gguf"))
    EXPECT_EQ(r.header("range"), "bytes=0-1048575");
  EXPECT_EQ(hub.server().requests("q8.gguf").size(), 2u) << "once plainly, once for JSON";
  for (const auto& e : fs::recursive_directory_iterator(folder.path()))
    EXPECT_FALSE(e.is_regular_file()) << e.path();
  // A header that is longer than what was asked for, a server that knows no parts of files.
  hub.files["a-q8.gguf"].content.replace(8, 8, std::string(8, '\x7f'));
  expect_error({"pull", "org/name:a-q8.gguf"}, 7, "resource", says, how);
  hub.instead = [](const HttpRequest& r) -> std::optional<HttpReply> {
    if (r.path.find("q8.gguf") == std::string::npos) return std::nullopt;
    return HttpReply{.body = std::string(5 << 20, 'x')};
  };
  expect_error({"pull", "org/name:a-q8.gguf"}, 7, "resource", says, how);
  // The first advice is taken.
  EXPECT_EQ(go({"pull", "org/name:a-q4.gguf"}).code, 0);
  EXPECT_EQ(go({"info", "org/name:a-q4.gguf"}).code, 0);
}

TEST_F(Pull, ErrorsAndTheirCodes) {
  expect_error({"pull", "name"}, 2, "usage", {"org/name"}, how);
  expect_error({"pull", "org/../name"}, 2, "usage", {"org/name"}, how);
  expect_error({"pull", "org/name", "--file", "../x"}, 2, "usage", {"--file"}, how);
  expect_error({"pull", "org/name:a", "--file", "b"}, 2, "usage", {"two files"}, how);
  expect_error({"pull", "org/other"}, 3, "not_found", {"org/other"}, how);
  expect_error({"info", "org/other"}, 3, "not_found", {"no repository org/other", "no folder"},
               how);
  expect_error({"info", "org/na--me"}, 3, "not_found", {"org/name:file.gguf"}, how);
  expect_error({"pull", "org/name", "--revision", "v2"}, 3, "not_found", {"v2"}, how);
  expect_error({"pull", "org/name", "--file", "absent"}, 3, "not_found", {"absent"}, how);
  hub.instead = [](const HttpRequest&) { return HttpReply{.status = 403}; };
  expect_error({"pull", "org/name"}, 7, "resource", {"HF_TOKEN", "terms"}, how);
  hub.instead = [&](const HttpRequest& r) -> std::optional<HttpReply> {
    if (r.path.find("config.json") == std::string::npos) return std::nullopt;
    return HttpReply{.body = std::string(hub.files.at("config.json").content.size(), ' ')};
  };
  expect_error({"pull", "org/name"}, 4, "bad_data", {"config.json", "checksum"}, how);
  how.environment[1].second = "ftp://x";
  expect_error({"pull", "org/name"}, 2, "usage", {"HF_ENDPOINT"}, how);
}

TEST_F(Pull, CtrlCKeepsWhatCame) {
  slowly("model.safetensors", 20);
  Child child(program(), {"pull", "org/name"}, how);
  const auto part = folder / "hub" / "models--org--name/blobs" /
                    (checksum(hub.files.at("model.safetensors").content, true) + ".incomplete");
  for (int i = 0; i < 1000; ++i) {
    std::error_code absent;
    if (fs::file_size(part, absent) > 30'000 && !absent) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  child.signal(SIGINT);
  const auto end = child.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  EXPECT_NE(end.err.find("interrupted"), std::string::npos) << end.err;
  const auto kept = fs::file_size(part);
  EXPECT_GT(kept, 0u);
  hub.instead = nullptr;
  hub.server().forget();
  EXPECT_EQ(go({"pull", "org/name"}).code, 0);
  ASSERT_EQ(hub.server().requests("model.safetensors").size(), 1u);
  EXPECT_EQ(hub.server().requests("model.safetensors")[0].header("range"),
            "bytes=" + std::to_string(kept) + "-");
}

TEST_F(Pull, KillNineKeepsItToo) {
  slowly("model.safetensors", 20);
  Child child(program(), {"pull", "org/name"}, how);
  for (int i = 0; i < 1000 && hub.server().requests("model.safetensors").empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  child.signal(SIGKILL);
  EXPECT_EQ(child.wait().signal, SIGKILL);
  hub.instead = nullptr;
  EXPECT_EQ(go({"generate", "org/name", "--prompt", "a", "--max-tokens", "1"}).code, 0);
}

TEST_F(Pull, TwoProcessesFetchABlobOnce) {
  slowly("model.safetensors", 10);
  Child one(program(), {"pull", "org/name"}, how), two(program(), {"pull", "org/name"}, how);
  const auto a = one.wait(), b = two.wait();
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(b.code, 0) << b.err;
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(hub.server().requests("model.safetensors").size(), 1u);
}

TEST_F(Pull, TheTokenIsReadAndNotShown) {
  how.environment[4].second = "hf_secret";
  hub.instead = [](const HttpRequest& r) -> std::optional<HttpReply> {
    if (r.header("authorization") == "Bearer hf_secret") return HttpReply{.status = 403};
    return std::nullopt;
  };
  const auto o = go({"pull", "org/name"});
  EXPECT_EQ(o.code, 7) << o.err;
  EXPECT_EQ((o.out + o.err).find("hf_secret"), std::string::npos);
}

#ifndef __APPLE__  // whose libcurl belongs to the system
TEST_F(Pull, WithoutLibcurlTheRestWorks) {
  for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4"})
    write_file_atomic(folder / name, "");
  how.environment.emplace_back("LD_LIBRARY_PATH", folder.path().string());
  expect_error({"pull", "org/name"}, 7, "resource", {"libcurl"}, how);
  EXPECT_EQ(go({"list"}).code, 0);
}
#endif

TEST_F(Pull, RecipesTakeHubNames) {
  const auto o = go({"train", "--quiet", "--steps", "1", "--set", "model.preset=org/name", "--set",
                     "data.tokenizer=org/name", "--set", "run.context=32", "--set",
                     "run.eval_batches=1", "--out", (folder / "more").string()});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_TRUE(fs::exists(folder / "more" / "model.safetensors"));
}

}  // namespace
}  // namespace lmxlab::test
