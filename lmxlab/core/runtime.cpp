#include "lmxlab/core/runtime.h"

#include <mlx/compile.h>
#include <mlx/device.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;

namespace {

// Streams of models that are gone. Each is a thread of the system for ever, and whoever frees
// memory waits for all of them, so that the next model takes one over.
struct FreeStreams {
  std::mutex mutex;
  std::vector<mx::Stream> list;

  static FreeStreams& get() {
    static auto* const all = new FreeStreams;  // leaked: models may outlive static destructors
    return *all;
  }
  mx::Stream take() {
    const std::lock_guard lock(mutex);
    const auto device = mx::default_device();
    const auto found = std::find_if(list.begin(), list.end(),
                                    [&](const mx::Stream& s) { return s.device == device; });
    if (found == list.end()) return mx::new_thread_unsafe_stream(device);
    const auto stream = *found;
    list.erase(found);
    return stream;
  }
  void put(const mx::Stream& stream) {
    const std::lock_guard lock(mutex);
    list.push_back(stream);
  }
};

}  // namespace

struct Runtime::Impl {
  mx::Stream stream = FreeStreams::get().take();
  std::recursive_mutex mutex;
  std::atomic<bool> kept = false;  // as some thread's default
  ~Impl() {
    if (!kept) FreeStreams::get().put(stream);
  }
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
    if (before)
      mx::set_default_stream(*before);
    else
      runtime->impl_->kept = true;
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
