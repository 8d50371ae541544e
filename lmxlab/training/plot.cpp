#include "lmxlab/training/plot.h"

#include "lmxlab/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lmxlab {
namespace {

constexpr double kWidth = 720, kHeight = 420;
constexpr double kLeft = 62, kRight = 24, kTop = 48, kBottom = 48;
constexpr const char* kTrain = "#3b82c4";
constexpr const char* kValidation = "#e07b39";
constexpr const char* kInk = "#7d8590";  // readable on white and on black

struct XY {
  double x, y;
};
using Line = std::vector<XY>;

std::string text_of(double v, int digits) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, v);
  return buffer;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

/// Round numbers, about `count` of them, that span low to high.
struct Ticks {
  double first, last, step;
  int digits;
};
Ticks ticks(double low, double high, int count, bool whole) {
  if (!(high > low)) {
    const double room = std::max(std::abs(low) * 0.1, whole ? 1.0 : 0.1);
    low -= whole ? 0 : room, high += room;
  }
  const double raw = (high - low) / count;
  double step = std::pow(10, std::floor(std::log10(raw)));
  for (const double m : {2.0, 2.5, 5.0, 10.0}) {
    if (step >= raw * 0.999) break;
    if (whole && m == 2.5 && step < 10) continue;
    step = std::pow(10, std::floor(std::log10(raw))) * m;
  }
  if (whole) step = std::max(1.0, std::round(step));
  int digits = 0;
  for (double s = step; digits < 6 && std::abs(s - std::round(s)) > 1e-6; s *= 10) ++digits;
  return {std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step, digits};
}

// The smallest and the largest of each stretch, in their order, so that no spike is lost.
Line thinned(const Line& line, size_t stretches) {
  if (line.size() <= 2 * stretches) return line;
  Line out;
  for (size_t i = 0; i < stretches; ++i) {
    const auto begin = line.begin() + ptrdiff_t(line.size() * i / stretches);
    const auto end = line.begin() + ptrdiff_t(line.size() * (i + 1) / stretches);
    auto [low, high] = std::minmax_element(begin, end, [](XY a, XY b) { return a.y < b.y; });
    if (high < low) std::swap(low, high);
    out.push_back(*low);
    if (high != low) out.push_back(*high);
  }
  return out;
}

}  // namespace

std::string loss_curve_svg(const std::vector<LossPoint>& points, const std::string& title) {
  Line train, validation;
  for (const auto& p : points) {
    if (std::isfinite(p.loss)) train.push_back({double(p.step), p.loss});
    if (p.val_loss && std::isfinite(*p.val_loss))
      validation.push_back({double(p.step), *p.val_loss});
  }
  double low = 0, high = 1, end = 1;
  bool first = true;
  for (const Line* line : {&train, &validation})
    for (const XY& p : *line) {
      low = first ? p.y : std::min(low, p.y), high = first ? p.y : std::max(high, p.y);
      end = first ? p.x : std::max(end, p.x);
      first = false;
    }
  const Ticks x = ticks(0, std::max(end, 1.0), 6, true);
  const Ticks y = ticks(low, high, 5, false);
  const double right = std::max(end, 1.0);  // the lines end at the frame
  const auto at_x = [&](double v) { return kLeft + v / right * (kWidth - kLeft - kRight); };
  const auto at_y = [&](double v) {
    return kHeight - kBottom - (v - y.first) / (y.last - y.first) * (kHeight - kTop - kBottom);
  };

  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 420\" width=\"720\" "
      "height=\"420\" "
      "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
      "font-size=\"12\" fill=\"" +
      std::string(kInk) + "\">\n";
  const auto text = [&](double px, double py, const std::string& anchor, const std::string& s,
                        const std::string& more = "") {
    out += "<text x=\"" + text_of(px, 1) + "\" y=\"" + text_of(py, 1) + "\" text-anchor=\"" +
           anchor + "\"" + more + ">" + escaped(s) + "</text>\n";
  };
  const auto rule = [&](double x1, double y1, double x2, double y2, const std::string& style) {
    out += "<line x1=\"" + text_of(x1, 1) + "\" y1=\"" + text_of(y1, 1) + "\" x2=\"" +
           text_of(x2, 1) + "\" y2=\"" + text_of(y2, 1) + "\" " + style + "/>\n";
  };
  text(kLeft, 26, "start", title, " font-size=\"15\" font-weight=\"600\"");
  const std::string ink(kInk);
  for (int i = 0; i <= int(std::round((y.last - y.first) / y.step)); ++i) {
    const double v = y.first + i * y.step;
    rule(kLeft, at_y(v), kWidth - kRight, at_y(v),
         "stroke=\"" + ink + "\" stroke-opacity=\"0.25\"");
    text(kLeft - 8, at_y(v) + 4, "end", text_of(v, y.digits));
  }
  const double base = kHeight - kBottom;
  rule(kLeft, base, kWidth - kRight, base, "stroke=\"" + ink + "\"");
  for (int i = 0; i * x.step <= right * (1 + 1e-9); ++i) {
    const double v = i * x.step;
    rule(at_x(v), base, at_x(v), base + 5, "stroke=\"" + ink + "\"");
    text(at_x(v), base + 19, "middle", with_commas(int64_t(std::llround(v))));
  }
  text((kLeft + kWidth - kRight) / 2, kHeight - 10, "middle", "step");
  text(16, (kTop + base) / 2, "middle", "loss (nats per token)",
       " transform=\"rotate(-90 16 " + text_of((kTop + base) / 2, 1) + ")\"");

  const auto draw = [&](const Line& line, const char* colour, double width, bool dots) {
    if (line.empty()) return;
    out += "<polyline fill=\"none\" stroke=\"" + std::string(colour) + "\" stroke-width=\"" +
           text_of(width, 1) + "\" stroke-linejoin=\"round\" points=\"";
    for (const XY& p : thinned(line, 750))
      out += text_of(at_x(p.x), 1) + "," + text_of(at_y(p.y), 1) + " ";
    out.back() = '"';
    out += "/>\n";
    if (dots || line.size() == 1)
      for (const XY& p : line)
        out += "<circle cx=\"" + text_of(at_x(p.x), 1) + "\" cy=\"" + text_of(at_y(p.y), 1) +
               "\" r=\"3\" fill=\"" + std::string(colour) + "\"/>\n";
  };
  draw(train, kTrain, 1.3, false);
  draw(validation, kValidation, 2.2, validation.size() <= 40);

  double legend = kWidth - kRight;
  const auto entry = [&](const Line& line, const char* colour, const std::string& name) {
    if (line.empty()) return;
    const std::string label = name + " " + text_of(line.back().y, 3);
    text(legend, 26, "end", label);
    legend -= 6.6 * double(label.size()) + 28;
    rule(legend, 22, legend + 20, 22, "stroke=\"" + std::string(colour) + "\" stroke-width=\"3\"");
    legend -= 16;
  };
  entry(validation, kValidation, "validation");
  entry(train, kTrain, "training");
  return out + "</svg>\n";
}

}  // namespace lmxlab
