// Pulls from a server on this machine that plays the hub, well and badly.
#include "lmxlab/io/hub.h"

#include "lmxlab/base/random.h"
#include "lmxlab/base/text.h"
#include "tests/support/hub_server.h"
#include "tests/support/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <thread>

namespace lmxlab::io {
namespace {

using test::HttpReply;
using test::HttpRequest;
using test::HubServer;
using test::LocalServer;
using testing::HasSubstr;

constexpr size_t kLarge = 300'000;
const std::string kWeights = "/model.safetensors";

class Hub : public testing::Test {
 protected:
  Hub() {
    ::setenv("no_proxy", "127.0.0.1", 1);
    HostRandom random(7);
    for (size_t i = 0; i < kLarge; ++i) weights += static_cast<char>(random.below(256));
    hub.files = {{"config.json", {"{\"model_type\": \"llama\"}"}},
                 {"tokenizer.json", {"{}"}},
                 {"README.md", {"# A model"}},
                 {"empty.txt", {""}},
                 {"pytorch_model.bin", {weights, true}},
                 {"model.safetensors", {weights, true}}};
    settings.cache = folder / "hub";
    settings.endpoint = hub.url();
    settings.first_wait_s = 0.005;
    events.note = [this](const std::string& text) { notes.push_back(text); };
    events.plan = [this](const HubPlan& p) { plan = p; };
  }

  Pulled go(const std::string& name = "org/name", HubPart part = HubPart::whole) {
    return pull(*hub_name(name), part, settings, events);
  }
  std::string error(Kind kind, const std::string& name = "org/name",
                    const std::string& revision = "main") {
    auto wanted = *hub_name(name);
    wanted.revision = revision;
    try {
      pull(wanted, HubPart::whole, settings, events);
    } catch (const Error& e) {
      EXPECT_EQ(kind_name(e.kind()), kind_name(kind)) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "no error";
    return {};
  }
  // What is answered to a request whose path has `part` in it: the n-th entry the n-th time, the
  // last one from then on; nothing: as usual.
  using Answer = std::function<std::optional<HttpReply>(const HttpRequest&)>;
  void answer(const std::string& part, std::vector<Answer> with) {
    hub.instead = [part, with = std::move(with),
                   n = size_t{0}](const HttpRequest& r) mutable -> std::optional<HttpReply> {
      if (r.path.find(part) == std::string::npos) return std::nullopt;
      const auto& one = with[std::min(n++, with.size() - 1)];
      return one ? one(r) : std::nullopt;
    };
  }
  static Answer always(HttpReply reply) {
    return [reply](const HttpRequest&) { return reply; };
  }
  // The right content, cut after so many bytes.
  Answer cut(size_t after) {
    return [this, after](const HttpRequest& r) {
      auto reply = HubServer::content(r, weights);
      reply.cut_after = after;
      return reply;
    };
  }
  std::string etag() const { return test::checksum(weights, true); }
  fs::path blobs() const { return settings.cache / "models--org--name/blobs"; }
  std::vector<std::string> files_below(const fs::path& top) const {
    std::vector<std::string> out;
    if (fs::exists(top))
      for (const auto& e : fs::recursive_directory_iterator(top))
        if (!e.is_directory()) out.push_back(fs::relative(e.path(), top).string());
    std::sort(out.begin(), out.end());
    return out;
  }

  const test::TemporaryFolder folder;
  std::string weights;
  HubServer hub;
  HubSettings settings;
  HubEvents events;
  HubPlan plan;
  std::vector<std::string> notes;
};

TEST_F(Hub, LaysTheCacheOutAsOthersDo) {
  const auto got = go();
  const auto top = settings.cache / "models--org--name";
  EXPECT_EQ(got.path, top / "snapshots" / hub.commit);
  EXPECT_EQ(got.files, 3);
  EXPECT_EQ(got.bytes, int64_t(kLarge + hub.files["config.json"].content.size() + 2));
  EXPECT_EQ(plan.missing_bytes, got.bytes);
  EXPECT_EQ(read_file(top / "refs/main"), hub.commit);
  EXPECT_EQ(read_file(got.path / "model.safetensors"), weights);
  EXPECT_EQ(fs::read_symlink(got.path / "model.safetensors"), "../../blobs/" + etag());
  EXPECT_EQ(fs::read_symlink(got.path / "tokenizer.json"),
            "../../blobs/" + test::checksum("{}", false));
  EXPECT_EQ(files_below(blobs()).size(), 3u);
  EXPECT_TRUE(hub.server().requests("pytorch_model.bin").empty());
  EXPECT_TRUE(hub.server().requests("README").empty());
  EXPECT_TRUE(notes.empty());
}

TEST_F(Hub, OneFileAlsoInAFolderAlsoAnEmptyOne) {
  hub.files["Q4/x y.gguf"] = {"GGUF", true};
  const auto got = go("org/name:Q4/x y.gguf");
  EXPECT_EQ(got.path.filename(), "x y.gguf");
  EXPECT_EQ(read_file(got.path), "GGUF");
  EXPECT_EQ(fs::read_symlink(got.path), "../../../blobs/" + test::checksum("GGUF", true));
  EXPECT_EQ(hub.server().requests("/Q4/x%20y.gguf").size(), 1u);
  EXPECT_EQ(read_file(go("org/name:empty.txt").path), "");
  EXPECT_EQ(go("org/name:README.md").files, 1);
}

TEST_F(Hub, WhoRefusesTheWeightsIsAskedBeforeThem) {
  hub.files["x.gguf"] = {"GGUF", true};
  events.weights = [&](const HubWeights& w) {
    EXPECT_EQ(w.bytes, int64_t{kLarge});
    EXPECT_EQ(read_file(w.config), hub.files["config.json"].content);
    ASSERT_EQ(w.ggufs.size(), 1u);
    EXPECT_EQ(w.ggufs[0].name, "x.gguf");
    EXPECT_FALSE(w.head);
    throw Error(Kind::resource, "too large");
  };
  EXPECT_THAT(error(Kind::resource), HasSubstr("too large"));
  EXPECT_EQ(hub.server().requests("/resolve/").size(), 1u) << "the config";
  EXPECT_FALSE(fs::exists(settings.cache / "models--org--name/refs/main"));
  EXPECT_EQ(go("org/name", HubPart::texts).files, 2) << "no weights";
  EXPECT_EQ(go("org/name:model.safetensors").files, 1) << "a part of a model";
  EXPECT_EQ(go().files, 3) << "all is here";
}

TEST_F(Hub, TheHeadOfAFileIsAskedForInPieces) {
  const size_t header = 5000;
  auto file = "GGUF" + std::string("\3\0\0\0", 4) + std::string(8, '\0') + "\1" +
              std::string(7, '\0') + "\1" + std::string(7, '\0') + "k" + "\x8" +
              std::string(3, '\0');
  const uint64_t length = header - file.size() - 8;
  file.append(reinterpret_cast<const char*>(&length), sizeof length);
  file += std::string(length, 'v') + weights;
  hub.files["x.gguf"] = {file, true};
  int64_t wanted = 0;
  std::optional<size_t> got;
  events.weights = [&](const HubWeights& w) {
    EXPECT_EQ(w.bytes, int64_t(file.size()));
    EXPECT_TRUE(w.config.empty());
    EXPECT_THROW(w.head(1000), Error);
    EXPECT_THROW(w.head(1000), Error) << "and nothing is asked for again";
    const auto head = w.head(wanted);
    got = head ? std::optional(head->at("k").as_string().size()) : std::nullopt;
    throw Error(Kind::resource, "enough");
  };
  wanted = int64_t(header);
  EXPECT_THAT(error(Kind::resource, "org/name:x.gguf"), HasSubstr("enough"));
  EXPECT_EQ(got, length);
  const auto asked = hub.server().requests("x.gguf");
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_EQ(asked[0].header("range"), "bytes=0-999");
  EXPECT_EQ(asked[1].header("range"), "bytes=1000-4999");
  EXPECT_EQ(files_below(blobs()).size(), 0u);
  // More than there is; a connection that is cut; a server that gives the whole file.
  wanted = int64_t(file.size()) + 1;
  error(Kind::resource, "org/name:x.gguf");
  EXPECT_EQ(got, length);
  answer("x.gguf", {[&](const HttpRequest& r) {
                      auto reply = HubServer::content(r, file);
                      reply.cut_after = 300;
                      return std::optional(reply);
                    },
                    nullptr});
  error(Kind::resource, "org/name:x.gguf");
  EXPECT_EQ(got, length);
  EXPECT_FALSE(notes.empty());
  answer("x.gguf", {always({.body = file})});
  events.weights = [&](const HubWeights& w) {
    EXPECT_FALSE(w.head(1000));
    throw Error(Kind::resource, "enough");
  };
  error(Kind::resource, "org/name:x.gguf");
}

TEST_F(Hub, WhatIsThereIsNotFetchedAgain) {
  const auto first = go();
  hub.server().forget();
  const auto second = go();
  EXPECT_EQ(second.path, first.path);
  EXPECT_EQ(second.bytes, first.bytes);
  EXPECT_EQ(plan.missing_bytes, 0);
  EXPECT_EQ(hub.server().requests().size(), 1u);  // where the branch is
  // Another commit with the same weights.
  hub.commit = std::string(40, 'd');
  hub.files["config.json"].content = "{}";
  hub.server().forget();
  EXPECT_NE(go().path, first.path);
  EXPECT_TRUE(hub.server().requests(kWeights).empty());
  EXPECT_EQ(read_file(settings.cache / "models--org--name/refs/main"), hub.commit);
}

TEST_F(Hub, TheCacheServesWhenNobodyAnswers) {
  const auto first = go();
  hub.server().stop();
  const auto second = go();
  EXPECT_EQ(second.path, first.path);
  EXPECT_EQ(second.files, first.files);
  EXPECT_EQ(second.bytes, first.bytes);
  ASSERT_FALSE(notes.empty());
  EXPECT_THAT(notes.back(), HasSubstr("cache"));
  EXPECT_THAT(error(Kind::resource, "org/other"), HasSubstr("cannot reach 127.0.0.1"));
  settings.offline = true;
  EXPECT_EQ(go().path, first.path);
  EXPECT_THAT(error(Kind::not_found, "org/other"), HasSubstr("HF_HUB_OFFLINE"));
}

TEST_F(Hub, ACutGoesOnWhereItWas) {
  answer(kWeights, {cut(100'000), cut(50'000), nullptr});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  const auto asked = hub.server().requests(kWeights);
  ASSERT_EQ(asked.size(), 3u);
  EXPECT_EQ(asked[0].header("range"), "");
  EXPECT_EQ(asked[1].header("range"), "bytes=100000-");
  EXPECT_EQ(asked[2].header("range"), "bytes=150000-");
  EXPECT_EQ(notes.size(), 2u);
}

TEST_F(Hub, CutsThatBringNothingAreCounted) {
  answer(kWeights, {cut(1000), cut(0)});
  settings.tries = 4;
  EXPECT_THAT(error(Kind::resource), HasSubstr("try again later"));
  EXPECT_EQ(hub.server().requests(kWeights).size(), 1u + 4u);
  EXPECT_EQ(fs::file_size(blobs() / (etag() + ".incomplete")), 1000u);
  EXPECT_FALSE(fs::exists(settings.cache / "models--org--name/refs/main"));
  hub.instead = nullptr;
  hub.server().forget();
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  EXPECT_EQ(plan.missing_bytes, int64_t(kLarge - 1000));
  EXPECT_EQ(hub.server().requests(kWeights).front().header("range"), "bytes=1000-");
}

TEST_F(Hub, AServerThatKnowsNoParts) {
  const auto whole = [&](const HttpRequest&) { return HttpReply{.body = weights}; };
  answer(kWeights, {cut(120'000), whole});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
}

TEST_F(Hub, AServerThatSendsAnotherPart) {
  const auto other = [&](const HttpRequest&) {
    return HttpReply{.status = 206,
                     .headers = {{"Content-Range", "bytes 5-" + std::to_string(kLarge - 1) + "/" +
                                                       std::to_string(kLarge)}},
                     .body = weights.substr(5)};
  };
  answer(kWeights, {cut(120'000), other, nullptr});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  EXPECT_EQ(hub.server().requests(kWeights).back().header("range"), "");
}

TEST_F(Hub, APartThatTheServerDoesNotHave) {
  answer(kWeights, {cut(120'000), always({.status = 416}), nullptr});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  EXPECT_EQ(hub.server().requests(kWeights).back().header("range"), "");
}

TEST_F(Hub, AWrongChecksumIsRemoved) {
  auto other = weights;
  other[kLarge / 2] = static_cast<char>(other[kLarge / 2] ^ 1);
  answer(kWeights, {always({.body = other})});
  const auto message = error(Kind::bad_data);
  EXPECT_THAT(message, HasSubstr("model.safetensors"));
  EXPECT_THAT(message, HasSubstr(etag()));
  EXPECT_THAT(message, HasSubstr(test::checksum(other, true)));
  EXPECT_FALSE(fs::exists(blobs() / etag()));
  EXPECT_FALSE(fs::exists(blobs() / (etag() + ".incomplete")));
  EXPECT_FALSE(fs::exists(settings.cache / "models--org--name/refs/main"));
  hub.instead = nullptr;
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
}

TEST_F(Hub, AWrongChecksumOfASmallFile) {
  answer("/config.json", {always({.body = "{\"model_type\": \"lamma\"}"})});
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("config.json: expected the checksum"));
}

TEST_F(Hub, AWrongBeginningIsFoundAtTheEnd) {
  make_directory(blobs());
  write_file_atomic(blobs() / (etag() + ".incomplete"), std::string(1000, 'x'));
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("checksum"));
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
}

TEST_F(Hub, ABeginningThatIsTooLongIsForgotten) {
  make_directory(blobs());
  write_file_atomic(blobs() / (etag() + ".incomplete"), std::string(kLarge + 1, 'x'));
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
}

TEST_F(Hub, AWrongLengthIsRemoved) {
  const auto removed = [&](HttpReply reply) {
    answer(kWeights, {always(std::move(reply))});
    hub.server().forget();
    EXPECT_THAT(error(Kind::bad_data), HasSubstr("expected 300,000 bytes"));
    EXPECT_EQ(hub.server().requests(kWeights).size(), 1u);
    EXPECT_FALSE(fs::exists(blobs() / (etag() + ".incomplete")));
  };
  removed({.body = weights + "more"});
  removed({.body = weights + "more", .says_length = false});
  removed({.body = weights.substr(1)});
  removed({.body = ""});
  removed({.headers = {{"Transfer-Encoding", "chunked"}},
           .body = "3\r\nabc\r\n0\r\n\r\n",
           .says_length = false});
}

TEST_F(Hub, AnEndWithoutALengthIsACut) {
  answer(kWeights, {always({.body = weights.substr(0, 9000), .says_length = false}), nullptr});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  EXPECT_EQ(hub.server().requests(kWeights).back().header("range"), "bytes=9000-");
}

TEST_F(Hub, TheTokenIsToldToTheEndpointAlone) {
  settings.token = "hf_secret";
  LocalServer elsewhere([&](const HttpRequest& r) { return HubServer::content(r, weights); });
  answer(kWeights,
         {always({.status = 302, .headers = {{"Location", elsewhere.url() + "/blob?sig=a%2Fb"}}})});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  for (const auto& r : hub.server().requests())
    EXPECT_EQ(r.header("authorization"), "Bearer hf_secret") << r.path;
  ASSERT_EQ(elsewhere.requests().size(), 1u);
  EXPECT_EQ(elsewhere.requests()[0].path, "/blob?sig=a%2Fb");
  EXPECT_EQ(elsewhere.requests()[0].header("authorization"), "");
}

TEST_F(Hub, ARelativeRedirectStaysAtTheEndpoint) {
  settings.token = "hf_secret";
  answer("/resolve/", {[&](const HttpRequest& r) -> std::optional<HttpReply> {
           if (r.path.find("/resolve/") == std::string::npos) return std::nullopt;
           const auto name = r.path.substr(r.path.rfind('/') + 1);
           return HttpReply{.status = 307, .headers = {{"Location", "/cached/" + name}}};
         }});
  const auto first = hub.instead;
  hub.instead = [&, first](const HttpRequest& r) -> std::optional<HttpReply> {
    if (!r.path.starts_with("/cached/")) return first(r);
    return HubServer::content(r, hub.files.at(r.path.substr(8)).content);
  };
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  const auto asked = hub.server().requests("/cached/");
  ASSERT_EQ(asked.size(), 3u);
  EXPECT_EQ(asked[0].header("authorization"), "Bearer hf_secret");
}

TEST_F(Hub, RedirectsThatAreNotFollowed) {
  const auto to = [&](const std::string& location) {
    answer(kWeights, {always({.status = 302, .headers = {{"Location", location}}})});
  };
  to(kWeights);
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("redirects more than"));
  to("file:///etc/passwd");
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("no address of the web"));
  to("ftp://127.0.0.1/x");
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("no address of the web"));
}

TEST(Redirected, FromHttpsToHttpIsRefused) {
  EXPECT_EQ(redirected("https://a.b/c/d?e=f", "https://x.y/z?s=%2F&t"), "https://x.y/z?s=%2F&t");
  EXPECT_EQ(redirected("https://a.b/c/d?e=f", "/g"), "https://a.b/g");
  EXPECT_EQ(redirected("https://a.b/c/d?e=f", "g/h"), "https://a.b/c/g/h");
  EXPECT_EQ(redirected("http://a.b/c", "https://a.b/c"), "https://a.b/c");
  EXPECT_EQ(redirected("http://a.b:1/c", "//x.y/z"), "http://x.y/z");
  for (const char* to : {"http://a.b/c", "HTTP://x.y", "javascript:x", "file:///x", "http://"})
    EXPECT_THROW(redirected("https://a.b/c", to), Error) << to;
}

TEST(UrlOrigin, IsWhoIsAsked) {
  EXPECT_EQ(url_origin("https://Hub.Co/x"), "https://hub.co:443");
  EXPECT_EQ(url_origin("https://hub.co:443/y?z"), "https://hub.co:443");
  EXPECT_EQ(url_origin("http://hub.co"), "http://hub.co:80");
  EXPECT_NE(url_origin("https://hub.co.evil.org"), url_origin("https://hub.co"));
  EXPECT_EQ(url_origin("https://hub.co@evil.org/"), "https://evil.org:443");
  for (const char* text : {"hub.co", "", "ftp://hub.co", "https://", "file:///x"})
    EXPECT_THROW(url_origin(text), Error) << text;
}

TEST_F(Hub, WhoMayNotReadIsToldWhatToDo) {
  const auto listing = [&](int status, const char* code) {
    HttpReply reply{.status = status};
    if (*code) reply.headers = {{"X-Error-Code", code}};
    answer("/api/", {always(reply)});
  };
  listing(401, "");
  EXPECT_THAT(error(Kind::resource), HasSubstr("set HF_TOKEN"));
  listing(401, "RepoNotFound");
  EXPECT_THAT(error(Kind::not_found), HasSubstr("no repository org/name"));
  settings.token = "hf_old";
  listing(401, "");
  EXPECT_THAT(error(Kind::resource), HasSubstr("does not take the token"));
  settings.token.clear();
  // The list of a gated repository is public, its files are not.
  answer(kWeights, {always({.status = 403, .headers = {{"X-Error-Code", "GatedRepo"}}})});
  const auto gated = error(Kind::resource);
  EXPECT_THAT(gated, HasSubstr("accept its terms at " + hub.url() + "/org/name"));
  EXPECT_THAT(gated, HasSubstr("HF_TOKEN"));
  EXPECT_EQ(gated.find("hf_"), std::string::npos);
}

TEST_F(Hub, WhatIsNotThereIsNamed) {
  EXPECT_THAT(error(Kind::not_found, "org/other"), HasSubstr("no repository org/other"));
  EXPECT_THAT(error(Kind::not_found, "org/name", "v9"), HasSubstr("no revision v9 of org/name"));
  EXPECT_THAT(error(Kind::not_found, "org/name:x.json"), HasSubstr("no file x.json in org/name"));
  answer(kWeights, {always({.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}})});
  EXPECT_THAT(error(Kind::not_found), HasSubstr("no file model.safetensors in org/name"));
  answer("/api/", {always({.status = 404})});
  EXPECT_THAT(error(Kind::not_found), HasSubstr("no repository org/name"));
  EXPECT_THAT(error(Kind::not_found, "org/name", "v9"), HasSubstr("or no revision v9"));
  EXPECT_THAT(error(Kind::usage, "org/name", "../main"), HasSubstr("revision"));
  answer("/api/", {always({.status = 200, .body = "<html>Please log in</html>"})});
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("list of files"));
  answer("/api/", {always({.status = 418})});
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("HF_ENDPOINT"));
}

TEST_F(Hub, ABusyServerIsAskedAgain) {
  const auto busy = always({.status = 429, .headers = {{"Retry-After", "0"}}});
  answer("", {busy, always({.status = 503}), nullptr, busy, nullptr});
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
  ASSERT_EQ(notes.size(), 3u);
  EXPECT_THAT(notes[0], HasSubstr("429"));
  EXPECT_THAT(notes[1], HasSubstr("503"));
}

TEST_F(Hub, ButNotForever) {
  answer("/api/", {always({.status = 503})});
  EXPECT_THAT(error(Kind::resource), HasSubstr("503"));
  EXPECT_EQ(hub.server().requests("/api/").size(), 3u);
  answer(kWeights, {always({.status = 500})});
  settings.tries = 3;
  EXPECT_THAT(error(Kind::resource), HasSubstr("500"));
  EXPECT_EQ(hub.server().requests(kWeights).size(), 3u);
  hub.server().forget();
  answer("/api/", {always({.status = 429, .headers = {{"Retry-After", "86400"}}})});
  EXPECT_THAT(error(Kind::resource), HasSubstr("24h 00m"));
  EXPECT_EQ(hub.server().requests("/api/").size(), 1u);
}

TEST_F(Hub, HostileNamesWriteNothing) {
  for (const char* name : {"../../../escaped.json", "/tmp/escaped.json", "a/../../../../escaped",
                           "additional_chat_templates/../../../../x.jinja", "x\x1b]0;y\x07.json"}) {
    hub.files[name] = {"escaped"};
    EXPECT_THAT(error(Kind::bad_data), HasSubstr("file name"));
    hub.files.erase(name);
  }
  hub.commit = "../../../../escaped/aaaaaaaaaaaaaaaaaaaaa";
  EXPECT_THAT(error(Kind::bad_data), HasSubstr("sha"));
  EXPECT_TRUE(files_below(folder.path()).empty());
}

TEST_F(Hub, ADiskThatIsTooSmallIsNamedBefore) {
  auto listing = hub.listing();
  for (auto& f : listing["siblings"].as_array())
    if (f.contains("lfs")) f["lfs"]["size"] = Json(int64_t(1) << 50);
  answer("/api/", {always({.body = listing.dump()})});
  EXPECT_THAT(error(Kind::resource), HasSubstr("HF_HOME"));
  EXPECT_EQ(hub.server().requests().size(), 1u);
}

TEST_F(Hub, AStoppedPullGoesOnLater) {
  std::stop_source source;
  std::vector<int64_t> seen;
  events.progress = [&](int64_t done, int64_t total, const std::string& file) {
    EXPECT_LE(done, total);
    seen.push_back(done);
    if (file == "model.safetensors" && done > 50'000) source.request_stop();
  };
  answer(kWeights, {[&](const HttpRequest& r) {
           auto reply = HubServer::content(r, weights);
           reply.pause = std::chrono::milliseconds(1);
           return reply;
         }});
  try {
    pull(*hub_name("org/name"), HubPart::whole, settings, events, source.get_token());
    FAIL() << "not stopped";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::canceled) << e.what();
  }
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  const auto kept = fs::file_size(blobs() / (etag() + ".incomplete"));
  EXPECT_GT(kept, 50'000u);
  hub.server().forget();
  const auto got = go();
  EXPECT_EQ(read_file(got.path / "model.safetensors"), weights);
  EXPECT_EQ(hub.server().requests(kWeights).front().header("range"),
            "bytes=" + std::to_string(kept) + "-");
}

TEST_F(Hub, AStopEndsAWaitToo) {
  std::stop_source source;
  answer("/api/", {always({.status = 429, .headers = {{"Retry-After", "200"}}})});
  events.note = [&](const std::string&) { source.request_stop(); };
  EXPECT_THROW(pull(*hub_name("org/name"), HubPart::whole, settings, events, source.get_token()),
               Error);
}

TEST_F(Hub, TwoAtOnceFetchABlobOnce) {
  answer(kWeights, {[&](const HttpRequest& r) {
           auto reply = HubServer::content(r, weights);
           reply.pause = std::chrono::milliseconds(5);
           return reply;
         }});
  std::vector<std::thread> threads;
  std::atomic<int> done = 0;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      const auto got = pull(*hub_name("org/name"), HubPart::whole, settings, {});
      if (read_file(got.path / "model.safetensors") == weights) ++done;
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(done, 3);
  EXPECT_EQ(hub.server().requests(kWeights).size(), 1u);
}

TEST_F(Hub, ADamagedBlobIsFetchedAnew) {
  go();
  write_file_atomic(blobs() / etag(), "short");
  EXPECT_EQ(read_file(go().path / "model.safetensors"), weights);
}

TEST_F(Hub, TheSameContentTwiceIsFetchedOnce) {
  hub.files["vocab.json"] = {"{}"};
  const auto got = go();
  EXPECT_EQ(got.files, 4);
  EXPECT_EQ(plan.missing_bytes, got.bytes - 2);
  EXPECT_EQ(read_file(got.path / "vocab.json"), "{}");
}

TEST_F(Hub, TextsWithoutTheWeights) {
  go("org/name", HubPart::texts);
  EXPECT_TRUE(hub.server().requests(kWeights).empty());
  const HubCache cache(settings.cache, "org/name");
  EXPECT_TRUE(cache.find(*hub_name("org/name"), HubPart::texts));
  EXPECT_FALSE(cache.find(*hub_name("org/name"), HubPart::whole));
  go();
  EXPECT_EQ(hub.server().requests("/config.json").size(), 1u);
  EXPECT_TRUE(cache.find(*hub_name("org/name"), HubPart::whole));
}

HubSettings from(std::map<std::string, std::string> variables) {
  return hub_settings([&](const std::string& name) -> std::optional<std::string> {
    const auto at = variables.find(name);
    return at == variables.end() ? std::nullopt : std::optional(at->second);
  });
}

TEST(HubSettings, AreThoseOfTheEnvironment) {
  const auto plain = from({{"HOME", "/home/me"}});
  EXPECT_EQ(plain.cache, "/home/me/.cache/huggingface/hub");
  EXPECT_EQ(plain.endpoint, "https://huggingface.co");
  EXPECT_EQ(plain.token, "");
  EXPECT_FALSE(plain.offline);
  EXPECT_EQ(from({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(from({{"HOME", "/h"}, {"HF_HOME", "~/models/"}}).cache, "/h/models/hub");
  EXPECT_EQ(from({{"HF_HOME", "/a"}, {"HF_HUB_CACHE", "/b"}}).cache, "/b");
  const auto own = from({{"HOME", "/h"},
                         {"HF_ENDPOINT", "http://localhost:1/"},
                         {"HF_HUB_OFFLINE", "yes"},
                         {"HF_TOKEN", " hf_a\n"},
                         {"SSL_CERT_FILE", "/ca.pem"},
                         {"HF_HUB_DOWNLOAD_TIMEOUT", "7"}});
  EXPECT_EQ(own.endpoint, "http://localhost:1");
  EXPECT_TRUE(own.offline);
  EXPECT_EQ(own.token, "hf_a");
  EXPECT_EQ(own.http.ca_file, "/ca.pem");
  EXPECT_EQ(own.http.silence_s, 7);
  EXPECT_FALSE(from({{"HOME", "/h"}, {"HF_HUB_OFFLINE", "0"}}).offline);
}

TEST(HubSettings, TheTokenMayLieInAFile) {
  const test::TemporaryFolder folder;
  const auto home = folder.path().string();
  write_file_atomic(folder / "token", "hf_file\n");
  EXPECT_EQ(from({{"HF_HOME", home}}).token, "hf_file");
  EXPECT_EQ(from({{"HF_HOME", home}, {"HF_TOKEN", "hf_variable"}}).token, "hf_variable");
  EXPECT_EQ(from({{"HF_HOME", "/absent"}, {"HF_TOKEN_PATH", home + "/token"}}).token, "hf_file");
  EXPECT_EQ(from({{"HF_HOME", home}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
}

TEST(HubSettings, WhatCannotBeUsedIsNamed) {
  const auto wrong = [](std::map<std::string, std::string> variables, const char* says) {
    try {
      from(std::move(variables));
      ADD_FAILURE() << says;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::usage);
      EXPECT_THAT(e.what(), HasSubstr(says));
      EXPECT_EQ(std::string(e.what()).find("hf_"), std::string::npos);
    }
  };
  wrong({{"HOME", "/h"}, {"HF_ENDPOINT", "hub.co"}}, "HF_ENDPOINT");
  wrong({{"HOME", "/h"}, {"HF_TOKEN", "hf_a\r\nHost: x"}}, "HF_TOKEN");
  wrong({{"HOME", "/h"}, {"HF_HUB_DOWNLOAD_TIMEOUT", "soon"}}, "HF_HUB_DOWNLOAD_TIMEOUT");
  wrong({}, "HF_HOME");
}

}  // namespace
}  // namespace lmxlab::io
