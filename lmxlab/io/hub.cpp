#include "lmxlab/io/hub.h"

#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/io/blob_file.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>
#include <thread>
#include <utility>

namespace lmxlab::io {
namespace {

constexpr int kMostRedirects = 10;
constexpr size_t kLargestListing = size_t(64) << 20;
constexpr size_t kShownOfAnError = 4096;

// The hub could not be asked at all, so what is in the cache may serve.
class Unreachable : public Error {
 public:
  explicit Unreachable(const std::string& message) : Error(Kind::resource, message) {}
};

void pause(double seconds, const std::stop_token& stop) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(seconds));
  while (Clock::now() < end) {
    if (stop.stop_requested()) throw Error(Kind::canceled, "[hub] interrupted");
    std::this_thread::sleep_for(
        std::min<Clock::duration>(end - Clock::now(), std::chrono::milliseconds(50)));
  }
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}
bool is_busy(int status) {
  return status == 408 || status == 429 || status >= 500;
}

// "huggingface.co", "127.0.0.1:8080"
std::string host_of(const std::string& url) {
  std::string host = url_origin(url);
  host = host.substr(host.find("//") + 2);
  for (const char* port : {":443", ":80"})
    if (host.ends_with(port)) host.resize(host.rfind(':'));
  return host;
}

// The first byte and the size of "bytes 100-199/200"; -1 where it says nothing.
std::pair<int64_t, int64_t> content_range(const HttpAnswer& answer) {
  const auto* text = answer.header("content-range");
  if (!text || !text->starts_with("bytes ")) return {-1, -1};
  const auto number = [&](size_t at) {
    int64_t out = -1;
    if (at < text->size()) std::from_chars(text->data() + at, text->data() + text->size(), out);
    return out;
  };
  const auto slash = text->find('/');
  return {number(6), slash == text->npos ? -1 : number(slash + 1)};
}

class Client {
 public:
  Client(const HubName& name, const HubSettings& settings, const HubEvents& events,
         std::stop_token stop)
      : name_(name),
        settings_(settings),
        events_(events),
        stop_(std::move(stop)),
        http_(settings.http),
        origin_(url_origin(settings.endpoint)),
        host_(host_of(settings.endpoint)) {}

  /// @throws Unreachable if nothing came after several tries.
  HubListing list() {
    const auto url = settings_.endpoint + "/api/models/" + name_.repository + "/revision/" +
                     percent_encoded(name_.revision) + "?blobs=true";
    int tries = std::min(settings_.tries, 3);
    for (double wait = settings_.first_wait_s;; wait *= 2) {
      std::string body;
      const auto answer = follow(url, {}, [&](const HttpAnswer&, std::string_view piece) {
        body += piece;
        return body.size() < kLargestListing;
      });
      if (answer.status == 200 && answer.problem.empty())
        return with_context(host_ + ", " + name_.repository,
                            [&] { return read_listing(Json::parse(body, "its list of files")); });
      if (!wait_after(answer, --tries, wait)) refuse(answer, "");
    }
  }

  /// `told` hears how many bytes are there.
  void download(const HubCache& cache, const std::string& commit, const HubFile& file,
                const std::function<void(int64_t)>& told) {
    make_directory(cache.lock(file).parent_path());
    make_directory(cache.partial(file).parent_path());
    const BlobLock lock(cache.lock(file), stop_,
                        [&] { note(file.name + ": waiting for another process that fetches it"); });
    if (cache.holds(file)) return;
    BlobFile blob(cache.partial(file), file.name, file.bytes, file.etag(), stop_);
    const auto url = file_url(commit, file);
    int tries = settings_.tries;
    double wait = settings_.first_wait_s;
    int64_t best = blob.at();
    while (blob.at() < file.bytes) {
      told(blob.at());
      auto answer = fetch_rest(blob, url, told);
      if (blob.at() == file.bytes) break;
      if (answer.status == 416 && blob.at() > 0) {
        blob.restart();
        answer.problem = "it has no such part", answer.passing = true;
      } else if (answer.status == 200 || answer.status == 206) {
        // An answer that says no length ends as if it were cut.
        if (answer.problem.empty() &&
            (answer.header("content-length") || answer.header("transfer-encoding")))
          blob.wrong_length(blob.at());
        if (answer.problem.empty()) answer.problem = "the connection was cut";
        answer.passing = true;
      }
      --tries;
      if (blob.at() > best)
        best = blob.at(), tries = settings_.tries, wait = settings_.first_wait_s;
      if (!wait_after(answer, tries, wait, file.name)) refuse(answer, file.name);
      wait *= 2;
    }
    blob.finish(cache.blob(file));
    told(file.bytes);
  }

  /// Adds what `head` lacks of the file's first bytes. False: the server knows no parts.
  bool add_head(const std::string& commit, const HubFile& file, int64_t bytes, std::string& head) {
    const auto wanted = static_cast<size_t>(std::min(bytes, file.bytes));
    int tries = std::min(settings_.tries, 3);
    for (double wait = settings_.first_wait_s; head.size() < wanted; wait *= 2) {
      const HttpHeaders headers{
          {"Accept-Encoding", "identity"},
          {"Range", "bytes=" + std::to_string(head.size()) + "-" + std::to_string(wanted - 1)}};
      const auto before = static_cast<int64_t>(head.size());
      const auto answer =
          follow(file_url(commit, file), headers, [&](const HttpAnswer& a, std::string_view piece) {
            if (a.status != 206 || content_range(a).first != before) return false;
            const auto room = wanted - head.size();
            head += piece.substr(0, room);
            return piece.size() <= room;
          });
      if (answer.status == 200 || answer.status == 416 ||
          (answer.status == 206 && content_range(answer).first != before))
        return false;
      if (answer.status == 206 && (head.size() >= wanted || answer.problem.empty())) break;
      if (!wait_after(answer, --tries, wait, file.name)) refuse(answer, file.name);
    }
    return true;
  }

 private:
  std::string file_url(const std::string& commit, const HubFile& file) const {
    return settings_.endpoint + "/" + name_.repository + "/resolve/" + commit + "/" +
           percent_encoded(file.name, "/");
  }

  // One request for what the blob lacks.
  HttpAnswer fetch_rest(BlobFile& blob, const std::string& url,
                        const std::function<void(int64_t)>& told) {
    HttpHeaders headers{{"Accept-Encoding", "identity"}};
    if (blob.at() > 0) headers.emplace_back("Range", "bytes=" + std::to_string(blob.at()) + "-");
    bool begun = false, another_part = false;
    size_t other = 0;
    auto answer = follow(url, headers, [&](const HttpAnswer& head, std::string_view piece) {
      if (head.status != 200 && head.status != 206)
        return (other += piece.size()) < kShownOfAnError;
      if (!std::exchange(begun, true)) {
        const auto [first, size] = content_range(head);
        if (head.status == 206 && first != blob.at()) return another_part = true, false;
        if (head.status == 206 && size >= 0 && size != blob.bytes()) blob.wrong_length(size);
        if (head.status == 200) blob.restart();  // it knows no parts
        const auto length = head.number("content-length");
        if (length >= 0 && length != blob.bytes() - blob.at())
          blob.wrong_length(blob.at() + length);
      }
      blob.add(piece);
      told(blob.at());
      return true;
    });
    if (another_part) {
      blob.restart();
      answer.problem = "it sent another part than was asked for";
    }
    return answer;
  }

  // The answer at the end of all redirects. The token is told to the endpoint only.
  HttpAnswer follow(std::string url, const HttpHeaders& headers, const HttpSink& sink) {
    for (int hop = 0; hop <= kMostRedirects; ++hop) {
      auto sent = headers;
      if (!settings_.token.empty() && url_origin(url) == origin_)
        sent.emplace_back("Authorization", "Bearer " + settings_.token);
      auto answer = http_.get(
          url, sent,
          [&](const HttpAnswer& a, std::string_view piece) {
            return !is_redirect(a.status) && sink(a, piece);
          },
          stop_);
      const auto* location = answer.header("location");
      if (!is_redirect(answer.status) || !location) return answer;
      url = redirected(url, *location);
    }
    throw Error(Kind::bad_data, "[hub] " + host_ + " redirects more than " +
                                    std::to_string(kMostRedirects) + " times");
  }

  // Waits before another try, if one is worth it and left.
  bool wait_after(const HttpAnswer& answer, int tries_left, double seconds,
                  const std::string& file = {}) {
    const bool passing = is_busy(answer.status) || (!answer.problem.empty() && answer.passing);
    if (!passing || tries_left <= 0 || answer.retry_after_s > settings_.longest_wait_s)
      return false;
    const double wait = answer.retry_after_s >= 0 ? answer.retry_after_s : seconds;
    note((file.empty() ? name_.repository : file) + ": " + what_went_wrong(answer) +
         "; trying again" + (wait >= 1 ? " in " + human_seconds(wait) : ""));
    pause(wait, stop_);
    return true;
  }

  static std::string what_went_wrong(const HttpAnswer& answer) {
    if (!is_busy(answer.status) && !answer.problem.empty()) return printable(answer.problem);
    std::string out = "the server answered " + std::to_string(answer.status);
    if (answer.status == 429) out += ", too many requests";
    if (const auto* text = answer.header("x-error-message")) out += " (" + printable(*text) + ")";
    return out;
  }

  [[noreturn]] void refuse(const HttpAnswer& answer, const std::string& file) const {
    const auto& repository = name_.repository;
    const auto* header = answer.header("x-error-code");
    const std::string code = header ? *header : "";
    const int status = answer.status;
    const bool anonymous = settings_.token.empty();
    const auto gated = "accept its terms at " + origin_.substr(0, origin_.find("//") + 2) + host_ +
                       "/" + repository + " and set HF_TOKEN to a token of that account.";
    if (status == 404 || code == "RepoNotFound") {
      const std::string what =
          code == "EntryNotFound" || (code.empty() && !file.empty())
              ? "no file " + file + " in " + repository
          : code == "RevisionNotFound" ? "no revision " + name_.revision + " of " + repository
          : code.empty() && name_.revision != "main"
              ? "no repository " + repository + ", or no revision " + name_.revision + " of it,"
              : "no repository " + repository;
      throw Error(Kind::not_found, "[hub] there is " + what + " on " + host_ +
                                       (anonymous ? ". A private one needs HF_TOKEN." : ""));
    }
    if (code == "GatedRepo" || status == 403)
      throw Error(Kind::resource, "[hub] " + repository + " is not open to " +
                                      (anonymous ? "everyone: " : "this account: ") + gated);
    if (status == 401)
      throw Error(Kind::resource,
                  anonymous ? "[hub] " + host_ + " shows " + repository +
                                  " to nobody without a token: set HF_TOKEN. If it is gated, " +
                                  gated + " If there is no such repository, the answer is the same."
                            : "[hub] " + host_ + " does not take the token for " + repository +
                                  ": expected a valid one in HF_TOKEN.");
    const auto what = file.empty() ? repository : repository + ", " + file;
    if (status == 0 && !answer.passing)
      throw Error(Kind::resource, "[hub] no connection to " + host_ + ": " +
                                      printable(answer.problem) +
                                      ". Certificates of your own are named by SSL_CERT_FILE.");
    if (status == 0)
      throw Unreachable("[hub] cannot reach " + host_ + " for " + what + ": " +
                        printable(answer.problem) + ". Try again when there is a connection.");
    if (answer.retry_after_s > settings_.longest_wait_s)
      throw Unreachable("[hub] " + what + ": " + what_went_wrong(answer) + " and asks for " +
                        human_seconds(answer.retry_after_s) + " of patience. Try again then.");
    if (is_busy(status) || answer.passing)
      throw Unreachable("[hub] " + what + ", from " + host_ + ": " + what_went_wrong(answer) +
                        ". What came is kept: try again later.");
    throw Error(Kind::bad_data, "[hub] " + what + ": expected an answer as a hub gives it, but " +
                                    host_ + " says " + std::to_string(status) +
                                    ". Is HF_ENDPOINT right?");
  }

  void note(const std::string& text) const {
    if (events_.note) events_.note(text);
  }

  const HubName& name_;
  const HubSettings& settings_;
  const HubEvents& events_;
  std::stop_token stop_;
  Http http_;
  std::string origin_, host_;
};

Pulled what_is_kept(const fs::path& path) {
  Pulled out{path};
  if (fs::is_regular_file(path)) return {path, 1, static_cast<int64_t>(fs::file_size(path))};
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) ++out.files, out.bytes += static_cast<int64_t>(entry.file_size());
  return out;
}

void expect_room(const HubName& name, const fs::path& cache, int64_t bytes) {
  std::error_code code;
  const auto space = fs::space(cache, code);
  if (code || space.available >= static_cast<uintmax_t>(bytes)) return;
  throw Error(Kind::resource, "[hub] " + name.text() + " needs " + human_bytes(double(bytes)) +
                                  " more, and on the disk of " + cache.string() + " " +
                                  human_bytes(double(space.available)) +
                                  " are free. Make room, or set HF_HOME to a folder elsewhere.");
}

bool is_gguf_name(const std::string& name) {
  return name.ends_with(".gguf");
}

// Asks whether the weights are wanted, if these files are a model's and some are not here.
void ask(const HubName& name, const HubEvents& events, Client& client, const HubCache& cache,
         const HubListing& listing, const std::vector<HubFile>& files) {
  if (!events.weights || (!name.file.empty() && !is_gguf_name(name.file))) return;
  HubWeights weights;
  bool missing = false;
  for (const auto& f : files) {
    if (f.name == "config.json") weights.config = cache.snapshot(listing.commit) / f.name;
    if (!f.name.ends_with(".safetensors") && !is_gguf_name(f.name)) continue;
    weights.bytes += f.bytes;
    missing = missing || !(cache.has(listing.commit, f) || cache.holds(f));
  }
  if (!missing) return;
  for (const auto& f : listing.files)
    if (is_gguf_name(f.name) && f.name != name.file) weights.ggufs.push_back(f);
  std::string head;
  if (is_gguf_name(name.file))
    weights.head = [&](int64_t bytes) -> std::optional<Gguf> {
      const auto& file = files[0];
      if (!client.add_head(listing.commit, file, bytes, head)) return std::nullopt;
      const auto path = cache.temporary(file);
      make_directory(path.parent_path());
      write_file_atomic(path, head);
      std::error_code ignored;
      try {
        Gguf out(path, static_cast<size_t>(file.bytes));
        fs::remove(path, ignored);  // it is mapped
        return out;
      } catch (...) {
        fs::remove(path, ignored);
        throw;
      }
    };
  events.weights(weights);
}

Pulled fetch(const HubName& name, HubPart part, const HubSettings& settings,
             const HubEvents& events, Client& client, const HubCache& cache,
             const HubListing& listing) {
  auto files = choose_files(name, listing, part);
  std::stable_partition(files.begin(), files.end(),
                        [](const HubFile& f) { return f.name == "config.json"; });
  const auto& commit = listing.commit;
  HubPlan plan;
  int64_t total = 0, done = 0;
  std::set<std::string> missing;
  for (const auto& f : files) {
    ++plan.files, plan.bytes += f.bytes;
    if (cache.has(commit, f) || cache.holds(f) || !missing.insert(f.etag()).second) continue;
    total += f.bytes, plan.missing_bytes += f.bytes - cache.partial_bytes(f);
  }
  make_directory(settings.cache);
  expect_room(name, settings.cache, plan.missing_bytes);
  if (events.plan) events.plan(plan);
  bool asked = false;
  for (const auto& f : files) {
    if (f.name != "config.json" && !std::exchange(asked, true))
      ask(name, events, client, cache, listing, files);
    if (cache.has(commit, f)) continue;
    const bool counts = missing.erase(f.etag()) > 0;
    if (!cache.holds(f))
      client.download(cache, commit, f, [&](int64_t bytes) {
        if (events.progress) events.progress(done + bytes, total, f.name);
      });
    if (counts) done += f.bytes;
    cache.link(commit, f);
  }
  // The last step: until now the revision was at the commit before, with all that belongs to it.
  cache.set_revision(name.revision, commit);
  const auto folder = cache.snapshot(commit);
  return {name.file.empty() ? folder : folder / name.file, plan.files, plan.bytes};
}

}  // namespace

Pulled pull(const HubName& name, HubPart part, const HubSettings& settings, const HubEvents& events,
            std::stop_token stop) {
  if (const auto why = unsafe_path(name.revision); !why.empty())
    throw Error(Kind::usage, "[hub] the revision \"" + printable(name.revision) + "\" " + why +
                                 ": expected a branch, a tag or a commit");
  const HubCache cache(settings.cache, name.repository);
  if (settings.offline) {
    if (const auto kept = cache.find(name, part)) return what_is_kept(*kept);
    throw Error(Kind::not_found, "[hub] " + name.text() + " is not in " + settings.cache.string() +
                                     ", or not all of it, and HF_HUB_OFFLINE forbids to fetch it.");
  }
  Client client(name, settings, events, std::move(stop));
  try {
    HubListing listing;
    try {
      listing = client.list();
    } catch (const Unreachable& e) {
      const auto kept = cache.find(name, part);
      if (!kept) throw;
      if (events.note) events.note(std::string(e.what()) + " What is in the cache is taken.");
      return what_is_kept(*kept);
    }
    return fetch(name, part, settings, events, client, cache, listing);
  } catch (const Error& e) {
    if (e.kind() != Kind::canceled) throw;
    throw Error(Kind::canceled, "[hub] " + name.text() +
                                    ": interrupted. What came is kept; the same command goes on.");
  }
}

HubSettings hub_settings(const Variables& variable) {
  const auto value = [&](std::initializer_list<const char*> names) -> std::string {
    for (const char* name : names)
      if (const auto v = variable(name); v && !v->empty()) return *v;
    return {};
  };
  const auto folder = [&](const std::string& text) -> fs::path {
    if (!text.starts_with("~/")) return text;
    return fs::path(value({"HOME"})) / text.substr(2);
  };
  const auto is_true = [&](const char* name) {
    auto text = value({name});
    for (char& c : text) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
  };
  fs::path home = folder(value({"HF_HOME"}));
  if (home.empty()) home = folder(value({"XDG_CACHE_HOME", "HOME"}));
  if (value({"HF_HOME"}).empty() && !home.empty())
    home /= value({"XDG_CACHE_HOME"}).empty() ? ".cache/huggingface" : "huggingface";

  HubSettings out;
  out.cache = folder(value({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}));
  if (out.cache.empty() && !home.empty()) out.cache = home / "hub";
  if (out.cache.empty())
    throw Error(Kind::usage, "[hub] there is no folder for models: set HF_HOME to one");
  out.cache = fs::absolute(out.cache).lexically_normal();

  if (const auto endpoint = value({"HF_ENDPOINT"}); !endpoint.empty()) {
    out.endpoint = endpoint;
    while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
    with_context("HF_ENDPOINT", [&] { return url_origin(out.endpoint); });
  }
  out.offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");

  if (!is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
    out.token = trim(value({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
    auto path = folder(value({"HF_TOKEN_PATH"}));
    if (path.empty() && !home.empty()) path = home / "token";
    std::error_code ignored;
    if (out.token.empty() && fs::is_regular_file(path, ignored)) out.token = trim(read_file(path));
    for (const char c : out.token)
      if (c <= 0x20 || c >= 0x7f)
        throw Error(Kind::usage,
                    "[hub] the token in HF_TOKEN or its file has a blank or a "
                    "control character: expected one word");
  }

  out.http.user_agent = "lmxlab/" LMXLAB_VERSION;
  out.http.ca_file = value({"CURL_CA_BUNDLE", "SSL_CERT_FILE"});
  out.http.ca_folder = value({"SSL_CERT_DIR"});
  if (const auto seconds = value({"HF_HUB_DOWNLOAD_TIMEOUT"}); !seconds.empty()) {
    const auto* end = seconds.data() + seconds.size();
    const auto [at, code] = std::from_chars(seconds.data(), end, out.http.silence_s);
    if (code != std::errc() || at != end || out.http.silence_s < 1)
      throw Error(Kind::usage, "[hub] HF_HUB_DOWNLOAD_TIMEOUT: expected whole seconds, got \"" +
                                   printable(seconds) + "\"");
  }
  return out;
}

}  // namespace lmxlab::io
