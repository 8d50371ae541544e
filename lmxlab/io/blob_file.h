// A file that comes from the network in pieces, over several connections and programs: it knows how
// far it is and what its checksum must be. And the lock that keeps others from writing it too.
#pragma once

#include "lmxlab/base/files.h"
#include "lmxlab/io/digest.h"

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>

namespace lmxlab::io {

/// The bytes that came are in the file at once, and stay there whatever happens, until they are
/// known to be wrong.
class BlobFile {
 public:
  /// Goes on with what an earlier program left at `path`.
  /// @param name  for messages.
  /// @param checksum  64 hexadecimal digits: SHA-256; 40: the SHA-1 that git gives a blob.
  /// @throws Error(resource), Error(canceled)
  BlobFile(const fs::path& path, std::string name, int64_t bytes, std::string checksum,
           const std::stop_token& stop);
  ~BlobFile();
  BlobFile(const BlobFile&) = delete;
  BlobFile& operator=(const BlobFile&) = delete;

  int64_t at() const { return at_; }
  int64_t bytes() const { return bytes_; }
  /// @throws Error(bad_data) if they are too many, as wrong_length; Error(resource) if the disk is
  /// full.
  void add(std::string_view piece);
  /// Forgets what is there.
  void restart();
  /// Removes what is there. @throws Error(bad_data)
  [[noreturn]] void wrong_length(int64_t got);
  /// Checks, syncs, renames to `final`. @throws Error(bad_data) if the checksum is another one,
  /// after what is there was removed; Error(resource).
  void finish(const fs::path& final);

 private:
  Digest fresh_digest() const;
  [[noreturn]] void failed(const std::string& doing) const;

  fs::path path_;
  std::string name_, checksum_;
  int64_t bytes_, at_ = 0;
  int fd_ = -1;
  Digest digest_;
};

/// Held by one process at a time, in the way of Python's filelock. Goes with the process.
class BlobLock {
 public:
  /// Waits until nobody else has it; `waiting` is called once if it has to.
  /// @throws Error(resource), Error(canceled)
  BlobLock(const fs::path& path, const std::stop_token& stop, const std::function<void()>& waiting);
  ~BlobLock();
  BlobLock(const BlobLock&) = delete;
  BlobLock& operator=(const BlobLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace lmxlab::io
