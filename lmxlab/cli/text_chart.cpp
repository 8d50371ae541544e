#include "lmxlab/cli/text_chart.h"

#include "lmxlab/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lmxlab::cli {
namespace {

int column_of(double x, double most, int columns) {
  return most > 0 ? std::clamp(int(x / most * columns), 0, columns - 1) : 0;
}

std::string label(double y) {
  char text[32];
  std::snprintf(text, sizeof text, "%8.3f", y);
  return text;
}

}  // namespace

Points averaged(const Points& points, double most, int columns) {
  struct Sum {
    double x = 0, y = 0;
    int n = 0;
  };
  std::vector<Sum> sums(static_cast<size_t>(columns));
  for (const auto& [x, y] : points) {
    auto& s = sums[static_cast<size_t>(column_of(x, most, columns))];
    s.x += x, s.y += y, ++s.n;
  }
  Points out;
  for (const auto& s : sums)
    if (s.n > 0) out.emplace_back(s.x / s.n, s.y / s.n);
  return out;
}

std::string text_chart(const std::vector<ChartLine>& lines, const std::string& x_name, int columns,
                       int rows) {
  double most = 0, low = INFINITY, high = -INFINITY;
  for (const auto& line : lines)
    for (const auto& [x, y] : line.points) most = std::max(most, x);
  std::vector<Points> drawn;
  for (const auto& line : lines) {
    drawn.push_back(averaged(line.points, most, columns));
    for (const auto& [x, y] : drawn.back()) low = std::min(low, y), high = std::max(high, y);
  }
  std::vector<std::string> grid(size_t(rows), std::string(size_t(columns), ' '));
  for (size_t i = drawn.size(); i-- > 0;)
    for (const auto& [x, y] : drawn[i]) {
      const double down = high > low ? (high - y) / (high - low) : 0.5;
      const auto row = size_t(std::lround(down * (rows - 1)));
      grid[row][size_t(column_of(x, most, columns))] = char('a' + i);
    }
  std::string out;
  for (int r = 0; r < rows; ++r) {
    const bool named = r == 0 || r == rows - 1 || r == rows / 2;
    auto text =
        (named ? label(high - (high - low) * r / std::max(1, rows - 1)) : std::string(8, ' ')) +
        " |" + grid[size_t(r)];
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  const auto end = human_count(most) + " " + x_name;
  out += std::string(9, ' ') + "+" + std::string(size_t(columns), '-') + "\n" +
         std::string(10, ' ') + "0" +
         std::string(size_t(std::max(1, columns - 1 - int(end.size()))), ' ') + end + "\n";
  for (size_t i = 0; i < lines.size(); ++i)
    out += std::string(1, char('a' + i)) + "  " + lines[i].name + "\n";
  return out;
}

}  // namespace lmxlab::cli
