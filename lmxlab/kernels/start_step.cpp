#include "lmxlab/kernels/start_step.h"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/event.h>
#include <mlx/primitives.h>
#include <mlx/scheduler.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/tasks.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Data = std::remove_cvref_t<decltype(std::declval<array>().data_shared_ptr())>;

constexpr size_t kHeldAtMost = size_t{256} << 10;  // bytes that wait for the end of their batch
constexpr size_t kTasksInBatch = 16;

bool unscheduled(const array& a) {
  return a.status() == array::Status::unscheduled;
}

void mark(const array& a, array::Status status) {
  a.set_status(status);
  for (const auto& s : a.siblings()) s.set_status(status);
}

// The nodes of the graph, inputs before what reads them. They are marked as evaluated on the way,
// which is how a node is known that was seen before.
class Order {
 public:
  /// @return  false, with nothing changed, if it is no graph for one CPU stream.
  bool find(const std::vector<array>& outputs) {
    for (const auto& o : outputs) {
      if (unscheduled(o) && !visit(o)) {
        give_up();
        return false;
      }
    }
    return true;
  }
  bool empty() const { return next_ == nodes_.size(); }
  array take() { return std::move(nodes_[next_++]); }
  /// What was not taken is unevaluated again.
  void give_up() {
    for (size_t i = next_; i < nodes_.size(); i++) mark(nodes_[i], array::Status::unscheduled);
    for (auto& [a, i] : path_) mark(*a, array::Status::unscheduled);
    path_.clear();
  }
  const mx::Stream& stream() const { return *stream_; }

 private:
  bool visit(const array& from) {
    if (!enter(from)) return false;
    while (!path_.empty()) {
      auto& [a, i] = path_.back();
      if (i < a->inputs().size()) {
        const auto& in = a->inputs()[i++];
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
  bool enter(const array& a) {
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
  std::vector<std::pair<const array*, size_t>> path_;
  std::vector<array> nodes_;
  size_t next_ = 0;
};

// Tasks of our ops, and buffers that these or earlier ones read or write. MLX's queue would take
// a lock and wake its thread for each task, and that thread would free memory that this one takes:
// both then wait for malloc's lock, and a wait costs a microsecond's task fifty.
struct Batch {
  Tasks tasks;
  std::vector<Data> held;
  int64_t step = 0;
  std::atomic<bool> done{false};
};

// Batches in the queue. The thread that filled them drops those of a step once it has waited for
// it, and not as soon as they have run: what two steps take together, and so the peak, would be a
// matter of time.
class Batches {
 public:
  static Batches& of_thread() {
    static thread_local Batches all;
    return all;
  }
  // The step before the last is over whether or not it was waited for.
  void begin_step() { tidy(step_++ - 1); }
  void ends_with(const mx::Event& event) { events_.emplace_back(id(event), step_); }
  /// Everything up to the step that this event ends.
  void tidy(const mx::Event& event) {
    for (const auto& [of, step] : events_)
      if (of == id(event)) return tidy(step);
  }
  void tidy() { tidy(step_); }

  void queue(std::unique_ptr<Batch> batch, const mx::Stream& stream) {
    batch->step = step_;
    auto* const b = all_.emplace_back(std::move(batch)).get();
    // Whatever is thrown, and in a rehearsal without having run.
    const std::shared_ptr<void> done(
        nullptr, [b](void*) { b->done.store(true, std::memory_order_release); });
    mx::scheduler::enqueue(stream, [b, done] { b->tasks.run(); });
  }
  ~Batches() {
    tidy();
    for (auto& b : all_) b.release();  // the queue still needs it, and its thread has ended
  }

 private:
  static const void* id(const mx::Event& event) { return &event.cast<char>(); }
  void tidy(int64_t step) {
    while (!all_.empty() && all_.front()->step <= step &&
           all_.front()->done.load(std::memory_order_acquire))
      all_.pop_front();
    while (!events_.empty() && events_.front().second <= step) events_.pop_front();
  }

  std::deque<std::unique_ptr<Batch>> all_;
  std::deque<std::pair<const void*, int64_t>> events_;
  int64_t step_ = 0;
};

// What the caller keeps until the step is done: its arrays, and their buffers once they are there.
class Kept {
 public:
  explicit Kept(const std::vector<array>& outputs) {
    ids_.reserve(outputs.size());
    for (const auto& o : outputs) ids_.push_back(o.id());
    std::sort(ids_.begin(), ids_.end());
  }
  void add(const array& output) {
    if (std::binary_search(ids_.begin(), ids_.end(), output.id()))
      buffers_.insert(output.data_shared_ptr().get());
  }
  bool has(const Data& data) const { return buffers_.count(data.get()) > 0; }

 private:
  std::vector<std::uintptr_t> ids_;
  std::unordered_set<const void*> buffers_;
};

// Fills batches for a stream.
class Queue {
 public:
  explicit Queue(const mx::Stream& stream) : stream_(stream) {}
  Tasks& tasks() { return batch_->tasks; }
  void hold(const Data& data) {
    if (!data) return;
    bytes_ += mx::allocator::allocator().size(data->buffer());
    batch_->held.push_back(data);
    if (bytes_ > kHeldAtMost) let_go();
  }
  void hold(std::vector<array>& temporaries) {
    for (auto& t : temporaries) hold(t.data_shared_ptr());
    temporaries.clear();
  }
  void flush() {
    if (batch_->tasks.empty() && batch_->held.empty()) return;
    Batches::of_thread().queue(std::exchange(batch_, std::make_unique<Batch>()), stream_);
    bytes_ = 0;
  }

 private:
  // Too much to wait for the thread that tidies: dropped when all that is queued now has run.
  void let_go() {
    auto held = std::move(batch_->held);
    batch_->held.clear();
    flush();
    mx::scheduler::enqueue(stream_, [held = std::move(held)]() mutable { held.clear(); });
    bytes_ = 0;
  }

  mx::Stream stream_;
  std::unique_ptr<Batch> batch_ = std::make_unique<Batch>();
  size_t bytes_ = 0;
};

void run(array a, const mx::Event& event, Queue& queue, Kept& kept) {
  auto outputs = a.outputs();
  for (auto& o : outputs) o.attach_event(event);
  const bool ours = dynamic_cast<const Op*>(&a.primitive());
  if (!ours || queue.tasks().size() >= kTasksInBatch) queue.flush();
  try {
    const Collect here(ours ? &queue.tasks() : nullptr);
    a.primitive().eval_cpu(a.inputs(), outputs);
  } catch (...) {
    mark(a, array::Status::unscheduled);
    for (auto& o : outputs) o.attach_event({});
    throw;
  }
  std::vector<Data> read;
  for (auto& in : a.inputs()) read.push_back(in.data_shared_ptr());
  a.detach();
  const auto given = [&](const Data& data) {  // an input that is an output now
    return std::any_of(outputs.begin(), outputs.end(),
                       [&](const array& o) { return o.data_shared_ptr() == data; });
  };
  // A view of what the caller keeps, such as of a cache, is not held either: the next step could
  // not write into that.
  for (const auto& o : outputs) kept.add(o);
  for (const auto& data : read) {
    if (!given(data) && !kept.has(data)) queue.hold(data);
  }
  read.clear();  // or an output in an input's buffer would seem to be someone's
  // An output that nobody asked for is written nevertheless.
  for (const auto& o : outputs) {
    if (o.is_donatable()) queue.hold(o.data_shared_ptr());
  }
}

// All of it as one node for MLX, which makes an event for it and signals it when all has run.
class Step : public mx::UnaryPrimitive {
 public:
  Step(Order& order, mx::Stream stream, const std::vector<array>& outputs)
      : UnaryPrimitive(stream), order_(order), kept_(outputs) {}
  const char* name() const override { return "lmxlab::Step"; }
  void eval_cpu(const std::vector<array>&, array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    const MemoryFor here(MemoryUse::step);
    Batches::of_thread().ends_with(out.event());
    Queue queue(stream());
    auto& encoder = mx::cpu::get_command_encoder(stream());
    try {
      while (!order_.empty()) {
        run(order_.take(), out.event(), queue, kept_);
        queue.hold(encoder.temporaries());
      }
    } catch (...) {
      order_.give_up();
      queue.flush();
      throw;
    }
    queue.flush();
  }
  void eval_gpu(const std::vector<array>&, array&) override {}

 private:
  Order& order_;
  Kept kept_;
};

}  // namespace

void start_step(const std::vector<array>& outputs) {
  Batches::of_thread().begin_step();
  Order order;
  if (!order.find(outputs)) return mx::async_eval(outputs);
  if (order.empty()) return;
  step_begins();
  mx::async_eval(
      {array({}, mx::bool_, std::make_shared<Step>(order, order.stream(), outputs), {})});
}

void wait_for(const array& output) {
  auto a = output;
  const auto event = a.event();
  if (event.valid() && event.stream().device == mx::Device::cpu) {
    work_until([&] { return a.is_available(); });
    mx::scheduler::check_error(event.stream());
  }
  a.eval();
  if (event.valid()) Batches::of_thread().tidy(event);
  steps_are_over();
}

void finish_steps() {
  if (!rehearsing()) mx::synchronize();
  Batches::of_thread().tidy();
}

}  // namespace lmxlab::kernels
