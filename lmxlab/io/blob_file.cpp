#include "lmxlab/io/blob_file.h"

#include "lmxlab/base/text.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace lmxlab::io {
namespace {

void expect_going(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(Kind::canceled, "[hub] interrupted");
}

}  // namespace

BlobFile::BlobFile(const fs::path& path, std::string name, int64_t bytes, std::string checksum,
                   const std::stop_token& stop)
    : path_(path),
      name_(std::move(name)),
      checksum_(std::move(checksum)),
      bytes_(bytes),
      fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)),
      digest_(fresh_digest()) {
  if (fd_ < 0) failed("open");
  try {
    struct stat st {};
    if (::fstat(fd_, &st) != 0) failed("read");
    if (st.st_size > bytes_) restart();
    std::vector<char> block(size_t(1) << 20);
    for (;;) {
      expect_going(stop);
      const auto n = ::pread(fd_, block.data(), block.size(), at_);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) failed("read");
      if (n == 0) break;
      digest_.add({block.data(), static_cast<size_t>(n)});
      at_ += n;
    }
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

BlobFile::~BlobFile() {
  ::close(fd_);
}

Digest BlobFile::fresh_digest() const {
  if (checksum_.size() == 64) return Digest(DigestKind::sha256);
  Digest out(DigestKind::sha1);
  out.add("blob " + std::to_string(bytes_) + std::string(1, '\0'));
  return out;
}

void BlobFile::failed(const std::string& doing) const {
  const int code = errno;
  throw Error(Kind::resource,
              "[hub] cannot " + doing + " " + path_.string() + ": " + std::strerror(code));
}

void BlobFile::add(std::string_view piece) {
  if (at_ + static_cast<int64_t>(piece.size()) > bytes_)
    wrong_length(at_ + static_cast<int64_t>(piece.size()));
  digest_.add(piece);
  // At its place and not at the end: where locks do nothing, two processes write the same bytes.
  while (!piece.empty()) {
    const auto n = ::pwrite(fd_, piece.data(), piece.size(), at_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) failed("write");
    at_ += n;
    piece.remove_prefix(static_cast<size_t>(n));
  }
}

void BlobFile::restart() {
  if (::ftruncate(fd_, 0) != 0) failed("write");
  at_ = 0;
  digest_ = fresh_digest();
}

void BlobFile::wrong_length(int64_t got) {
  ::unlink(path_.c_str());
  throw Error(Kind::bad_data, "[hub] " + name_ + ": expected " + with_commas(bytes_) +
                                  " bytes, got " + with_commas(got) +
                                  ". They were removed; try again, or ask whoever runs the hub.");
}

void BlobFile::finish(const fs::path& final) {
  if (const auto got = digest_.hex(); got != checksum_) {
    ::unlink(path_.c_str());
    throw Error(Kind::bad_data, "[hub] " + name_ + ": expected the checksum " + checksum_ +
                                    ", got " + got +
                                    ". What came was removed; try again to fetch it anew.");
  }
  if (::fsync(fd_) != 0) failed("write");
  if (::rename(path_.c_str(), final.c_str()) == 0) return;
  // Where locks do nothing, another process may have been here first.
  if (errno != ENOENT || ::access(final.c_str(), R_OK) != 0) failed("rename");
}

BlobLock::BlobLock(const fs::path& path, const std::stop_token& stop,
                   const std::function<void()>& waiting) {
  for (bool said = false;;) {
    expect_going(stop);
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (fd_ < 0)
      throw Error(Kind::resource,
                  "[hub] cannot open " + path.string() + ": " + std::strerror(errno));
    const bool held = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    // Who had it may have removed the file, and then somebody else may have the one that is there
    // now. A file system that has no locks is no reason to refuse the work.
    struct stat mine {
    }, there{};
    if (!held && ::fstat(fd_, &mine) == 0 && ::stat(path.c_str(), &there) == 0 &&
        mine.st_ino == there.st_ino)
      return;
    ::close(std::exchange(fd_, -1));
    if (!held) continue;
    if (!std::exchange(said, true) && waiting) waiting();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

BlobLock::~BlobLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace lmxlab::io
