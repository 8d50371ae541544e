#include "lmxlab/base/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace lmxlab {
namespace {

constexpr size_t kMostOfAPipe = size_t(1) << 30;  // /dev/zero would fill the memory

[[noreturn]] void failed(const std::string& doing, const fs::path& path) {
  const int code = errno;
  const Kind kind = code == ENOENT || code == ENOTDIR ? Kind::not_found : Kind::resource;
  throw Error(kind, "[file] cannot " + doing + " " + path.string() + ": " + std::strerror(code));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

void write_all(int fd, std::string_view content, const fs::path& path) {
  while (!content.empty()) {
    const auto n = ::write(fd, content.data(), content.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      failed("write", path);
    }
    content.remove_prefix(static_cast<size_t>(n));
  }
}

int open_existing(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) failed("open", path);
  struct stat st {};
  if (::fstat(fd, &st) != 0 || S_ISDIR(st.st_mode)) {
    ::close(fd);
    throw Error(Kind::usage, "[file] " + path.string() + " is a folder, expected a file");
  }
  return fd;
}

}  // namespace

std::string read_file(const fs::path& path) {
  const Descriptor file{open_existing(path)};
  std::error_code ignored;
  const bool regular = fs::is_regular_file(path, ignored);
  std::string out;
  char block[1 << 16];
  for (;;) {
    const auto n = ::read(file.fd, block, sizeof block);
    if (n < 0) {
      if (errno == EINTR) continue;
      failed("read", path);
    }
    if (n == 0) return out;
    out.append(block, static_cast<size_t>(n));
    if (!regular && out.size() > kMostOfAPipe)
      throw Error(Kind::resource, "[file] " + path.string() +
                                      " is a pipe or a device with more than 1 GiB, expected one "
                                      "that ends. Save its content as a file.");
  }
}

AtomicFile::AtomicFile(const fs::path& path)
    : path_(path), temporary_(path.parent_path() / ("." + path.filename().string() + ".tmp")) {
  std::error_code ignored;
  if (fs::is_other(path_, ignored))  // the rename would put a file in the place of a device
    throw Error(Kind::usage,
                "[file] " + path_.string() + " is a device or a pipe, expected a file to write");
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) failed("write", path_);
}
AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}
void AtomicFile::write(std::string_view content) {
  write_all(fd_, content, path_);
}
void AtomicFile::commit() {
  if (::fsync(fd_) != 0) failed("write", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) failed("write", path_);
  ::close(std::exchange(fd_, -1));
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

LineWriter::LineWriter(const fs::path& path) : path_(path.string()) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) failed("write", path);
}
LineWriter::~LineWriter() {
  if (fd_ >= 0) ::close(fd_);
}
LineWriter::LineWriter(LineWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
LineWriter& LineWriter::operator=(LineWriter&& other) noexcept {
  std::swap(fd_, other.fd_), std::swap(path_, other.path_);
  return *this;
}
void LineWriter::write(std::string_view line) {
  write_all(fd_, std::string(line) + "\n", path_);
}

FolderLock::FolderLock(const fs::path& folder)
    : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0) failed("open", folder);
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  const bool held = errno == EWOULDBLOCK;
  ::close(std::exchange(fd_, -1));
  // A file system that has no locks is no reason to refuse the work.
  if (held)
    throw Error(Kind::resource,
                "[file] " + folder.string() +
                    " is in use by another process. Wait for it, or choose another folder.");
}
FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

void make_directory(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code)
    throw Error(Kind::resource,
                "[file] cannot make the folder " + path.string() + ": " + code.message());
}

void sync_path(const fs::path& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) failed("open", path);
  if (::fsync(file.fd) != 0) failed("sync", path);
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  // Looked at before it is opened: a pipe without a writer would make open() wait for one.
  std::error_code ignored;
  if (fs::is_other(path, ignored) && path != fs::path("/dev/null"))
    throw Error(Kind::usage,
                "[file] " + path.string() +
                    " is a pipe or a device, expected a file. Save its content first.");
  const Descriptor file{open_existing(path)};
  struct stat st {};
  if (::fstat(file.fd, &st) != 0) failed("read", path);
  size_ = static_cast<size_t>(st.st_size);
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  total_ = page + (size_ + page - 1) / page * page;
  region_ = ::mmap(nullptr, total_, PROT_READ, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (region_ == MAP_FAILED) {
    region_ = nullptr;
    failed("map", path);
  }
  auto* base = static_cast<std::byte*>(region_) + page;
  // A GPU that shares the memory is given these pages as they are (io/mapped_array.h).
#ifdef __APPLE__
  constexpr int kSharing = MAP_SHARED;
#else
  constexpr int kSharing = MAP_PRIVATE;
#endif
  if (size_ > 0 && ::mmap(base, size_, PROT_READ, kSharing | MAP_FIXED, file.fd, 0) == MAP_FAILED) {
    const int code = errno;
    ::munmap(region_, total_);
    errno = code;
    failed("map", path);
  }
  data_ = base;
}

MappedFile::~MappedFile() {
  if (region_) ::munmap(region_, total_);
}

}  // namespace lmxlab
