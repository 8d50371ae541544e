// list, info, count: models without their weights.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/io/gguf.h"

#include <algorithm>

namespace lmxlab::cli {
namespace {

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}
std::string right(const std::string& text, size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

// Bytes of an element as the checkpoint stores it, 4 of a preset.
int64_t element_bytes(const ModelPlace& place) {
  if (place.path.empty() || io::is_gguf(place.path)) return 4;
  const auto path = place.path / "config.json";
  const Json json = Json::parse(read_file(path), path.string());
  for (const char* key : {"dtype", "torch_dtype"})
    if (const Json* v = json.find(key); v && v->is_string())
      return v->as_string() == "float32" ? 4 : v->as_string() == "float64" ? 8 : 2;
  return 4;
}

Json counts(const config::Model& model, const ModelPlace& place) {
  const auto n = config::count(model);
  return Json::object({{"parameters", Json(n.total)},
                       {"active", Json(n.active)},
                       {"trainable", Json(n.total)},
                       {"bytes", Json(n.total * element_bytes(place))},
                       {"parts", Json::object({{"embedding", Json(n.embedding)},
                                               {"position", Json(n.position)},
                                               {"mixer", Json(n.mixer)},
                                               {"ffn", Json(n.ffn)},
                                               {"norm", Json(n.norm)},
                                               {"head", Json(n.head)},
                                               {"mtp", Json(n.mtp)}})}});
}

// Those whose name or family has the text in it; without one, all.
std::vector<const config::Preset*> presets_with(const std::string& text) {
  std::vector<const config::Preset*> out;
  std::vector<std::string> names;
  for (const auto& p : config::presets()) {
    if (p.name.find(text) != std::string::npos || p.family.find(text) != std::string::npos)
      out.push_back(&p);
    names.push_back(p.name);
  }
  if (out.empty())
    throw Error(Kind::not_found, "[list] no preset or family has \"" + text + "\" in its name; " +
                                     suggestion(text, names));
  return out;
}

class List : public Command {
  std::string filter_;
  void declare(Options& o) override {
    o.argument("TEXT", &filter_, "only presets with that in their name or family's");
  }
  int run(Context& context) override {
    const auto shown = presets_with(filter_);
    std::vector<std::string> families;
    for (const auto* p : shown)
      if (families.empty() || families.back() != p->family) families.push_back(p->family);
    if (context.json) {
      Json presets = Json::array();
      for (const auto* p : shown) {
        const auto m = p->make();
        presets.push_back(
            Json::object({{"name", Json(p->name)},
                          {"family", Json(p->family)},
                          {"parameters", Json(config::count(m).total)},
                          {"mixers", Json(config::mixer_summary(m))},
                          {"ffn", Json(config::ffn_summary(m))},
                          {"kv_bytes_per_token", Json(config::kv_bytes_per_token(m, 2))}}));
      }
      Json names = Json::array();
      for (const auto& f : families) names.push_back(Json(f));
      context.print_json(Json::object({{"presets", presets}, {"families", names}}));
      return 0;
    }
    size_t width = 8;
    for (const auto* p : shown) width = std::max(width, p->name.size() + 4);
    std::string out = padded("preset", width) + right("parameters", 17) + right("layers", 8) +
                      right("width", 7) + right("context", 10) + right("cache/token", 13) +
                      "  mixers; ffn\n";
    std::string family;
    for (const auto* p : shown) {
      if (p->family != family) out += (family = p->family) + "\n";
      const auto m = p->make();
      out += padded("  " + p->name, width) + right(with_commas(config::count(m).total), 17) +
             right(std::to_string(m.layers.size()), 8) + right(std::to_string(m.dim), 7) +
             right(std::to_string(m.context), 10) +
             right(human_bytes(double(config::kv_bytes_per_token(m, 2))), 13) + "  " +
             config::mixer_summary(m) + "; " + config::ffn_summary(m) + "\n";
    }
    context.print(out);
    return 0;
  }
};

class Info : public Command {
  std::string model_;
  void declare(Options& o) override {
    o.argument("MODEL", &model_, "a preset (`lmxlab list`), or a model folder").require();
  }
  int run(Context& context) override {
    const auto place = find_model(model_, context, io::HubPart::texts);
    const auto model = read_config(place, context);
    if (context.json) {
      Json out = counts(model, place);
      out["config"] = to_json(model);
      out["kv_bytes_per_token"] = Json(config::kv_bytes_per_token(model, 2));
      out["flops_per_token"] = Json(config::flops_per_token(model, model.context));
      context.print_json(out);
    } else {
      context.print(config::describe(model));
    }
    return 0;
  }
};

class Count : public Command {
  std::string model_;
  void declare(Options& o) override {
    o.argument("MODEL", &model_, "a preset (`lmxlab list`), or a model folder").require();
  }
  int run(Context& context) override {
    const auto place = find_model(model_, context, io::HubPart::texts);
    const auto model = read_config(place, context);
    const Json n = counts(model, place);
    if (context.json) {
      context.print_json(n);
      return 0;
    }
    const int64_t total = n.at("parameters").as_integer();
    std::string out;
    const auto line = [&](const std::string& name, int64_t value) {
      char share[16];
      std::snprintf(share, sizeof share, "%7.1f%%",
                    100.0 * double(value) / double(std::max<int64_t>(total, 1)));
      out += padded(name, 12) + right(with_commas(value), 18) + share + "\n";
    };
    for (const auto& [name, value] : n.at("parts").as_object())
      if (value.as_integer() > 0) line(name, value.as_integer());
    line("total", total);
    if (const auto active = n.at("active").as_integer(); active != total) line("active", active);
    out += padded("trainable", 12) + right(with_commas(n.at("trainable").as_integer()), 18) + "\n";
    out += padded("bytes", 12) + right(human_bytes(double(n.at("bytes").as_integer())), 18) + "\n";
    context.print(out);
    return 0;
  }
};

}  // namespace

Command* make_list() {
  return new List;
}
Command* make_info() {
  return new Info;
}
Command* make_count() {
  return new Count;
}

}  // namespace lmxlab::cli
