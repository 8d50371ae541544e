#include "lmxlab/kernels/overrides/pages.h"

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <cstdint>
#include <mutex>
#include <new>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels::pages {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kPage = size_t{64} << 10;  // a multiple of the pages of every system
constexpr size_t kHuge = size_t{2} << 20;   // a huge page; from here on a piece has its own mapping
constexpr size_t kRegion = size_t{8} << 20;  // and less than that shares a region

size_t whole(size_t bytes, size_t unit) {
  return static_cast<size_t>(round_up(static_cast<int64_t>(bytes), static_cast<int64_t>(unit)));
}
// The first multiple of `unit` from p on.
char* next(char* p, size_t unit) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  return p + (whole(at, unit) - at);
}

// `bytes` of pages from a multiple of `unit` on.
void* map(size_t bytes, size_t unit) {
  void* const p =
      mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  auto* const all = static_cast<char*>(p);
  auto* const begin = next(all, unit);
  const auto skip = static_cast<size_t>(begin - all);
  if (skip > 0) munmap(all, skip);
  munmap(begin + bytes, unit - skip);
#ifdef MADV_HUGEPAGE
  madvise(begin, bytes, MADV_HUGEPAGE);
#endif
  return begin;
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

// Whole pages of [begin, end), whose content is not needed.
void drop(char* begin, char* end) {
  begin = next(begin, kPage);
  if (end > begin) madvise(begin, static_cast<size_t>(end - begin) / kPage * kPage, MADV_DONTNEED);
}

}  // namespace

void allow(void* memory, size_t n, size_t bytes) noexcept {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory, n);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + n, bytes - n);
#else
  (void)memory, (void)n, (void)bytes;
#endif
}

void* take(size_t bytes) {
  if (bytes >= kHuge) return map(whole(bytes, kPage), kHuge);
  bytes = whole(bytes, kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!current || current->used + bytes > kRegion) {
    void* const memory = map(kRegion, kRegion);
    if (!memory) return nullptr;
    // Its last huge page came whole, needed or not.
    if (current) drop(current->begin() + current->used, current->begin() + kRegion);
    current = new (memory) Region;
  }
  void* const piece = current->begin() + current->used;
  current->used += bytes, current->live += bytes;
  allow(piece, bytes, bytes);
  return piece;
}

void give(void* memory, size_t bytes) noexcept {
  if (bytes >= kHuge) {
    munmap(memory, whole(bytes, kPage));
    return;
  }
  bytes = whole(bytes, kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  auto* const region = Region::of(memory);
  region->live -= bytes;
  if (region->live == 0 && region != current) {
    allow(region, kRegion, kRegion);
    munmap(region, kRegion);
    return;
  }
  auto* begin = static_cast<char*>(memory);
  if (region->live == 0) {  // the room of all that was taken
    bytes = region->used - sizeof(Region), begin = region->begin() + sizeof(Region);
    region->used = sizeof(Region);
  }
  drop(begin, begin + bytes);
  allow(begin, 0, bytes);
}

}  // namespace lmxlab::kernels::pages
