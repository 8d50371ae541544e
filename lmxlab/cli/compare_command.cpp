#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/text_chart.h"
#include "lmxlab/cli/text_table.h"
#include "lmxlab/experiments/compare.h"

#include <cmath>

namespace lmxlab::cli {
namespace {

constexpr int kChartColumns = 90, kChartRows = 16, kCurvePoints = 100;

Json number(const std::optional<double>& v) {
  return v ? Json(*v) : Json();
}
Json summary(const Summary& s) {
  return Json::object({{"mean", Json(s.mean)},
                       {"sd", number(s.sd)},
                       {"low", number(s.low)},
                       {"high", number(s.high)}});
}

// Enough digits to tell runs apart, whatever the metric.
std::string digits(double v) {
  char text[48];
  std::snprintf(text, sizeof text, std::abs(v) < 1000 ? "%.4f" : "%.4g", v);
  return text;
}
std::string short_number(double v) {
  char text[48];
  std::snprintf(text, sizeof text, "%.2g", v);
  return text;
}

std::string flops_text(double v) {
  char text[48];
  std::snprintf(text, sizeof text, "%.3g", v);
  return text;
}

class Compare : public Command {
  std::vector<std::string> runs_;
  CompareOptions options_;
  std::string reference_ = "first";
  std::optional<std::string> plot_;

  void declare(Options& o) override {
    o.argument("RUN...", &runs_, "run folders, or sweeps, which stand for all their runs")
        .require();
    o.option("--metric", "NAME", &options_.metric, "what is compared").one_of(comparable_metrics());
    auto orders = comparable_metrics();
    orders.insert(orders.begin(), {"given", "name"});
    o.option("--sort", "BY", &options_.sort, "order of the groups; metrics from small to large")
        .one_of(orders);
    o.option("--reference", "GROUP", &reference_, "the group that the others are compared with")
        .one_of({"first", "best"});
    o.option("--plot", "AXIS", &plot_, "draws the training losses; with --json, a `curve` a group")
        .one_of(curve_axes());
  }

  int run(Context& context) override {
    options_.reference = reference_ == "best" ? Reference::best : Reference::first;
    const auto found = compare_runs({runs_.begin(), runs_.end()}, options_);
    if (plot_ && found.groups.size() > kMostChartLines)
      throw Error(Kind::usage, "[compare] --plot draws at most " + std::to_string(kMostChartLines) +
                                   " groups, there are " + std::to_string(found.groups.size()));
    if (context.json) {
      print_json(context, found);
      return 0;
    }
    print_table(context, found);
    if (plot_) {
      std::vector<ChartLine> lines;
      for (const auto& g : found.groups) lines.push_back({g.name, loss_points(g, *plot_)});
      const int columns = std::min(context.columns(), kChartColumns) - 12;
      context.print("\n" + text_chart(lines, *plot_, columns, kChartRows));
    }
    return 0;
  }

  void print_json(const Context& context, const RunComparison& found) const {
    Json::Array groups, left_out;
    for (const auto& g : found.groups) {
      Json::Array folders, seeds;
      for (const auto& r : g.runs)
        folders.push_back(Json(r.folder.string())), seeds.push_back(Json(r.seed));
      Json group = Json::object({{"name", Json(g.name)},
                                 {"runs", Json(g.runs.size())},
                                 {"val_loss", g.val_loss ? summary(*g.val_loss) : Json()},
                                 {"parameters", Json(g.parameters)},
                                 {"flops", Json(g.flops)},
                                 {"seconds", Json(g.seconds)},
                                 {"peak_bytes", Json(g.peak_bytes)},
                                 {"metric", summary(g.metric)},
                                 {"seeds", Json(std::move(seeds))},
                                 {"folders", Json(std::move(folders))}});
      if (const auto& d = g.against)
        group["against_reference"] = Json::object({{"difference", Json(d->mean)},
                                                   {"low", number(d->low)},
                                                   {"high", number(d->high)},
                                                   {"p", number(d->p)},
                                                   {"cohens_d", number(d->d)},
                                                   {"hedges_g", number(d->g)}});
      if (plot_) {
        const auto points = loss_points(g, *plot_);
        double most = 0;
        for (const auto& [x, y] : points) most = std::max(most, x);
        Json::Array curve;
        for (const auto& [x, y] : averaged(points, most, kCurvePoints))
          curve.push_back(Json(Json::Array{Json(x), Json(y)}));
        group["curve"] = Json(std::move(curve));
      }
      groups.push_back(std::move(group));
    }
    for (const auto& l : found.left_out)
      left_out.push_back(
          Json::object({{"folder", Json(l.folder.string())}, {"reason", Json(l.reason)}}));
    context.print_json(Json::object({{"metric", Json(found.metric)},
                                     {"reference", Json(found.groups[found.reference].name)},
                                     {"groups", Json(std::move(groups))},
                                     {"left_out", Json(std::move(left_out))}}));
  }

  static void print_table(const Context& context, const RunComparison& found) {
    TextTable table({"name", "runs", found.metric, "95 % interval", "difference", "Hedges' g", "p",
                     "parameters", "FLOPs", "seconds", "peak"});
    bool wanting = false;
    for (size_t i = 0; i < found.groups.size(); ++i) {
      const auto& g = found.groups[i];
      const auto& m = g.metric;
      const auto or_dash = [](const std::optional<double>& v, std::string (*show)(double)) {
        return v ? show(*v) : std::string("-");
      };
      wanting = wanting || !m.low;
      const bool reference = i == found.reference && found.groups.size() > 1;
      table.row({g.name, std::to_string(m.n), digits(m.mean) + (m.sd ? " ± " + digits(*m.sd) : ""),
                 m.low ? digits(*m.low) + " to " + digits(*m.high) : "-",
                 reference   ? "reference"
                 : g.against ? (g.against->mean > 0 ? "+" : "") + digits(g.against->mean)
                             : "-",
                 g.against ? or_dash(g.against->g, short_number) : "-",
                 g.against ? or_dash(g.against->p, short_number) : "-",
                 human_count(double(g.parameters)), flops_text(g.flops), digits(g.seconds),
                 human_bytes(double(g.peak_bytes))});
    }
    context.print(table.text());
    if (wanting)
      context.log(
          "No interval where a group has one run, or all of them gave the same: neither "
          "says how far another seed would be.");
    for (const auto& l : found.left_out)
      context.warn("left out: " + l.folder.string() + ": " + l.reason);
  }
};

}  // namespace

Command* make_compare() {
  return new Compare;
}

}  // namespace lmxlab::cli
