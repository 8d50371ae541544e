#include "lmxlab/kernels/overrides/pages.h"

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <cstdint>
#include <mutex>
#include <new>

namespace lmxlab::kernels::pages {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kPage = size_t{64} << 10;  // a multiple of the pages of every system
constexpr size_t kHuge = size_t{2} << 20;   // a huge page; from here on a piece has its own mapping
constexpr size_t kRegion = size_t{8} << 20;  // and less than that shares a region

constexpr size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// `bytes` of pages from a multiple of `unit` on.
void* map(size_t bytes, size_t unit) {
  void* const p =
      mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<char*>(p);
  const size_t skip =
      round_up(reinterpret_cast<uintptr_t>(p), unit) - reinterpret_cast<uintptr_t>(p);
  if (skip > 0) munmap(begin, skip);
  if (unit > skip) munmap(begin + skip + bytes, unit - skip);
#ifdef MADV_HUGEPAGE
  madvise(begin + skip, bytes, MADV_HUGEPAGE);
#endif
  return begin + skip;
}

// The address sanitizer knows nothing of pieces.
void forbid(void* memory, size_t bytes) noexcept {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(memory, bytes);
#else
  (void)memory, (void)bytes;
#endif
}
void permit(void* memory, size_t bytes) noexcept {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#else
  (void)memory, (void)bytes;
#endif
}

// At its own beginning. Pieces are taken one behind another; the room of a piece given back is used
// again when all of them are.
struct alignas(kLine) Region {
  size_t used = sizeof(Region), live = 0;

  char* begin() { return reinterpret_cast<char*>(this); }
  static Region* of(void* piece) {
    auto* const p = static_cast<char*>(piece);
    return reinterpret_cast<Region*>(p - reinterpret_cast<uintptr_t>(p) % kRegion);
  }
};

std::mutex mutex;
Region* current = nullptr;

}  // namespace

void* take(size_t bytes) {
  if (bytes >= kHuge) return map(round_up(bytes, kPage), kHuge);
  bytes = round_up(bytes, kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!current || current->used + bytes > kRegion) {
    void* const memory = map(kRegion, kRegion);
    if (!memory) return nullptr;
    current = new (memory) Region;
  }
  void* const piece = current->begin() + current->used;
  current->used += bytes, current->live += bytes;
  permit(piece, bytes);
  return piece;
}

void give(void* memory, size_t bytes) noexcept {
  if (bytes >= kHuge) {
    munmap(memory, round_up(bytes, kPage));
    return;
  }
  bytes = round_up(bytes, kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  auto* const region = Region::of(memory);
  region->live -= bytes;
  if (region->live == 0 && region != current) {
    permit(region, kRegion);
    munmap(region, kRegion);
    return;
  }
  // Its whole pages, or those of all.
  auto* begin = static_cast<char*>(memory);
  if (region->live == 0) {
    bytes = region->used - sizeof(Region), begin = region->begin() + sizeof(Region);
    region->used = sizeof(Region);
  }
  auto* const first = begin + round_up(reinterpret_cast<uintptr_t>(begin), kPage) -
                      reinterpret_cast<uintptr_t>(begin);
  const size_t whole =
      begin + bytes > first ? static_cast<size_t>(begin + bytes - first) / kPage : 0;
  if (whole > 0) madvise(first, whole * kPage, MADV_DONTNEED);
  forbid(begin, bytes);
}

}  // namespace lmxlab::kernels::pages
