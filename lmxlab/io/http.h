// GET over HTTP and HTTPS, by libcurl, which is opened at the first use: the body goes to a
// callback as it comes. Certificates are verified, and proxies are those that curl finds in its
// environment (https_proxy, no_proxy, ...). A redirect is an answer like others: who may be asked
// next, and told what, is the caller's matter.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::io {

struct HttpOptions {
  std::string user_agent = "lmxlab";
  std::string ca_file, ca_folder;  // of certificates that are believed; empty: the system's
  int connect_s = 30;              // until there is a connection
  int silence_s = 30;              // without a byte: then it counts as cut
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpAnswer {
  int status = 0;          // 0: none came
  HttpHeaders headers;     // names in lower case
  int retry_after_s = -1;  // what the server asks for; -1: nothing
  std::string problem;     // why there is no whole answer, empty if there is one
  bool passing = false;    // the problem may be gone the next time: a cut, a time-out

  /// Null if there is none.
  const std::string* header(std::string_view name) const;
  /// Of a header in decimal digits; -1 if there is none or it is no number.
  int64_t number(std::string_view name) const;
};

/// A piece of the body of an answer whose status and headers are there. False: no more is wanted.
using HttpSink = std::function<bool(const HttpAnswer&, std::string_view)>;

/// Keeps connections open from one call to the next. One thread at a time.
class Http {
 public:
  explicit Http(const HttpOptions& options);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  /// What the network does wrong is said in the answer; what the sink throws comes out of here.
  /// @throws Error(canceled) soon after a stop was asked for.
  HttpAnswer get(const std::string& url, const HttpHeaders& headers, const HttpSink& sink,
                 std::stop_token stop = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// "https://name:443", in lower case: what has to be equal for a secret to be told.
/// @throws Error(usage) for what is no http or https address.
std::string url_origin(const std::string& url);

/// Where a redirect from `url` leads, whose location may be relative.
/// @throws Error(bad_data) for what is no http or https address, or leaves https for http.
std::string redirected(const std::string& url, const std::string& location);

/// A part of an address with everything but letters, digits and "-._~" as %XX; `keep` stays too.
std::string percent_encoded(std::string_view text, std::string_view keep = {});

}  // namespace lmxlab::io
