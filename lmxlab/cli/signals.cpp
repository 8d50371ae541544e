#include "lmxlab/cli/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace lmxlab::cli {
namespace {

int g_pipe[2] = {-1, -1};
volatile std::sig_atomic_t g_seen = 0, g_pieces = 0;

// A stop_source takes locks, so the handler only writes a byte and a thread asks for the stop.
void on_signal(int number) {
  const bool piece = g_pieces && number == SIGINT;
  if (!piece && g_seen) _exit(130);
  if (!piece) g_seen = 1;
  const int code = errno;
  const char byte = piece ? 2 : 1;
  [[maybe_unused]] const auto n = ::write(g_pipe[1], &byte, 1);
  errno = code;
}

}  // namespace

Signals::Signals() {
  std::signal(SIGPIPE, SIG_IGN);
#ifdef SIGXFSZ
  std::signal(SIGXFSZ, SIG_IGN);
#endif
  if (::pipe(g_pipe) != 0) return;  // then the system's defaults stay
  for (const int fd : g_pipe) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  const auto watch = [this] {
    for (char byte = 0;;) {
      const auto n = ::read(g_pipe[0], &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n == 1 && byte != 0) request(byte == 2);
      if (n <= 0 || byte == 0) return;
    }
  };
  try {
    watcher_ = std::thread(watch);
  } catch (const std::system_error&) {  // nor where there is no memory for a thread
    for (const int fd : g_pipe) ::close(fd);
    return;
  }
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction hup {};
  if (sigaction(SIGHUP, nullptr, &hup) == 0 && hup.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, nullptr);
}

std::stop_token Signals::fresh() {
  const std::lock_guard lock(mutex_);
  g_pieces = 1;
  piece_.emplace();
  return piece_->get_token();
}

void Signals::request(bool interrupt) {
  const std::lock_guard lock(mutex_);
  if (!interrupt) source_.request_stop();
  if (piece_) piece_->request_stop();
}

Signals::~Signals() {
  if (!watcher_.joinable()) return;
  const char end = 0;
  [[maybe_unused]] const auto n = ::write(g_pipe[1], &end, 1);
  watcher_.join();
}

}  // namespace lmxlab::cli
