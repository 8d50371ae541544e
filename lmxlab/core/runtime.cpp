#include "lmxlab/core/runtime.h"

#include <mlx/compile.h>
#include <mlx/device.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <optional>

namespace lmxlab {
namespace mx = mlx::core;

struct Runtime::Impl {
  mx::Stream stream = mx::new_thread_unsafe_stream(mx::default_device());
  std::recursive_mutex mutex;
};

Runtime::Runtime() {
  prepare_mlx();
  impl_ = std::make_unique<Impl>();
}
Runtime::~Runtime() = default;

struct Enter::Impl {
  explicit Impl(std::shared_ptr<Runtime> r)
      : runtime(std::move(r)),
        lock(runtime->impl_->mutex),
        before(mx::peek_default_stream(runtime->impl_->stream.device)) {
    mx::set_default_stream(runtime->impl_->stream);
  }
  ~Impl() {
    // A thread that had no stream keeps this one: making another would leave a thread of the system
    // behind.
    if (before) mx::set_default_stream(*before);
  }
  std::shared_ptr<Runtime> runtime;
  std::unique_lock<std::recursive_mutex> lock;
  std::optional<mx::Stream> before;
};

Enter::Enter(const std::shared_ptr<Runtime>& runtime) {
  if (runtime) impl_ = std::make_unique<Impl>(runtime);
}
Enter::~Enter() = default;

void prepare_mlx() {
  static const bool once = [] {
    if (mx::default_device() == mx::Device::cpu) mx::set_compile_mode(mx::CompileMode::no_fuse);
    return true;
  }();
  (void)once;
}

}  // namespace lmxlab
