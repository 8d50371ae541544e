// A reward that another program computes, over two pipes.
#include "lmxlab/align/rewards.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>

extern char** environ;

namespace lmxlab::align {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::milliseconds(300);  // to end by itself

// A write to a program that is gone must be an error and not a signal, whatever the process has
// set: blocked in this thread, and taken away if it came.
class NoBrokenPipe {
 public:
  NoBrokenPipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    was_pending_ = pending();
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoBrokenPipe() {
    if (!was_pending_ && pending()) {
      int signal = 0;
      ::sigwait(&pipe_, &signal);
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoBrokenPipe(const NoBrokenPipe&) = delete;
  NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;

 private:
  static bool pending() {
    sigset_t set;
    ::sigpending(&set);
    return sigismember(&set, SIGPIPE) == 1;
  }
  sigset_t pipe_{}, before_{};
  bool was_pending_ = false;
};

// A file descriptor that no child of the process inherits.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {
    if (fd_ >= 0) ::fcntl(fd_, F_SETFD, FD_CLOEXEC);
  }
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

struct Pipe {
  Descriptor read, write;
  Pipe() {
    int ends[2];
    if (::pipe(ends) != 0)
      throw Error(Kind::resource,
                  std::string("[reward] no pipe for the program: ") + std::strerror(errno));
    read = Descriptor(ends[0]), write = Descriptor(ends[1]);
  }
};

// Killed with all that it started, and waited for, at the end.
class Process {
 public:
  explicit Process(const std::vector<std::string>& command) {
    Pipe in, out;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_adddup2(&actions, in.read.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
    sigset_t none, pipe;
    sigemptyset(&none), sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &pipe);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    std::vector<char*> arguments;
    for (const auto& a : command) arguments.push_back(const_cast<char*>(a.c_str()));
    arguments.push_back(nullptr);
    const int fault =
        ::posix_spawnp(&pid_, arguments[0], &actions, &attributes, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    if (fault != 0)
      throw Error(fault == ENOENT ? Kind::not_found : Kind::resource,
                  "[reward] " + command[0] + " cannot be started: " + std::strerror(fault) +
                      ". Give the path of a program, or put it on the PATH.");
    to = std::move(in.write), from = std::move(out.read);
    for (const auto* end : {&to, &from}) ::fcntl(end->get(), F_SETFL, O_NONBLOCK);
  }
  ~Process() {
    to.close();
    end();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits a moment for it to end, else kills it; how it ended.
  std::string end() {
    for (const auto until = Clock::now() + kGrace; pid_ > 0;) {
      int status = 0;
      const pid_t got = ::waitpid(pid_, &status, WNOHANG);
      if (got == pid_) {
        ::kill(-pid_, SIGKILL);  // what it left behind
        pid_ = -1;
        how_ = WIFEXITED(status) ? "ended with exit code " + std::to_string(WEXITSTATUS(status))
                                 : "was ended by signal " + std::to_string(WTERMSIG(status));
      } else if (Clock::now() >= until) {
        kill();
        how_ = "closed its output";
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    return how_;
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }

  Descriptor to, from;

 private:
  pid_t pid_ = -1;
  std::string how_;
};

std::string line_of(const Completion& c) {
  return Json::object({{"prompt", c.sample->prompt},
                       {"completion", Json(c.text)},
                       {"answer", Json(c.sample->answer)},
                       {"tokens", Json(c.tokens)},
                       {"ended", Json(c.ended)}})
             .dump() +
         "\n";
}

// The beginning of a line that may be anything.
std::string shown(const std::string& line) {
  std::string out = line.substr(0, 80);
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return out.empty() ? "an empty line" : "'" + out + "'";
}

class External : public Reward {
 public:
  explicit External(const Program& program) : program_(program) {
    if (program.command.empty() || program.command[0].empty())
      throw Error(Kind::usage, "[reward] command: expected a program, got none");
    if (!(program.timeout_s > 0 && program.timeout_s < 1e6))
      throw Error(Kind::usage, "[reward] timeout_s: expected seconds above 0, got " +
                                   Json(program.timeout_s).dump());
  }

  std::vector<double> operator()(std::span<const Completion> completions) override {
    const std::lock_guard one(mutex_);
    if (completions.empty()) return {};
    const NoBrokenPipe safe;
    try {
      if (process_)
        expect_silence();
      else
        process_ = std::make_unique<Process>(program_.command);
      return ask(completions);
    } catch (...) {
      if (process_) process_->kill();
      process_.reset();
      throw;
    }
  }

 private:
  [[noreturn]] void fail(Kind kind, const std::string& what) const {
    throw Error(kind, "[reward] " + program_.command[0] + " " + what);
  }

  // What it says before it is asked again is a line too many of the last batch.
  void expect_silence() const {
    char c = 0;
    if (::read(process_->from.get(), &c, 1) > 0)
      fail(Kind::bad_data, "wrote more lines than it got completions. Write one for each.");
  }

  std::vector<double> ask(std::span<const Completion> completions) {
    const size_t count = completions.size();
    const std::string wanted = std::to_string(count) + " lines, one a completion";
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                             std::chrono::duration<double>(program_.timeout_s));
    std::string out, in;
    for (const auto& c : completions) out += line_of(c);
    size_t written = 0;
    std::vector<double> rewards;
    char buffer[1 << 14];
    while (rewards.size() < count) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0)
        fail(Kind::resource, "took too long: expected " + wanted + ", within " +
                                 Json(program_.timeout_s).dump() + " s, got " +
                                 std::to_string(rewards.size()) +
                                 ". Flush its output after each line, or raise timeout_s.");
      pollfd ends[] = {{process_->from.get(), POLLIN, 0},
                       {written < out.size() ? process_->to.get() : -1, POLLOUT, 0}};
      if (::poll(ends, 2, static_cast<int>(std::min<int64_t>(left.count(), 1000))) < 0 &&
          errno != EINTR)
        fail(Kind::internal, std::string("cannot be waited for: ") + std::strerror(errno));
      if (ends[1].revents) {
        const auto n = ::write(process_->to.get(), out.data() + written, out.size() - written);
        if (n > 0) written += static_cast<size_t>(n);
        if (n < 0 && errno == EPIPE) written = out.size();  // its output tells what happened
      }
      if (!ends[0].revents) continue;
      const auto n = ::read(process_->from.get(), buffer, sizeof buffer);
      if (n < 0) continue;
      if (n == 0)
        fail(Kind::bad_data, process_->end() + ": expected " + wanted + ", got " +
                                 std::to_string(rewards.size()) + ". See what it says by hand.");
      in.append(buffer, static_cast<size_t>(n));
      for (size_t end; (end = in.find('\n')) != std::string::npos; in.erase(0, end + 1)) {
        if (rewards.size() == count)
          fail(Kind::bad_data, "wrote more lines than it got completions: expected " + wanted +
                                   ". Write one for each.");
        rewards.push_back(reward(in.substr(0, end), rewards.size()));
      }
    }
    if (!in.empty())
      fail(Kind::bad_data,
           "wrote more than it got completions: expected " + wanted + ". Write one for each.");
    return rewards;
  }

  double reward(const std::string& line, size_t index) const {
    const auto wrong = [&] {
      fail(Kind::bad_data, "wrote line " + std::to_string(index + 1) +
                               ": expected a finite number or {\"reward\": number}, got " +
                               shown(line));
    };
    Json value;
    try {
      value = Json::parse(line, "a reward");
    } catch (const Error&) {
      wrong();
    }
    const Json* number = value.is_object() ? value.find("reward") : &value;
    if (!number || !number->is_number() || !std::isfinite(number->as_number())) wrong();
    return number->as_number();
  }

  Program program_;
  std::mutex mutex_;
  std::unique_ptr<Process> process_;
};

}  // namespace

std::shared_ptr<Reward> external_reward(const Program& program) {
  return std::make_shared<External>(program);
}

}  // namespace lmxlab::align
