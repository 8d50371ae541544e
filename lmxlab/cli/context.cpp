#include "lmxlab/cli/context.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace lmxlab::cli {
namespace {

[[noreturn]] void failed() {
  const int code = errno;
  if (code == EPIPE) throw ClosedPipe();
  throw Error(Kind::resource,
              std::string("[output] cannot write to standard output: ") + std::strerror(code));
}

}  // namespace

void Context::print(std::string_view text) const {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) failed();
}
void Context::flush() const {
  if (std::fflush(stdout) != 0) failed();
}
void Context::log(std::string_view line) const {
  if (!quiet) std::fprintf(stderr, "%.*s\n", int(line.size()), line.data());
}
void Context::warn(std::string_view text) const {
  log(styled("33", "warning:") + " " + std::string(text));
}
std::string Context::styled(std::string_view style, std::string_view text) const {
  if (!colour) return std::string(text);
  return "\x1b[" + std::string(style) + "m" + std::string(text) + "\x1b[0m";
}
int Context::columns() const {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace lmxlab::cli
