// What an op reads, row-major: the input's own memory, or a copy where a view has gaps or another
// order. Cheaper than mx::contiguous in the graph (a node costs 1 to 2 us of host work), and the
// copy is cut over the pool. And memory for a task's own use.
#pragma once

#include <mlx/allocator.h>
#include <mlx/array.h>

#include <cstdint>
#include <cstring>
#include <memory>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

/// Elements of 1, 2, 4 or 8 bytes at `from` + strides, to `to` in row-major order.
void copy_strided(const void* from, const mlx::core::Shape& shape,
                  const mlx::core::Strides& strides, int64_t element, void* to);

/// Memory for a task, counted by MLX, on a 64-byte line whoever allocates; capture it by value.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(std::make_shared<mlx::core::allocator::Data>(
            mlx::core::allocator::malloc(bytes(count)))) {}
  static size_t bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(T) + 64; }
  T* get() const {
    const auto begin = reinterpret_cast<int64_t>(data_->buffer().raw_ptr());
    return reinterpret_cast<T*>(round_up(begin, 64));
  }

 private:
  std::shared_ptr<mlx::core::allocator::Data> data_;
};

class Dense {
 public:
  /// In eval_cpu; capture it by value in the task.
  explicit Dense(const mlx::core::array& x) : data_(x.data<char>()) {
    if (!x.flags().row_contiguous) {
      view_ =
          std::make_shared<View>(View{x.shape(), x.strides(), static_cast<int64_t>(x.itemsize()),
                                      Scratch<char>(static_cast<int64_t>(x.nbytes()))});
    }
  }
  /// Once, in the task.
  const void* read() const {
    if (!view_) return data_;
    void* const to = view_->copy.get();
    copy_strided(data_, view_->shape, view_->strides, view_->element, to);
    return to;
  }

 private:
  struct View {
    mlx::core::Shape shape;
    mlx::core::Strides strides;
    int64_t element;
    Scratch<char> copy;
  };
  const char* data_;
  std::shared_ptr<View> view_;
};

/// The memory of an output that is an input with a part written anew: the input's own where `give`
/// gave it, else a copy.
class Renewed {
 public:
  /// In eval_cpu, after `give`; capture it by value in the task.
  Renewed(const mlx::core::array& before, mlx::core::array& now)
      : before_(before), now_(now.data<char>()), bytes_(before.nbytes()) {}
  char* data() const { return now_; }
  /// Once, in the task, before anything is written.
  void keep() const {
    if (const void* const from = before_.read(); from != now_) std::memcpy(now_, from, bytes_);
  }

 private:
  Dense before_;
  char* now_;
  size_t bytes_;
};

}  // namespace lmxlab::kernels
