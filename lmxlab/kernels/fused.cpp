#include "lmxlab/kernels/fused.h"

#include <mlx/device.h>

#include <atomic>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {
namespace {

std::atomic<bool> on{true};

}  // namespace

bool fused(mlx::core::Dtype dtype) {
  return has_type(dtype) && on.load(std::memory_order_relaxed) &&
         mlx::core::default_device() == mlx::core::Device(mlx::core::Device::cpu);
}

void set_fused(bool use) {
  on = use;
}

}  // namespace lmxlab::kernels
