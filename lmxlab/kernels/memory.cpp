#include "lmxlab/kernels/memory.h"

#include <dlfcn.h>
#include <mlx/mlx.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "lmxlab/kernels/overrides/hooks.h"
#include "lmxlab/kernels/thread_pool.h"

namespace mx = mlx::core;

namespace lmxlab::kernels {
namespace {

constinit std::atomic<const detail::AllocatorHooks*> allocator_hooks{nullptr};
constinit std::atomic<const detail::GemmHooks*> gemm_hooks{nullptr};
constinit std::atomic<const detail::QueueHooks*> queue_hooks{nullptr};

// What "cblas_sgemm" means to a library that leaves it undefined, as libmlx does.
const void* bound_sgemm() {
  return dlsym(RTLD_DEFAULT, "cblas_sgemm");
}

}  // namespace

void detail::register_allocator(const AllocatorHooks* hooks) {
  allocator_hooks = hooks;
}
void detail::register_queue(const QueueHooks* hooks) {
  queue_hooks = hooks;
}
void detail::register_gemm(const GemmHooks* hooks) {
  gemm_hooks = hooks;
}

size_t active_bytes() {
  return mx::get_active_memory();
}
size_t peak_bytes() {
  return mx::get_peak_memory();
}
void reset_peak() {
  mx::reset_peak_memory();
}
size_t cache_bytes() {
  return mx::get_cache_memory();
}
size_t set_cache_limit(size_t bytes) {
  return mx::set_cache_limit(bytes);
}
size_t kept_beside(size_t peak) {
  return std::max(peak / 100, size_t{24} << 20);
}
void clear_cache() {
  mx::clear_cache();
}
void page_out(const void* data, size_t bytes) {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto last = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_PAGEOUT);
#else
  static_cast<void>(data), static_cast<void>(bytes);
#endif
}

size_t memory_limit() {
  return mx::get_memory_limit();
}
size_t set_memory_limit(size_t bytes) {
  return mx::set_memory_limit(bytes);
}
void set_queue_limit(size_t bytes) {
  if (const auto* hooks = queue_hooks.load()) hooks->set_limit(bytes);
}

bool own_allocator() {
  static const bool own = [] {
    const auto* hooks = allocator_hooks.load();
    if (!hooks) {
      return false;
    }
    // This constructor lies inside libmlx and takes a buffer there and then.
    float value = 0;
    const auto before = hooks->blocks_of_this_thread();
    const mx::array probe(&value, {1}, mx::float32, [](void*) {});
    return hooks->blocks_of_this_thread() > before;
  }();
  return own;
}

bool own_gemm() {
  const auto* hooks = gemm_hooks.load();
  return hooks && bound_sgemm() == hooks->entry;
}

uint64_t gemm_calls() {
  const auto* hooks = gemm_hooks.load();
  return hooks ? hooks->calls() : 0;
}

void step_begins() {
  if (const auto* hooks = allocator_hooks.load()) hooks->step(true);
}
void steps_are_over() {
  if (const auto* hooks = allocator_hooks.load()) hooks->step(false);
}

std::string allocator_name() {
  if (own_allocator()) {
    return "lmxlab";
  }
  return mx::gpu::is_available() ? "MLX (GPU)" : "MLX (CPU)";
}

std::string gemm_name() {
  if (own_gemm()) {
    const int n = threads();
    return std::string("lmxlab (") + gemm_hooks.load()->engine() + "), " + std::to_string(n) +
           (n == 1 ? " thread" : " threads");
  }
  if (mx::gpu::is_available()) {
    return "MLX (GPU)";
  }
  Dl_info info{};
  const void* bound = bound_sgemm();
  if (!bound || !dladdr(bound, &info) || !info.dli_fname) {
    return "MLX (CPU)";
  }
  const std::string path = info.dli_fname;
  return path.substr(path.rfind('/') + 1);
}

namespace {
thread_local MemoryUse memory_use = MemoryUse::graph;
}
MemoryFor::MemoryFor(MemoryUse use) : before_(memory_use) {
  memory_use = use;
}
MemoryFor::~MemoryFor() {
  memory_use = before_;
}
MemoryUse MemoryFor::now() {
  return memory_use;
}

}  // namespace lmxlab::kernels
