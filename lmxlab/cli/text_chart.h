// Lines in a grid of characters, a letter each: for terminals.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lmxlab::cli {

using Points = std::vector<std::pair<double, double>>;  // x, y

/// The mean of x and of y in each of `columns` equal stretches of [0, most] that has any points.
Points averaged(const Points& points, double most, int columns);

struct ChartLine {
  std::string name;
  Points points;
};
constexpr size_t kMostChartLines = 26;

/// The y axis on the left, x from 0 to the largest below, then a line a name. Where two lines meet
/// the first is seen.
/// @param lines  one to kMostChartLines, with a point or more in all
std::string text_chart(const std::vector<ChartLine>& lines, const std::string& x_name, int columns,
                       int rows);

}  // namespace lmxlab::cli
