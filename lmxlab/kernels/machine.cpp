#include "lmxlab/kernels/machine.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#ifdef __linux__
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#endif
#include <unistd.h>

namespace lmxlab::kernels {
namespace {

#ifdef __linux__

// Folders of this process's cgroup for a controller, from its own up to the root; version 2 first.
// In a container the path of the host may not exist below the mount: those folders are simply
// absent.
std::vector<std::string> cgroup_folders(const std::string& controller) {
  std::vector<std::string> folders;
  auto climb = [&](const std::string& mount, std::string path) {
    for (;;) {
      folders.push_back(mount + (path == "/" ? "" : path));
      if (path.empty() || path == "/") {
        return;
      }
      path.resize(path.rfind('/'));
    }
  };
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    std::string names(1, ',');
    names.append(line, first + 1, second - first - 1).push_back(',');
    const auto path = line.substr(second + 1);
    if (names == ",,") {
      climb("/sys/fs/cgroup", path);
    } else if (names.find("," + controller + ",") != std::string::npos) {
      climb("/sys/fs/cgroup/" + controller, path);
    }
  }
  return folders;
}

std::optional<uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) {
    return value;
  }
  return std::nullopt;  // absent, or "max"
}

uint64_t field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  for (uint64_t value = 0; file >> key >> value;) {
    if (key == name) {
      return value;
    }
  }
  return 0;
}

struct Cgroup {
  uint64_t limit = UINT64_MAX;
  uint64_t room = UINT64_MAX;
};

// Page cache that nobody uses counts as free: the kernel drops it before it kills.
Cgroup cgroup_memory() {
  Cgroup out;
  for (const auto& folder : cgroup_folders("memory")) {
    auto limit = read_number(folder + "/memory.max");
    auto used = read_number(folder + "/memory.current");
    const char* idle = "inactive_file";
    if (!used) {
      limit = read_number(folder + "/memory.limit_in_bytes");
      used = read_number(folder + "/memory.usage_in_bytes");
      idle = "total_inactive_file";
    }
    if (!limit || !used || *limit >= uint64_t{1} << 60) {
      continue;
    }
    const auto held = *used - std::min(*used, field(folder + "/memory.stat", idle));
    out.limit = std::min(out.limit, *limit);
    out.room = std::min(out.room, *limit - std::min(*limit, held));
  }
  return out;
}

int cgroup_cpus() {
  int cpus = INT32_MAX;
  auto take = [&](double quota, double period) {
    if (quota > 0 && period > 0) {
      cpus = std::min(cpus, std::max(1, static_cast<int>((quota + period - 1) / period)));
    }
  };
  for (const auto& folder : cgroup_folders("cpu")) {
    std::ifstream file(folder + "/cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period) {
      take(quota, period);
    }
    const auto old_quota = read_number(folder + "/cpu.cfs_quota_us");  // -1 (none) wraps around
    if (old_quota && *old_quota < uint64_t{1} << 40) {
      take(static_cast<double>(*old_quota),
           static_cast<double>(read_number(folder + "/cpu.cfs_period_us").value_or(0)));
    }
  }
  return cpus;
}

#endif

}  // namespace

int usable_cpus() {
  int cpus = std::max(1u, std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    cpus = std::max(1, CPU_COUNT(&set));
  }
  cpus = std::min(cpus, cgroup_cpus());
#endif
  return cpus;
}

size_t memory_size() {
  const auto pages = sysconf(_SC_PHYS_PAGES);
  const auto page = sysconf(_SC_PAGESIZE);
  uint64_t bytes = pages > 0 && page > 0 ? uint64_t(pages) * uint64_t(page) : SIZE_MAX;
#ifdef __linux__
  bytes = std::min(bytes, cgroup_memory().limit);
#endif
  return bytes;
}

MemoryRoom memory_room() {
  MemoryRoom room;
#ifdef __linux__
  auto bound = [&](uint64_t bytes, const char* by) {
    if (bytes < room.bytes) {
      room = {size_t(bytes), by};
    }
  };
  // Stacks, page tables and the allocations of everything else must still fit.
  auto less_reserve = [](uint64_t bytes) {
    return bytes - std::min<uint64_t>(bytes, uint64_t{64} << 20);
  };
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("MemAvailable:", 0) == 0) {
      bound(less_reserve(std::stoull(line.substr(13)) * 1024), "RAM");
      break;
    }
  }
  bound(less_reserve(cgroup_memory().room), "the cgroup");
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const auto used = read_number("/proc/self/statm").value_or(0) * uint64_t(sysconf(_SC_PAGESIZE));
    bound(limit.rlim_cur - std::min<uint64_t>(limit.rlim_cur, used), "RLIMIT_AS");
  }
#endif
  return room;
}

void spare_address_space() {
#ifdef __GLIBC__
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) mallopt(M_ARENA_MAX, 1);
#endif
}

size_t peak_resident() {
#ifdef __linux__
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmHWM:", 0) == 0) {
      return std::stoull(line.substr(6)) * 1024;
    }
  }
#endif
  return 0;
}

void reset_peak_resident() {
#ifdef __linux__
  std::ofstream("/proc/self/clear_refs") << '5';
#endif
}

}  // namespace lmxlab::kernels
