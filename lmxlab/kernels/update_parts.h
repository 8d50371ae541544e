// What the optimizers' passes share, with state of 32 bits a number and of 8: the formulas and
// constants of one step, memory, and the op.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lmxlab/kernels/thread_pool.h"
#include "lmxlab/kernels/types.h"
#include "lmxlab/kernels/update.h"

namespace lmxlab::kernels {

enum class Formula : uint8_t {
  keep,
  add,
  sgd,
  momentum,
  nesterov,
  adamw,
  lion,
  blend,
  blend_ahead
};

struct Constants {
  Formula formula = Formula::keep;
  float scale = 1;                       // of gradients
  float rate = 0;                        // lr, for AdamW over 1 - beta1^step
  float shrink = 1;                      // what a decaying parameter is multiplied by
  float decay = 0;                       // Sgd's, of the gradient
  float b1 = 0, c1 = 1, b2 = 0, c2 = 1;  // c = 1 - b
  float root = 1, eps = 0;               // 1 / sqrt(1 - beta2^step)
  uint32_t step = 0;
};

// A parameter with its gradient and state: where they are read, and where they are written, which
// is the same place for a buffer that was given away.
struct Tensor {
  int64_t size;
  Type type, grad_type;
  bool decays;
  const void *from, *grad;
  void* to;
  const void* state_from[4];
  void* state_to[4];
  size_t state_bytes[4];
};

/// f(tensor, begin, end) for all elements of all tensors in units of `unit`, cut as one long row.
template <class F>
void over_all(const std::vector<Tensor>& tensors, int64_t unit, int64_t grain, F f) {
  const auto units = [unit](const Tensor& t) { return (t.size + unit - 1) / unit; };
  std::vector<int64_t> ends;
  int64_t total = 0;
  for (const auto& t : tensors) ends.push_back(total += units(t));
  parallel_for(total, grain, [&](int64_t begin, int64_t end) {
    auto i = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    for (; begin < end; i++) {
      const int64_t start = ends[i] - units(tensors[i]), stop = std::min(end, ends[i]);
      f(tensors[i], begin - start, stop - start);
      begin = stop;
    }
  });
}

/// How state is kept: the pass over it and the same in ordinary ops.
struct UpdateWay {
  using Arrays = std::vector<mlx::core::array>;
  const char* name;
  int arrays;  // for each state of a rule
  void (*run)(const std::vector<Tensor>& tensors, const Constants& now);
  void (*plain)(const Rule& rule, Arrays& params, const Arrays& grads, Arrays& state,
                const std::vector<bool>& decays, const StepNumbers& numbers);
};

/// As kernels::update. @param way  lives as long as the program.
void update(const UpdateWay& way, const Rule& rule, std::vector<mlx::core::array>& params,
            const std::vector<mlx::core::array>& grads, std::vector<mlx::core::array>& state,
            const std::vector<bool>& decays, const StepNumbers& numbers);

}  // namespace lmxlab::kernels
