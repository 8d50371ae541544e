#include "lmxlab/base/files.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/text_table.h"
#include "lmxlab/experiments/coordinate_check.h"

namespace lmxlab::cli {
namespace {

std::string short_number(double v, const char* format) {
  char text[48];
  std::snprintf(text, sizeof text, format, v);
  return text;
}

class MupCheck : public Command {
  std::string recipe_;
  std::vector<std::string> set_, widths_;
  CoordinateOptions options_;

  void declare(Options& o) override {
    o.argument("RECIPE", &recipe_,
               "a recipe with a preset; with model.mup = { dim = N }, or without, to see it grow")
        .require();
    o.option("--set", "KEY=VALUE", &set_,
             "another value of a recipe's key, as in model.mup.dim=64");
    o.option("--width", "N", &widths_, "a model.dim to train at; given more than once")
        .otherwise("model.mup.dim, else model.dim, and 2, 4 and 8 times it");
    o.option("--steps", "N", &options_.steps, "training steps before activations are measured")
        .range(1, 1000);
    o.option("--seeds", "N", &options_.seeds, "seeds that are averaged over").range(1, 100);
    o.option("--tolerance", "X", &options_.tolerance,
             "the steepest slope that still counts as flat")
        .above(0);
  }

  int run(Context& context) override {
    for (const auto& text : widths_) {
      const auto value = parse_value(text);
      if (!value.is_integer() || value.as_integer() < 1 || value.as_integer() > INT32_MAX)
        throw Error(Kind::usage, "[mup-check] --width: expected a whole number, got " + text);
      options_.widths.push_back(int(value.as_integer()));
    }
    const auto recipe = read_recipe(read_file(recipe_), recipe_, set_);
    Progress progress(context);
    const auto check = check_coordinates(recipe, options_, context.stop, [&](int done, int all) {
      progress.update(done, all, {"models trained"});
    });
    progress.finish();
    const bool mup = recipe.model.contains("mup");
    const std::string verdict =
        check.ok ? "activations keep their size at every width"
        : mup    ? "a slope is steeper than the tolerance although model.mup is set: more --seeds "
                   "tell chance from fault"
                 : "activations change with the width: a learning rate found at one is not that of "
                   "another. Set model.mup = { dim = N }.";
    context.json ? print_json(context, check, mup, verdict) : print_table(context, check, verdict);
    return check.ok ? 0 : exit_code(Kind::mismatch);
  }

  void print_json(const Context& context, const CoordinateCheck& check, bool mup,
                  const std::string& verdict) const {
    const auto list = [](const auto& values) {
      Json::Array out;
      for (const auto& v : values) out.push_back(Json(v));
      return Json(std::move(out));
    };
    Json::Array layers;
    for (const auto& c : check.layers)
      layers.push_back(Json::object({{"layer", Json(c.layer)},
                                     {"size", list(c.size)},
                                     {"change", list(c.change)},
                                     {"size_slope", Json(c.size_slope)},
                                     {"change_slope", Json(c.change_slope)}}));
    context.print_json(Json::object({{"mup", Json(mup)},
                                     {"widths", list(check.widths)},
                                     {"steps", Json(options_.steps)},
                                     {"seeds", Json(options_.seeds)},
                                     {"layers", Json(std::move(layers))},
                                     {"tolerance", Json(check.tolerance)},
                                     {"ok", Json(check.ok)},
                                     {"verdict", Json(verdict)}}));
  }

  void print_table(const Context& context, const CoordinateCheck& check,
                   const std::string& verdict) const {
    for (const bool change : {false, true}) {
      std::vector<std::string> header{change ? "mean |x - x at first|" : "mean |x|"};
      for (const int w : check.widths) header.push_back(std::to_string(w));
      header.push_back("slope");
      TextTable table(std::move(header));
      for (const auto& c : check.layers) {
        std::vector<std::string> row{c.layer};
        for (const double v : change ? c.change : c.size) row.push_back(short_number(v, "%.3g"));
        row.push_back(short_number(change ? c.change_slope : c.size_slope, "%+.2f"));
        table.row(std::move(row));
      }
      context.print(table.text() + "\n");
    }
    context.print(verdict + "\n");
  }
};

}  // namespace

Command* make_mup_check() {
  return new MupCheck;
}

}  // namespace lmxlab::cli
