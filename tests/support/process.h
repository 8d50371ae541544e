// Runs a program as a process: arguments, folder, environment, limits; what it printed and how it
// ended.
#pragma once

#include "tests/support/temp_folder.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

extern char** environ;

namespace lmxlab::test {

struct Spawn {
  std::filesystem::path folder = {};  // empty: where the test runs
  /// Added to the environment; an empty value takes the name out.
  std::vector<std::pair<std::string, std::string>> environment = {};
  double timeout_s = 120;
  std::string input = {};                // of standard input
  rlim_t largest_file = RLIM_INFINITY;   // bytes
  rlim_t address_space = RLIM_INFINITY;  // bytes
  int terminal_columns = 0;              // standard error is a terminal of this width; 0: a pipe
};

struct Outcome {
  int code = -1;  // the exit code; -1 if a signal ended it
  int signal = 0;
  bool timed_out = false;
  std::string out, err;
};

/// A running process. Killed if it is still there at the end.
class Child {
 public:
  Child(const std::string& program, const std::vector<std::string>& arguments,
        const Spawn& how = {})
      : deadline_(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(how.timeout_s))) {
    int out[2], err[2];
    if (::pipe(out) != 0) throw std::runtime_error("pipe");
    if (how.terminal_columns > 0) {
      err[0] = ::posix_openpt(O_RDWR | O_NOCTTY);
      if (err[0] < 0 || ::grantpt(err[0]) != 0 || ::unlockpt(err[0]) != 0)
        throw std::runtime_error("posix_openpt");
      err[1] = ::open(::ptsname(err[0]), O_RDWR | O_NOCTTY);
      winsize size{};
      size.ws_row = 24, size.ws_col = static_cast<unsigned short>(how.terminal_columns);
      ::ioctl(err[1], TIOCSWINSZ, &size);
    } else if (::pipe(err) != 0) {
      throw std::runtime_error("pipe");
    }
    // Everything that allocates happens before the fork.
    std::vector<std::string> words{program};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    std::vector<std::string> variables;
    for (char** e = environ; *e; ++e) {
      const std::string name = std::string(*e).substr(0, std::string(*e).find('='));
      bool replaced = false;
      for (const auto& [n, v] : how.environment) replaced = replaced || n == name;
      if (!replaced) variables.emplace_back(*e);
    }
    for (const auto& [n, v] : how.environment)
      if (!v.empty()) variables.push_back(n + "=" + v);
    std::vector<char*> envp;
    for (auto& v : variables) envp.push_back(v.data());
    envp.push_back(nullptr);
    // A file without a name, so that neither side waits for the other.
    std::FILE* const input = how.input.empty() ? nullptr : std::tmpfile();
    if (input) {
      std::fwrite(how.input.data(), 1, how.input.size(), input);
      std::rewind(input);
    }
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork");
    if (pid_ == 0) {
      const int null = input ? ::fileno(input) : ::open("/dev/null", O_RDONLY);
      ::dup2(null, 0), ::dup2(out[1], 1), ::dup2(err[1], 2);
      for (const int fd : {null, out[0], out[1], err[0], err[1]})
        if (fd > 2) ::close(fd);
      if (how.largest_file != RLIM_INFINITY) {
        const rlimit limit{how.largest_file, how.largest_file};
        ::setrlimit(RLIMIT_FSIZE, &limit);
      }
      if (how.address_space != RLIM_INFINITY) {
        const rlimit limit{how.address_space, how.address_space};
        ::setrlimit(RLIMIT_AS, &limit);
      }
      for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(s, SIG_DFL);
      if (!how.folder.empty() && ::chdir(how.folder.c_str()) != 0) ::_exit(126);
      environ = envp.data();
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    if (input) std::fclose(input);
    ::close(out[1]), ::close(err[1]);
    out_ = out[0], err_ = err[0];
  }
  ~Child() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    close_fd(out_), close_fd(err_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  void close_output() { close_fd(out_); }

  /// Until `ready` holds for what was printed so far. @return  whether it came to that.
  bool wait_until(const std::function<bool(const Outcome&)>& ready) {
    while (!ready(result_))
      if (!pump()) return ready(result_);
    return true;
  }
  /// Until the process has ended.
  Outcome wait() {
    while (pump()) {
    }
    if (Clock::now() >= deadline_) result_.timed_out = true, ::kill(pid_, SIGKILL);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    if (WIFEXITED(status)) result_.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result_.signal = WTERMSIG(status);
    return result_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static void close_fd(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
  // Reads what there is; false when both ends are closed or the time is over.
  bool pump() {
    if (out_ < 0 && err_ < 0) return false;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    if (left <= 0) return false;
    pollfd fds[2] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
    if (::poll(fds, 2, static_cast<int>(left)) <= 0) return Clock::now() < deadline_;
    const auto take = [](pollfd& p, int& fd, std::string& text) {
      if (fd < 0 || !(p.revents & (POLLIN | POLLHUP | POLLERR))) return;
      char block[4096];
      const auto n = ::read(fd, block, sizeof block);
      if (n > 0)
        text.append(block, static_cast<size_t>(n));
      else
        close_fd(fd);
    };
    take(fds[0], out_, result_.out), take(fds[1], err_, result_.err);
    return true;
  }

  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  Clock::time_point deadline_;
  Outcome result_;
};

inline Outcome run(const std::string& program, const std::vector<std::string>& arguments,
                   const Spawn& how = {}) {
  return Child(program, arguments, how).wait();
}

}  // namespace lmxlab::test
