// What the process may use of the machine: processors and memory, with every limit set from
// outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lmxlab::kernels {

/// Processors this process may run on: the affinity mask and the cgroup's CPU quota (rounded up).
/// At least 1.
int usable_cpus();

/// Bytes of memory the process could ever hold: RAM, or the cgroup's limit where that is smaller.
size_t memory_size();

/// Bytes that can still be taken from the system, and what sets the bound.
struct MemoryRoom {
  size_t bytes = SIZE_MAX;
  std::string bound;  // "RAM", "the cgroup" or "RLIMIT_AS"
};

/// Reads /proc and the cgroup files (about 50 us); on other systems there is no bound.
MemoryRoom memory_room();

/// Where RLIMIT_AS is set, threads share one heap of the C library's: each one's own would take 64
/// to 128 MiB of it. Call it before there are threads.
void spare_address_space();

/// The most memory that the process had in RAM since the start or the last reset, as Linux counts
/// it (VmHWM); 0 where the system does not tell. Besides arrays it holds the program, its
/// libraries, and files read through a mapping.
size_t peak_resident();
/// Where the system refuses, the peak goes on from the start.
void reset_peak_resident();

}  // namespace lmxlab::kernels
