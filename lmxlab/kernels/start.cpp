#include "lmxlab/kernels/start.h"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/event.h>
#include <mlx/primitives.h>
#include <mlx/scheduler.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "lmxlab/kernels/memory.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Data = std::remove_cvref_t<decltype(std::declval<array>().data_shared_ptr())>;

constexpr size_t kHeldAtMost = size_t{256} << 10;  // bytes that wait for the end of the step

bool unscheduled(const array& a) {
  return a.status() == array::Status::unscheduled;
}

void mark(array& a, array::Status status) {
  a.set_status(status);
  for (auto& s : a.siblings()) s.set_status(status);
}

// The nodes of the graph, inputs before what reads them. They are marked as evaluated on the way,
// which is how a node is known that was seen before.
class Order {
 public:
  /// @return  false, with nothing changed, if it is no graph for one CPU stream.
  bool find(std::vector<array> outputs) {
    for (auto& o : outputs) {
      if (unscheduled(o) && !visit(o)) {
        give_up();
        return false;
      }
    }
    return true;
  }
  size_t left() const { return nodes_.size() - next_; }
  array take() { return std::move(nodes_[next_++]); }
  /// What was not taken is unevaluated again.
  void give_up() {
    for (size_t i = next_; i < nodes_.size(); i++) mark(nodes_[i], array::Status::unscheduled);
    for (auto& [a, i] : path_) mark(*a, array::Status::unscheduled);
    path_.clear();
  }
  const mx::Stream& stream() const { return *stream_; }

 private:
  bool visit(array& from) {
    if (!enter(from)) return false;
    while (!path_.empty()) {
      auto& [a, i] = path_.back();
      if (i < a->inputs().size()) {
        auto& in = a->inputs()[i++];
        if (unscheduled(in)) {
          if (!enter(in)) return false;
        } else if (const auto& e = in.event(); e.valid() && e.stream() != *stream_) {
          return false;  // another stream's: MLX knows how to wait for it
        }
      } else {
        nodes_.push_back(*a);
        path_.pop_back();
      }
    }
    return true;
  }
  bool enter(array& a) {
    if (!a.has_primitive() || a.is_tracer()) return false;
    const auto stream = a.primitive().stream();
    if (stream.device != mx::Device::cpu) return false;
    if (!stream_) stream_ = stream;
    if (*stream_ != stream) return false;
    mark(a, array::Status::evaluated);
    path_.emplace_back(&a, 0);
    return true;
  }

  std::optional<mx::Stream> stream_;
  std::vector<std::pair<array*, size_t>> path_;
  std::vector<array> nodes_;
  size_t next_ = 0;
};

// Buffers that queued work still reads or writes.
class Held {
 public:
  explicit Held(const mx::Stream& stream) : stream_(stream) {}
  void add(const Data& data) {
    if (!data) return;
    bytes_ += mx::allocator::allocator().size(data->buffer());
    all_.push_back(data);
    if (bytes_ > kHeldAtMost) let_go();
  }
  void add(std::vector<array>& temporaries) {
    for (auto& t : temporaries) add(t.data_shared_ptr());
    temporaries.clear();
  }
  /// They are dropped when all that is queued now has run.
  void let_go() {
    mx::scheduler::enqueue(stream_, [all = std::move(all_)]() mutable { all.clear(); });
    all_.clear();
    bytes_ = 0;
  }

 private:
  mx::Stream stream_;
  std::vector<Data> all_;
  size_t bytes_ = 0;
};

void run(array a, Held& held) {
  auto outputs = a.outputs();
  for (auto& in : a.inputs()) {
    if (in.event().valid()) in.is_available();  // drops the event of what is done
  }
  a.primitive().eval_cpu(a.inputs(), outputs);
  std::vector<Data> read;
  for (auto& in : a.inputs()) read.push_back(in.data_shared_ptr());
  a.detach();
  const auto given = [&](const Data& data) {  // an input that is an output now
    return std::any_of(outputs.begin(), outputs.end(),
                       [&](const array& o) { return o.data_shared_ptr() == data; });
  };
  for (const auto& data : read) {
    if (!given(data)) held.add(data);
  }
  // An output that nobody asked for is written nevertheless.
  for (const auto& o : outputs) {
    if (o.is_donatable()) held.add(o.data_shared_ptr());
  }
}

}  // namespace

void start(const std::vector<array>& outputs) {
  Order order;
  if (!order.find(outputs)) return mx::async_eval(outputs);
  if (order.left() == 0) return;
  const InStep here;
  const auto stream = order.stream();
  Held held(stream);
  auto& encoder = mx::cpu::get_command_encoder(stream);
  try {
    while (order.left() > 1) {
      run(order.take(), held);
      held.add(encoder.temporaries());
    }
  } catch (...) {
    order.give_up();
    held.let_go();
    throw;
  }
  held.let_go();
  // The last one through MLX, whose event comes after all of them.
  order.give_up();
  const auto last = order.take();
  mx::async_eval({last});
  for (const auto& o : outputs) {
    if (!o.event().valid()) o.attach_event(last.event());
  }
}

}  // namespace lmxlab::kernels
