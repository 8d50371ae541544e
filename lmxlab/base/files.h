// Files: read whole, mapped, written so that a crash leaves the old or the new content, never half.
#pragma once

#include "lmxlab/base/error.h"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lmxlab {

namespace fs = std::filesystem;

/// @throws Error(not_found) if there is no such file, Error(resource) if it may not be read.
std::string read_file(const fs::path& path);

/// A file in the making: written under a temporary name beside `path`; `commit` syncs and renames
/// it into place. Without a commit the old content stays and the temporary file is removed.
class AtomicFile {
 public:
  /// @throws Error(resource) naming the path, and what the system said (disk full, permission).
  explicit AtomicFile(const fs::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::string_view content);
  void commit();

 private:
  fs::path path_, temporary_;
  int fd_ = -1;
};

/// Writes under a temporary name beside it, syncs, renames. The directory must exist.
/// @throws Error(resource) naming the path, and what the system said (disk full, permission).
void write_file_atomic(const fs::path& path, std::string_view content);

/// Appends a whole line and flushes it to the system.
class LineWriter {
 public:
  LineWriter() = default;
  explicit LineWriter(const fs::path& path);
  ~LineWriter();
  LineWriter(LineWriter&& other) noexcept;
  LineWriter& operator=(LineWriter&& other) noexcept;
  /// @throws Error(resource)
  void write(std::string_view line);

 private:
  int fd_ = -1;
  std::string path_;
};

/// Keeps other processes (and other locks of this one) away from a folder while it lives. Goes with
/// the process, however that ends.
class FolderLock {
 public:
  /// @throws Error(resource) if somebody holds it.
  explicit FolderLock(const fs::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

/// Makes a folder and its parents. @throws Error(resource)
void make_directory(const fs::path& path);
/// Flushes a file's or a folder's content to the disk. @throws Error(resource)
void sync_path(const fs::path& path);

/// A file mapped read-only, with one readable page of zeros in front of its first byte
/// (MLX's CPU buffers keep a header word there, and a zero header marks a view that may be shared).
class MappedFile {
 public:
  /// @throws Error(not_found), Error(resource). An empty file maps to an empty span.
  explicit MappedFile(const fs::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  void* region_ = nullptr;
  const std::byte* data_ = nullptr;
  size_t size_ = 0, total_ = 0;
};

}  // namespace lmxlab
