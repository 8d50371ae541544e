// Ctrl-C and its kin: the first asks for a stop, the second ends the program at once.
#pragma once

#include <stop_token>
#include <thread>

namespace lmxlab::cli {

class Signals {
 public:
  /// Takes SIGINT, SIGTERM and (unless it was ignored: nohup) SIGHUP; ignores SIGPIPE and SIGXFSZ,
  /// so that writing to a closed pipe or beyond the largest file size fails with an error instead.
  /// One object a program.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  std::thread watcher_;
};

}  // namespace lmxlab::cli
