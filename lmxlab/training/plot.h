// The loss over the steps as an SVG picture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab {

struct LossPoint {
  int64_t step = 0;
  double loss = 0;  // nats per token; not finite: left out
  std::optional<double> val_loss = {};
};

/// A line chart of training and validation loss, 720 x 420, in colours that show on light and dark
/// ground. Points are in the order of their steps. Needs no font file and no script. At most about
/// 1,500 points a line are drawn: of more, the smallest and largest of each stretch.
std::string loss_curve_svg(const std::vector<LossPoint>& points, const std::string& title);

}  // namespace lmxlab
