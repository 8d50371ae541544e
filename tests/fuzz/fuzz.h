// What the fuzz targets share: an input passes if it is read, or refused by an Error that says why.
#pragma once

#include "lmxlab/base/files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace lmxlab::fuzz {

/// Reports a finding: libFuzzer keeps the input.
[[noreturn]] inline void finding(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  std::abort();
}

/// Runs `read`. Our own mistakes and foreign exceptions are findings; so is a message that says
/// nothing. With FUZZ_SHOW in the environment refusals are printed.
/// @return  whether it was read
template <class F>
bool accepts(F&& read) {
  try {
    read();
    return true;
  } catch (const Error& e) {
    static const bool show = std::getenv("FUZZ_SHOW") != nullptr;
    if (show) std::fprintf(stderr, "refused: %s\n", e.what());
    if (e.kind() == Kind::internal || e.kind() == Kind::canceled || !*e.what())
      finding(std::string(kind_name(e.kind())) + ": " + e.what());
  } catch (const std::exception& e) {
    finding(std::string("not an Error: ") + e.what());
  }
  return false;
}

/// The bytes as a file in memory, for readers that take a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", 0)) {
    if (fd_ < 0 || ::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      finding("the file in memory could not be written");
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  fs::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace lmxlab::fuzz
