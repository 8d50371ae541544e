#include "lmxlab/io/http.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#include <curl/curl.h>
#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>

namespace lmxlab::io {
namespace {

// libcurl's functions. It is opened when it is first needed: linked, it and the thirty libraries
// behind it would cost every start of every command 10 ms and 6 MB.
class Curl {
 public:
  static const Curl& get() {
    static const Curl one;
    return one;
  }

  decltype(&curl_easy_init) easy_init;
  decltype(&curl_easy_cleanup) easy_cleanup;
  decltype(&curl_easy_reset) easy_reset;
  decltype(&curl_easy_setopt) easy_setopt;
  decltype(&curl_easy_getinfo) easy_getinfo;
  decltype(&curl_easy_perform) easy_perform;
  decltype(&curl_easy_strerror) easy_strerror;
  decltype(&curl_slist_append) slist_append;
  decltype(&curl_slist_free_all) slist_free_all;
  decltype(&curl_url) url;
  decltype(&curl_url_set) url_set;
  decltype(&curl_url_get) url_get;
  decltype(&curl_url_cleanup) url_cleanup;
  decltype(&curl_free) free;

 private:
  Curl() {
#ifdef __APPLE__
    constexpr const char* kNames[] = {"/usr/lib/libcurl.4.dylib"};
#else
    constexpr const char* kNames[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
#endif
    for (const char* name : kNames)
      if (!library_) library_ = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library_)
      throw Error(Kind::resource, std::string("[http] ") + kNames[0] +
                                      " cannot be opened, which downloads need: install libcurl "
                                      "(Debian: apt-get install libcurl4)");
    decltype(&curl_global_init) global_init;
    find("curl_global_init", global_init);
    find("curl_easy_init", easy_init), find("curl_easy_cleanup", easy_cleanup);
    find("curl_easy_reset", easy_reset), find("curl_easy_setopt", easy_setopt);
    find("curl_easy_getinfo", easy_getinfo), find("curl_easy_perform", easy_perform);
    find("curl_easy_strerror", easy_strerror);
    find("curl_slist_append", slist_append), find("curl_slist_free_all", slist_free_all);
    find("curl_url", url), find("curl_url_set", url_set);
    find("curl_url_get", url_get), find("curl_url_cleanup", url_cleanup), find("curl_free", free);
    if (global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
      throw Error(Kind::internal, "[http] libcurl cannot be started");
  }

  template <class F>
  void find(const char* name, F& function) const {
    function = reinterpret_cast<F>(::dlsym(library_, name));
    if (!function)
      throw Error(Kind::resource, std::string("[http] libcurl has no ") + name +
                                      ": expected version 7.66 or newer");
  }

  void* library_ = nullptr;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool is_passing(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return true;
    default: return false;
  }
}

// What one transfer needs in curl's callbacks, through which no exception may pass.
struct Transfer {
  HttpAnswer answer;
  const HttpSink& sink;
  std::stop_token stop;
  CURL* curl;
  bool enough = false;
  std::exception_ptr thrown = nullptr;
};

size_t on_header(char* data, size_t, size_t size, void* user) {
  auto& t = *static_cast<Transfer*>(user);
  const auto line = trim(std::string_view(data, size));
  if (line.starts_with("HTTP/")) t.answer.headers.clear();  // after an interim answer
  const auto colon = line.find(':');
  if (colon == line.npos || colon == 0) return size;
  t.answer.headers.emplace_back(lower(line.substr(0, colon)), trim(line.substr(colon + 1)));
  return size;
}

size_t on_body(char* data, size_t, size_t size, void* user) {
  auto& t = *static_cast<Transfer*>(user);
  try {
    long status = 0;
    Curl::get().easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &status);
    t.answer.status = static_cast<int>(status);
    t.enough = !t.sink(t.answer, {data, size});
  } catch (...) {
    t.thrown = std::current_exception();
  }
  return t.enough || t.thrown ? CURL_WRITEFUNC_ERROR : size;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Transfer*>(user)->stop.stop_requested() ? 1 : 0;
}

// A parsed address.
class Url {
 public:
  Url() : handle_(Curl::get().url()) {
    if (!handle_) throw std::bad_alloc();
  }
  ~Url() { Curl::get().url_cleanup(handle_); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;

  /// A relative one is joined to what is there.
  bool set(const std::string& text) {
    return Curl::get().url_set(handle_, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK;
  }
  std::string part(CURLUPart which, unsigned flags = 0) const {
    char* text = nullptr;
    if (Curl::get().url_get(handle_, which, &text, flags) != CURLUE_OK) return {};
    const std::string out(text);
    Curl::get().free(text);
    return out;
  }
  std::string scheme() const { return lower(part(CURLUPART_SCHEME)); }
  bool is_web() const {
    return (scheme() == "https" || scheme() == "http") && !part(CURLUPART_HOST).empty();
  }

 private:
  CURLU* handle_;
};

}  // namespace

const std::string* HttpAnswer::header(std::string_view name) const {
  for (const auto& [n, value] : headers)
    if (n == name) return &value;
  return nullptr;
}

int64_t HttpAnswer::number(std::string_view name) const {
  const auto* text = header(name);
  int64_t out = -1;
  if (!text) return -1;
  const auto* end = text->data() + text->size();
  const auto [at, code] = std::from_chars(text->data(), end, out);
  return code == std::errc() && at == end && out >= 0 ? out : -1;
}

struct Http::State {
  HttpOptions options;
  const Curl& library = Curl::get();
  CURL* curl = library.easy_init();
  ~State() { library.easy_cleanup(curl); }
};

Http::Http(const HttpOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
  if (!state_->curl) throw std::bad_alloc();
}

Http::~Http() = default;

HttpAnswer Http::get(const std::string& url, const HttpHeaders& headers, const HttpSink& sink,
                     std::stop_token stop) {
  const auto& options = state_->options;
  const Curl& c = state_->library;
  CURL* const curl = state_->curl;
  Transfer t{{}, sink, std::move(stop), curl};
  char why[CURL_ERROR_SIZE] = "";
  curl_slist* lines = nullptr;
  for (const auto& [name, value] : headers)
    lines = c.slist_append(lines, (name + ": " + value).c_str());

  c.easy_reset(curl);  // connections stay
  c.easy_setopt(curl, CURLOPT_URL, url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
  c.easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  c.easy_setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  c.easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  c.easy_setopt(curl, CURLOPT_HTTPHEADER, lines);
  c.easy_setopt(curl, CURLOPT_USERAGENT, options.user_agent.c_str());
  if (!options.ca_file.empty()) c.easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str());
  if (!options.ca_folder.empty()) c.easy_setopt(curl, CURLOPT_CAPATH, options.ca_folder.c_str());
  c.easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, long{options.connect_s});
  c.easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  c.easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, long{options.silence_s});
  c.easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  c.easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  c.easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L * 1024);
  c.easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
  c.easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  c.easy_setopt(curl, CURLOPT_HEADERDATA, &t);
  c.easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
  c.easy_setopt(curl, CURLOPT_WRITEDATA, &t);
  c.easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  c.easy_setopt(curl, CURLOPT_XFERINFODATA, &t);
  c.easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);

  const CURLcode code = t.stop.stop_requested() ? CURLE_ABORTED_BY_CALLBACK : c.easy_perform(curl);
  long status = 0;
  curl_off_t retry_after = 0;
  c.easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  c.easy_getinfo(curl, CURLINFO_RETRY_AFTER, &retry_after);
  c.easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  c.easy_setopt(curl, CURLOPT_HTTPHEADER, nullptr);
  c.slist_free_all(lines);

  if (t.thrown) std::rethrow_exception(t.thrown);
  if (t.stop.stop_requested()) throw Error(Kind::canceled, "[http] interrupted");
  t.answer.status = static_cast<int>(status);
  if (t.answer.header("retry-after"))
    t.answer.retry_after_s = static_cast<int>(std::min<curl_off_t>(retry_after, 1 << 30));
  if (code != CURLE_OK && !t.enough) {
    t.answer.problem = *why ? why : c.easy_strerror(code);
    t.answer.passing = is_passing(code);
  }
  return std::move(t.answer);
}

std::string url_origin(const std::string& url) {
  Url u;
  if (!u.set(url) || !u.is_web())
    throw Error(Kind::usage,
                "[http] expected an address that begins with https://, got \"" + url + "\"");
  return lower(u.scheme() + "://" + u.part(CURLUPART_HOST) + ":" +
               u.part(CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string redirected(const std::string& url, const std::string& location) {
  Url u;
  if (!u.set(url) || !u.is_web() || !u.set(location) || !u.is_web())
    throw Error(Kind::bad_data,
                "[http] " + url_origin(url) + " redirects to what is no address of the web");
  if (url_origin(url).starts_with("https:") && u.scheme() != "https")
    throw Error(Kind::bad_data, "[http] " + url_origin(url) + " redirects from https to http (" +
                                    u.part(CURLUPART_HOST) + "): expected https all the way");
  return u.part(CURLUPART_URL);
}

std::string percent_encoded(std::string_view text, std::string_view keep) {
  static const char* const kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       keep.find(c) != keep.npos;
    if (plain)
      out += c;
    else
      out += '%', out += kDigits[byte >> 4], out += kDigits[byte & 15];
  }
  return out;
}

}  // namespace lmxlab::io
