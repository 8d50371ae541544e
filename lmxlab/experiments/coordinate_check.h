// The coordinate check of muP ("Tensor Programs V", arXiv:2203.03466, appendix D.1): a recipe is
// trained for a few steps at several widths, and the sizes of its activations are compared. With
// muP what training changes is of one size at every width; without, it grows.
#pragma once

#include "lmxlab/training/run.h"

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

namespace lmxlab {

struct CoordinateOptions {
  std::vector<int> widths = {};  // of model.dim; none: the base's, 2, 4 and 8 times it
  int steps = 4, seeds = 3;
  double tolerance = 0.3;  // of a slope. Without muP they are 0.6 to 3; with it, at widths of a few
                           // hundred and few seeds, within about 0.2
};

/// One kind of activation: "embedding", "mixer", "ffn", "output" (of a block), "logits".
struct Coordinate {
  std::string layer;
  std::vector<double> size;                 // mean |x| after the last step, a width each
  std::vector<double> change;               // mean |x - what it was at first|
  double size_slope = 0, change_slope = 0;  // of their logarithms over the width's
};

struct CoordinateCheck {
  std::vector<int> widths;
  std::vector<Coordinate> layers;
  double tolerance = 0;
  /// Nothing grows with the width, and what training does to the model's answer, the logits, does
  /// not shrink either.
  bool ok = true;
};

/// Means over seeds, layers and the first batch of the data; the recipe's batch, context, rate and
/// optimizer, without warmup or decay. Evaluates; costs seeds * steps of each width.
/// @param each  called after each model: how many are done, of how many
/// @throws Error(usage) for fewer than two widths, or a recipe whose width is not model.dim's;
///   Error(canceled); what train_run throws.
CoordinateCheck check_coordinates(const Recipe& recipe, const CoordinateOptions& options,
                                  std::stop_token stop = {},
                                  const std::function<void(int, int)>& each = {});

}  // namespace lmxlab
