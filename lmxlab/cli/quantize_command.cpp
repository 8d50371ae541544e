#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/companions.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/eval/perplexity.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/models/quantize.h"

#include <algorithm>
#include <array>

namespace lmxlab::cli {
namespace {

class Quantize : public Command {
  std::string model_, out_, bits_ = "4", group_size_ = "64", mode_ = "affine", dtype_;
  std::optional<std::string> embedding_bits_, text_;
  std::vector<std::string> layer_bits_;
  bool report_ = false, auto_fit_ = false;
  int64_t seed_ = 0;

  void declare(Options& o) override {
    const std::vector<std::string> bits{"2", "3", "4", "5", "6", "8"};
    o.argument("MODEL", &model_, "a model or run folder, or a preset with random weights")
        .require();
    o.argument("OUT", &out_, "the folder that is made").require();
    o.option("--bits", "N", &bits_, "of a weight").one_of(bits);
    o.option("--group-size", "N", &group_size_, "weights that share a scale and an offset")
        .one_of({"32", "64", "128"});
    o.option("--embedding-bits", "N", &embedding_bits_,
             "of the embedding, and of the head that is tied to it")
        .one_of(bits)
        .otherwise("as --bits");
    o.option(
         "--mode", "MODE", &mode_,
         "the format of groups: integers with an offset, or small floats (whose bits and groups "
         "are fixed)")
        .one_of({"affine", "mxfp4", "nvfp4", "mxfp8"});
    o.option("--layer-bits", "PATTERN=N", &layer_bits_,
             "other bits for layers whose path fits, 0 to leave them as they are: "
             "\"*.down_proj=8\"");
    o.flag("--report", &report_, "also the error of each layer");
    o.flag("--auto-fit", &auto_fit_,
           "where memory is short take the cheapest change that helps: fewer bits");
    o.option("--text", "FILE", &text_, "also the perplexity on a text, before and after");
    o.option("--dtype", "TYPE", &dtype_, "of scales, norms and activations")
        .one_of({"f32", "bf16"})
        .otherwise("the model's own");
    o.option("--seed", "N", &seed_, "of a preset's weights").range(0);
  }

  QuantizeOptions options() const {
    QuantizeOptions o{.mode = *enum_value<QuantMode>(mode_),
                      .bits = std::stoi(bits_),
                      .group_size = std::stoi(group_size_),
                      .embedding_bits = embedding_bits_ ? std::stoi(*embedding_bits_) : 0};
    for (const auto& text : layer_bits_) {
      const auto at = text.rfind('=');
      const auto bits = at == text.npos ? "" : text.substr(at + 1);
      if (at == 0 || bits.size() != 1 || bits[0] < '0' || bits[0] > '8')
        throw Error(Kind::usage,
                    "[quantize] --layer-bits: expected PATTERN=N, such as "
                    "*.down_proj=8, got \"" +
                        text + "\"");
      o.layers.push_back({text.substr(0, at), bits[0] - '0'});
    }
    return o;
  }

  std::optional<double> measured(const OpenModel& m, const Context& context) const {
    if (!text_) return std::nullopt;
    const auto ids =
        m.tokenizer->encode_ids(read_file(*text_), {.special = false, .add_special = true});
    Progress progress(context);
    const auto got =
        perplexity(m.model, ids, {.stop = context.stop},
                   [&](int64_t done, int64_t all) { progress.update(done, all, {"perplexity"}); });
    progress.clear();
    return got.perplexity();
  }

  static std::string table(const std::vector<LayerError>& errors) {
    size_t width = 5;
    for (const auto& e : errors) width = std::max(width, e.path.size());
    std::string out = "layer" + std::string(width - 5, ' ') + "  bits  error (rms)  largest\n";
    for (const auto& e : errors) {
      std::array<char, 64> line{};
      if (e.bits == 0)
        std::snprintf(line.data(), line.size(), "     -            -        -");
      else
        std::snprintf(line.data(), line.size(), "  %4d  %10.3f%%  %7.4f", e.bits,
                      100 * e.relative_rms, e.largest);
      out += e.path + std::string(width - e.path.size(), ' ') + line.data() + "\n";
    }
    return out;
  }

  int run(Context& context) override {
    auto chosen = options();
    expect_new_folder("quantize", out_);
    auto m = open_model(model_, uint64_t(seed_), dtype_argument(dtype_), context);
    expect_no_adapter("quantize", m);
    if (!can_save_packed(m.model.config()))
      throw Error(Kind::unsupported,
                  "[quantize] " + model_ +
                      ": packed weights cannot be written in GPT-2's layout, which has its "
                      "matrices transposed. `bench` and `fit` take --bits without a folder.");
    const auto before = m.model.parameter_bytes();
    GovernOptions with{budget_beside(m)};
    with.auto_fit = auto_fit_;
    const auto change =
        govern_quantization(m.model, m.place.path.empty() ? 0 : before, chosen, with);
    if (!change.empty()) context.warn("--auto-fit: " + change);
    const auto parameters = m.model.parameter_count();
    if (text_ && !m.tokenizer)
      throw Error(Kind::usage,
                  "[quantize] " + model_ + " has no tokenizer, so --text says nothing");
    const auto perplexity_before = measured(m, context);
    make_directory(out_);  // before the work: what cannot be saved need not be computed
    std::vector<LayerError> errors;
    Progress progress(context);
    quantize_model(
        m.model, chosen,
        [&](int done, int all) {
          if (context.stop.stop_requested())
            throw Error(Kind::canceled, "[quantize] interrupted; nothing was written");
          progress.update(done, all, {});
        },
        report_ ? &errors : nullptr);
    m.model.save(out_);
    write_companions(m, out_);
    progress.clear();
    const auto perplexity_after = measured(m, context);
    const auto after = m.model.parameter_bytes();
    const double bits = 8.0 * double(after) / double(parameters);
    if (context.json) {
      Json out = Json::object({{"bytes_before", Json(before)},
                               {"bytes_after", Json(after)},
                               {"bits_per_weight", Json(bits)}});
      if (report_) {
        Json layers = Json::array();
        for (const auto& e : errors)
          layers.push_back(Json::object({{"path", Json(e.path)},
                                         {"bits", Json(e.bits)},
                                         {"relative_rms", Json(e.relative_rms)},
                                         {"largest", Json(e.largest)}}));
        out["layers"] = layers;
      }
      if (text_) {
        out["perplexity_before"] = Json(*perplexity_before);
        out["perplexity_after"] = Json(*perplexity_after);
      }
      context.print_json(out);
    } else {
      if (report_) context.print(table(errors));
      if (text_) {
        std::array<char, 96> line{};
        std::snprintf(line.data(), line.size(), "perplexity %.4f before, %.4f after\n",
                      *perplexity_before, *perplexity_after);
        context.print(line.data());
      }
      std::array<char, 32> text{};
      std::snprintf(text.data(), text.size(), "%.2f", bits);
      context.print(human_bytes(before) + " to " + human_bytes(after) + ", " + text.data() +
                    " bits a weight, in " + out_ + "\n");
    }
    return 0;
  }
};

}  // namespace

Command* make_quantize() {
  return new Quantize;
}

}  // namespace lmxlab::cli
