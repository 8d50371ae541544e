// What hides MLX's rules about threads: streams, the compile cache and default keys belong to a
// thread there.
#pragma once

#include <memory>
#include <mutex>

namespace lmxlab {

/// A stream that any thread may use, and the lock that makes it one at a time. Every model has one,
/// so two models run side by side and one model may be called from any thread.
class Runtime {
 public:
  Runtime();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

 private:
  friend class Enter;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Makes a runtime's stream current in this thread for a scope, and holds its lock. May be nested.
/// Every public function that builds or evaluates arrays of a model enters first.
class Enter {
 public:
  explicit Enter(const std::shared_ptr<Runtime>& runtime);  // null: enters nothing
  ~Enter();
  Enter(const Enter&) = delete;
  Enter& operator=(const Enter&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Settings of MLX that the library relies on, made once, by the first Runtime: `compile` keeps its
/// tracing but never calls a compiler on the CPU.
void prepare_mlx();

}  // namespace lmxlab
