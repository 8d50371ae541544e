// Ctrl-C and its kin: the first asks for a stop, the second ends the program at once.
#pragma once

#include <mutex>
#include <optional>
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

  /// Of the whole program.
  std::stop_token token() const { return source_.get_token(); }
  /// From now on Ctrl-C asks for one piece of work to stop, and not for the program: the token of
  /// the piece that begins now. (Other signals still end the program.)
  std::stop_token fresh();

 private:
  void request(bool interrupt);

  std::stop_source source_;
  std::mutex mutex_;
  std::optional<std::stop_source> piece_;
  std::thread watcher_;
};

}  // namespace lmxlab::cli
