// Optimizers as pure functions of parameters, gradients, state, learning rate and step: one
// compiled step contains them.
//
// All mathematics is float32, whatever the parameters' dtype; the result is rounded to that dtype
// once. (A bfloat16 parameter loses updates below 1/256 of its value: keep float32 masters where
// that matters.) Weight decay is decoupled, p <- p (1 - lr wd) before the update, except sgd's,
// which is added to the gradient.
//
//   adamw      arXiv:1711.05101, torch.optim.AdamW
//   sgd        torch.optim.SGD with dampening 0
//   lion       arXiv:2302.06675
//   adafactor  arXiv:1804.04235 in the variant of torch.optim.Adafactor: the step size is
//              min(lr, 1/sqrt(step)) times the RMS of the parameter
//   muon       torch.optim.Muon (kellerjordan.github.io/posts/muon) in float32 for the hidden
//              matrices [out, in]; adamw for the others
//
// With state_bits = 8 what is kept between steps has 8 bits a number (kernels/update_8bit.h),
// except of parameters of fewer than 4096 numbers (norms, biases: next to nothing, and delicate)
// and of embeddings, whose rows get gradients of very different sizes.
#pragma once

#include "lmxlab/kernels/update.h"
#include "lmxlab/training/optimizer_config.h"

#include <mlx/array.h>

#include <memory>
#include <string>
#include <vector>

namespace lmxlab {

namespace mx = mlx::core;

struct ParamInfo {
  std::string path;
  mx::Shape shape;
  bool decay = false;   // weight decay acts on it
  bool matrix = false;  // a hidden 2-D weight [out, in]: Muon's domain
  bool embedding = false;
  double lr_ratio = 1;  // its rate over the run's; its decay is divided by it, so that lr * decay
                        // stays (training/mup.h). Of adamw and lion.
};

/// Fills in `decay` by config.decay, `embedding`, and `matrix`: 2-D and neither embedding nor head.
/// Those are recognized by a segment of the dotted path: one that contains "embed", or is wte, wpe;
/// or head, lm_head.
ParamInfo param_info(std::string path, mx::Shape shape, const OptimizerConfig& config);

/// Stateless: the state is a flat list of arrays that the caller owns, only those that the chosen
/// optimizer needs for its parameters (sgd without momentum: none). They are float32; in 8 bits
/// there are int8 or uint8 codes of that name, and their scales, NAME_scale, follow.
///
///                parameter of shape     state, in this order
///   adamw        any                    PATH.m, PATH.v
///   sgd          any, momentum > 0      PATH.momentum
///   lion         any                    PATH.m
///   adafactor    [..., A, B]            PATH.row [..., A, 1], PATH.col [..., 1, B]
///                fewer than 2 dims      PATH.v
///   muon         matrix                 PATH.momentum; others as adamw
///
/// With `ema` a moving average of the parameters follows (training/average.h).
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Lazy zeros. @throws Error(mismatch) if `params` are not those of the ParamInfos, in number and
  /// shapes.
  virtual std::vector<mx::array> init(const std::vector<mx::array>& params) const = 0;
  /// One name for each array of the state, in order; for checkpoints.
  virtual std::vector<std::string> state_names() const = 0;
  /// Shapes and types of the state, in the same order.
  virtual std::vector<mx::Shape> state_shapes() const = 0;
  virtual std::vector<mx::Dtype> state_dtypes() const = 0;
  /// Bytes of the state, for a plan of memory.
  int64_t state_bytes() const;

  /// Rewrites params and state by the next values, lazily. Old buffers are written in place once
  /// the caller holds no other reference to them at the evaluation.
  /// @param grads  one for each parameter, of its shape, any floating dtype
  /// @param numbers  learning rate, step (1 at the first update), what the gradients are multiplied
  /// by, and whether anything changes at all: arguments of a compiled function, not constants.
  /// @throws Error(mismatch) if a number or a shape is wrong.
  virtual void update(std::vector<mx::array>& params, const std::vector<mx::array>& grads,
                      std::vector<mx::array>& state, const kernels::StepNumbers& numbers) const = 0;
  /// The gradients as they are.
  void update(std::vector<mx::array>& params, const std::vector<mx::array>& grads,
              std::vector<mx::array>& state, const mx::array& lr, const mx::array& step) const;
};

/// @throws Error(usage) with everything that check(config) finds, and for a ratio of rates that an
///   optimizer does not take.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          std::vector<ParamInfo> params);

}  // namespace lmxlab
