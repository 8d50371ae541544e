// The idiom of a kernel of ours for MLX's CPU back end: a primitive with one fused evaluation, and
// the same function in ordinary ops. The ordinary ops serve other devices and dtypes, forward-mode
// gradients, vmap and the tests.
//
// To add an op: derive from Op, say `name` and `plain`, evaluate in `eval_cpu` with `task`, give
// `vjp`; a public function takes arrays only and returns `plain` where fused() says no. Inputs of
// any strides come: read them through Dense (dense.h), or make them `dense` while building.
#pragma once

#include <mlx/mlx.h>
#include <mlx/primitives.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/tasks.h"
#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

using Arrays = std::vector<mlx::core::array>;

inline mlx::core::Stream cpu_stream() {
  return mlx::core::default_stream(mlx::core::Device(mlx::core::Device::cpu));
}

/// Row-contiguous; shares the buffer where x is so already.
inline mlx::core::array dense(const mlx::core::array& x) {
  return mlx::core::contiguous(x);
}

class Op : public mlx::core::Primitive {
 public:
  Op() : Primitive(cpu_stream()) {}

  /// The same function in ordinary ops.
  virtual Arrays plain(const Arrays& inputs) const = 0;
  /// Whether another op of the same name computes the same function.
  virtual bool same(const Op&) const { return true; }

  void eval_gpu(const Arrays&, Arrays&) override {
    throw Error(Kind::internal, std::string("[kernels] ") + name() + " runs on the CPU only.");
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* op = dynamic_cast<const Op*>(&other);
    return op && std::string(op->name()) == name() && same(*op);
  }

  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs,
                                           const std::vector<int>& axes) override {
    auto outputs = mlx::core::vmap(function(), axes)(inputs);
    std::vector<int> out_axes(outputs.size(), 0);
    return {std::move(outputs), std::move(out_axes)};
  }

  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override {
    Arrays all;
    size_t next = 0;
    for (size_t i = 0; i < primals.size(); i++) {
      const bool given = next < argnums.size() && argnums[next] == static_cast<int>(i);
      all.push_back(given ? tangents[next++] : mlx::core::zeros_like(primals[i]));
    }
    return mlx::core::jvp(function(), primals, all).second;
  }

  /// Through the ordinary ops: what gradient ops use for second derivatives.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    auto function_of_some = [this, &primals, &argnums](const Arrays& some) {
      auto inputs = primals;
      for (size_t i = 0; i < argnums.size(); i++) {
        inputs[argnums[i]] = some[i];
      }
      return plain(inputs);
    };
    Arrays some;
    for (const int i : argnums) {
      some.push_back(primals[i]);
    }
    return mlx::core::vjp(function_of_some, some, cotangents).second;
  }

 protected:
  /// A new buffer, or the input's own where nobody else will read it.
  static void give(mlx::core::array& out) {
    out.set_data(mlx::core::allocator::malloc(out.nbytes()));
  }
  static void give(mlx::core::array& out, const mlx::core::array& in) {
    if (in.is_donatable() && in.flags().row_contiguous && in.nbytes() == out.nbytes()) {
      out.copy_shared_buffer(in);
    } else {
      give(out);
    }
  }

  /// First thing in the eval_cpu of an op with several outputs, so that its inputs can be given
  /// away: each output holds the inputs once more, which MLX drops right after eval_cpu anyway.
  static void release_inputs(const Arrays& inputs, Arrays& outputs) {
    for (auto& out : outputs) {
      if (!out.is_tracer() && out.has_primitive() && &out.inputs() != &inputs) {
        out.inputs().clear();
      }
    }
  }

  /// Queues work. Capture raw pointers by value: MLX keeps the buffers until it has run. Not by the
  /// encoder's `dispatch`, which holds the graph back after some fifty ops, to bound its memory,
  /// and wakes it again and again: our allocator bounds it.
  template <class F>
  void task(F&& work) {
    queue_task(stream(), [work = std::forward<F>(work)]() mutable {
      const MemoryFor here(MemoryUse::task);
      work();
    });
  }

 private:
  std::function<Arrays(const Arrays&)> function() const {
    return [this](const Arrays& inputs) { return plain(inputs); };
  }
};

/// The single output, of the shape of `like`, of a new op.
inline mlx::core::array output_like(const mlx::core::array& like, std::shared_ptr<Op> op,
                                    Arrays inputs) {
  return mlx::core::array(like.shape(), like.dtype(), std::move(op), std::move(inputs));
}

}  // namespace lmxlab::kernels
