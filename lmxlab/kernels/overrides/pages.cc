#include "lmxlab/kernels/overrides/pages.h"

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
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
// again when all of them are, and its pages go back to the system as soon as nothing lies on them.
struct alignas(kLine) Region {
  size_t used = sizeof(Region), live = 0;
  uint32_t on_page[kRegion / kPage] = {};  // bytes of pieces

  char* begin() { return reinterpret_cast<char*>(this); }
  // f(page, bytes of the piece that lie on it)
  template <class F>
  void each_page(const void* piece, size_t bytes, F f) {
    const auto from = static_cast<size_t>(static_cast<const char*>(piece) - begin());
    for (size_t at = from; at < from + bytes;) {
      const size_t page = at / kPage, end = std::min((page + 1) * kPage, from + bytes);
      f(page, static_cast<uint32_t>(end - at));
      at = end;
    }
  }
  // Gives the pages from first to end - 1 back.
  void drop(size_t first, size_t end) {
    if (end > first) madvise(begin() + first * kPage, (end - first) * kPage, MADV_DONTNEED);
  }
  static Region* of(void* piece) {
    auto* const p = static_cast<char*>(piece);
    return reinterpret_cast<Region*>(p - reinterpret_cast<uintptr_t>(p) % kRegion);
  }
};

std::mutex mutex;
Region* current = nullptr;

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
    if (current) current->drop(current->used / kPage + 1, kRegion / kPage);
    current = new (memory) Region;
  }
  void* const piece = current->begin() + current->used;
  current->used += bytes, current->live += bytes;
  current->each_page(piece, bytes, [](size_t page, uint32_t n) { current->on_page[page] += n; });
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
  // The first page has this, and the last one used gets the next piece.
  const size_t open = region->used / kPage;
  size_t first = 0, end = 0;
  region->each_page(memory, bytes, [&](size_t page, uint32_t n) {
    if ((region->on_page[page] -= n) > 0 || page == 0 || (page == open && region == current))
      return;
    if (end != page) region->drop(first, end), first = page;
    end = page + 1;
  });
  region->drop(first, end);
  allow(memory, 0, bytes);
  if (region->live > 0) return;
  region->used = sizeof(Region);  // the room of all that was taken
  region->drop(std::max<size_t>(open, 1), open + (open < kRegion / kPage));
}

}  // namespace lmxlab::kernels::pages
