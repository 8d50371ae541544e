// A server on this machine that plays the hub: it lists and serves the files it is given, and
// misbehaves as it is told.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/base/text.h"
#include "lmxlab/io/digest.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace lmxlab::test {

struct HttpRequest {
  std::string path;                            // with what follows a question mark
  std::map<std::string, std::string> headers;  // names in lower case

  std::string header(const std::string& name) const {
    const auto at = headers.find(name);
    return at == headers.end() ? "" : at->second;
  }
};

struct HttpReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
  size_t cut_after = std::string::npos;  // bytes of the body, then the connection is closed
  bool says_length = true;               // Content-Length, unless a header of that name is given
  std::chrono::milliseconds pause = {};  // after each 16 KB of the body
};

/// Answers GET on a port of its own, a thread a connection.
class LocalServer {
 public:
  using Handler = std::function<HttpReply(const HttpRequest&)>;

  explicit LocalServer(Handler handler) : handler_(std::move(handler)) {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const a = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    if (::bind(socket_, a, size) != 0 || ::listen(socket_, 16) != 0 ||
        ::getsockname(socket_, a, &size) != 0)
      throw std::runtime_error("no port for a server");
    port_ = ntohs(address.sin_port);
    threads_.emplace_back([this] { accept_all(); });
  }
  ~LocalServer() { stop(); }
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  /// From now on nobody answers there.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(stopped_, true)) return;
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    threads_.front().join();
    for (size_t i = 1; i < threads_.size(); ++i) threads_[i].join();
    ::close(socket_);
  }
  std::vector<HttpRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  /// Those whose path has `part` in it.
  std::vector<HttpRequest> requests(const std::string& part) const {
    auto out = requests();
    std::erase_if(out, [&](const auto& r) { return r.path.find(part) == std::string::npos; });
    return out;
  }
  void forget() {
    const std::lock_guard lock(mutex_);
    requests_.clear();
  }

 private:
  void accept_all() {
    for (;;) {
      pollfd waiting{socket_, POLLIN, 0};
      const bool somebody = ::poll(&waiting, 1, 20) > 0;
      const std::lock_guard lock(mutex_);
      if (stopped_) return;
      const int fd = somebody ? ::accept(socket_, nullptr, nullptr) : -1;
      if (fd < 0) continue;
#ifdef SO_NOSIGPIPE
      const int on = 1;
      ::setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
      open_.insert(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string text;
    while (read_head(fd, text)) {
      const auto end = text.find("\r\n\r\n");
      const auto request = parse(text.substr(0, end));
      text.erase(0, end + 4);
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      if (!send_reply(fd, handler_(request))) break;
    }
    const std::lock_guard lock(mutex_);
    open_.erase(fd);
    ::close(fd);
  }

  static bool read_head(int fd, std::string& text) {
    char block[4096];
    while (text.find("\r\n\r\n") == std::string::npos) {
      const auto n = ::recv(fd, block, sizeof block, 0);
      if (n <= 0) return false;
      text.append(block, static_cast<size_t>(n));
    }
    return true;
  }

  static HttpRequest parse(const std::string& head) {
    HttpRequest out;
    for (const auto& line : split(head, '\n')) {
      const auto text = std::string(trim(line));
      if (text.starts_with("GET ")) out.path = text.substr(4, text.rfind(' ') - 4);
      const auto colon = text.find(": ");
      if (text.starts_with("GET ") || colon == std::string::npos) continue;
      auto name = text.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      out.headers[name] = text.substr(colon + 2);
    }
    return out;
  }

  // Whether the connection stays.
  static bool send_reply(int fd, const HttpReply& reply) {
    std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " so\r\n";
    bool length = false;
    for (const auto& [name, value] : reply.headers) {
      head += name + ": " + value + "\r\n";
      length = length || name == "Content-Length";
    }
    if (reply.says_length && !length)
      head += "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
    const auto body = std::string_view(reply.body).substr(0, reply.cut_after);
    bool sent = send_all(fd, head + "\r\n");
    for (size_t at = 0; sent && at < body.size(); at += 16384) {
      sent = send_all(fd, body.substr(at, 16384));
      if (reply.pause.count() > 0) std::this_thread::sleep_for(reply.pause);
    }
    const bool whole = reply.cut_after == std::string::npos && reply.says_length && !length;
    if (sent && whole) return true;
    ::shutdown(fd, SHUT_RDWR);
    return false;
  }

  static bool send_all(int fd, std::string_view bytes) {
#ifdef MSG_NOSIGNAL
    constexpr int kFlags = MSG_NOSIGNAL;
#else
    constexpr int kFlags = 0;
#endif
    while (!bytes.empty()) {
      const auto n = ::send(fd, bytes.data(), bytes.size(), kFlags);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  Handler handler_;
  int socket_ = -1, port_ = 0;
  mutable std::mutex mutex_;
  bool stopped_ = false;
  std::vector<HttpRequest> requests_;
  std::set<int> open_;
  std::vector<std::thread> threads_;
};

inline std::string checksum(const std::string& content, bool large) {
  io::Digest digest(large ? io::DigestKind::sha256 : io::DigestKind::sha1);
  if (!large) digest.add("blob " + std::to_string(content.size()) + std::string(1, '\0'));
  digest.add(content);
  return digest.hex();
}

/// The hub, with one repository.
class HubServer {
 public:
  struct File {
    std::string content;
    bool large = false;   // kept outside git: its checksum is a SHA-256
    int64_t claims = -1;  // the size that the listing tells; -1: as it is
  };

  std::string repository = "org/name";
  std::string commit = std::string(40, 'c');
  std::map<std::string, File> files;
  /// What is answered instead, if it gives something. Called by one thread at a time.
  std::function<std::optional<HttpReply>(const HttpRequest&)> instead;

  HubServer() : server_([this](const HttpRequest& r) { return answer(r); }) {}

  std::string url() const { return server_.url(); }
  LocalServer& server() { return server_; }

  Json listing() const {
    Json siblings = Json::array();
    for (const auto& [name, file] : files) {
      const auto size = static_cast<int64_t>(file.content.size());
      const auto bytes = file.claims < 0 ? size : file.claims;
      Json item = Json::object({{"rfilename", Json(name)},
                                {"size", Json(bytes)},
                                {"blobId", Json(checksum(file.content, false))}});
      if (file.large)
        item["lfs"] = Json::object({{"sha256", Json(checksum(file.content, true))},
                                    {"size", Json(bytes)},
                                    {"pointerSize", Json(130)}});
      siblings.push_back(item);
    }
    return Json::object({{"id", Json(repository)}, {"sha", Json(commit)}, {"siblings", siblings}});
  }

  /// A file, or the part of it that was asked for.
  static HttpReply content(const HttpRequest& request, const std::string& bytes) {
    const auto range = request.header("range");
    if (range.empty()) return {.body = bytes};
    const auto from = static_cast<size_t>(std::stoull(range.substr(range.find('=') + 1)));
    if (from >= bytes.size()) return {.status = 416};
    const auto last = range.substr(range.find('-') + 1);
    const auto end =
        last.empty() ? bytes.size() : std::min<size_t>(bytes.size(), std::stoull(last) + 1);
    return {.status = 206,
            .headers = {{"Content-Range", "bytes " + std::to_string(from) + "-" +
                                              std::to_string(end - 1) + "/" +
                                              std::to_string(bytes.size())}},
            .body = bytes.substr(from, end - from)};
  }

 private:
  static std::string decoded(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i)
      if (text[i] == '%')
        out += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16)), i += 2;
      else
        out += text[i];
    return out;
  }

  HttpReply answer(const HttpRequest& request) {
    const std::lock_guard lock(mutex_);
    if (instead)
      if (auto reply = instead(request)) return std::move(*reply);
    const auto api = "/api/models/" + repository + "/revision/";
    const auto resolve = "/" + repository + "/resolve/" + commit + "/";
    const auto absent = [](const char* code) {
      return HttpReply{.status = 404, .headers = {{"X-Error-Code", code}}};
    };
    if (request.path.starts_with(api)) {
      const auto revision = request.path.substr(api.size(), request.path.find('?') - api.size());
      if (revision != "main" && revision != commit) return absent("RevisionNotFound");
      return {.body = listing().dump()};
    }
    if (!request.path.starts_with(resolve)) return absent("RepoNotFound");
    const auto found = files.find(decoded(request.path.substr(resolve.size())));
    return found == files.end() ? absent("EntryNotFound") : content(request, found->second.content);
  }

  std::mutex mutex_;
  LocalServer server_;
};

}  // namespace lmxlab::test
