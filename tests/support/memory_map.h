// What a process has in memory, as Linux tells it in /proc: mapped files, and what is the
// process's own. Linux only.
#pragma once

#ifdef __linux__

#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace lmxlab::test {

/// Whether a process's own memory is what it asked for: the sanitizers keep shadows, and what was
/// freed.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kOwnMemoryTells = false;
#else
inline constexpr bool kOwnMemoryTells = true;
#endif

/// A part of the address space, or sums over several. Bytes.
struct MemoryMap {
  uintptr_t begin = 0, end = 0;
  std::string name = {};  // of the file, empty if there is none
  size_t rss = 0;         // in RAM
  size_t pss = 0;         // the same, each page divided by the processes that map it
  size_t shared = 0;      // in RAM and mapped by other processes too
  size_t anonymous = 0;   // pages that belong to no file: of a mapped file, private copies
};

/// Of a process, 0 being this one; `file` is smaps, or smaps_rollup for the sums.
inline std::vector<MemoryMap> memory_maps(pid_t pid = 0, const char* file = "smaps") {
  const auto process = pid ? std::to_string(pid) : std::string("self");
  std::ifstream in("/proc/" + process + "/" + file);
  if (!in) throw std::runtime_error("cannot read the memory map of process " + process);
  std::vector<MemoryMap> all;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    if (first.empty()) continue;
    if (first.back() != ':') {  // begin-end flags offset device inode name
      MemoryMap m;
      const auto dash = first.find('-');
      m.begin = std::stoull(first.substr(0, dash), nullptr, 16);
      m.end = std::stoull(first.substr(dash + 1), nullptr, 16);
      for (int i = 0; i < 4; ++i) words >> first;
      std::getline(words >> std::ws, m.name);
      all.push_back(m);
      continue;
    }
    size_t kib = 0;
    if (all.empty() || !(words >> kib)) continue;
    auto& m = all.back();
    if (first == "Rss:") m.rss = kib << 10;
    if (first == "Pss:") m.pss = kib << 10;
    if (first == "Shared_Clean:" || first == "Shared_Dirty:") m.shared += kib << 10;
    if (first == "Anonymous:") m.anonymous = kib << 10;
  }
  return all;
}

/// The mappings of one file together. All zero if it is not mapped.
inline MemoryMap map_of(const std::filesystem::path& file, pid_t pid = 0) {
  const auto name = std::filesystem::canonical(file).string();
  MemoryMap sum;
  for (const auto& m : memory_maps(pid)) {
    if (m.name != name) continue;
    sum.name = name;
    sum.rss += m.rss, sum.pss += m.pss, sum.shared += m.shared, sum.anonymous += m.anonymous;
  }
  return sum;
}

/// The name of the file in whose mapping all these bytes lie; empty if there is none.
inline std::string file_at(const void* data, size_t bytes, const std::vector<MemoryMap>& maps) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  for (const auto& m : maps)
    if (at >= m.begin && at + bytes <= m.end) return m.name.starts_with('/') ? m.name : "";
  return "";
}

/// Memory of the process that belongs to no file.
inline size_t anonymous_bytes(pid_t pid = 0) {
  return memory_maps(pid, "smaps_rollup").at(0).anonymous;
}

/// Everything that the process has in RAM.
inline size_t resident_bytes() {
#ifdef __GLIBC__
  malloc_trim(0);  // pages of what was freed, which threads' arenas keep, are no growth
#endif
  std::ifstream in("/proc/self/statm");
  size_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace lmxlab::test

#endif
