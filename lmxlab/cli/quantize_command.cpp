#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/models/quantize.h"

#include <array>

namespace lmxlab::cli {
namespace {

class Quantize : public Command {
  std::string model_, out_, bits_ = "4", group_size_ = "64", mode_ = "affine", dtype_;
  std::optional<std::string> embedding_bits_;
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
    o.option("--mode", "MODE", &mode_, "the format of groups").one_of({"affine"});
    o.option("--dtype", "TYPE", &dtype_, "of scales, norms and activations")
        .one_of({"f32", "bf16"})
        .otherwise("the model's own");
    o.option("--seed", "N", &seed_, "of a preset's weights").range(0);
  }

  // What belongs to the model besides its weights: tokenizer, template, generation settings.
  static void copy_companions(const fs::path& from, const fs::path& to) {
    for (const auto& entry : fs::directory_iterator(from)) {
      const auto name = entry.path().filename();
      const auto kind = name.extension();
      const bool own = name == "config.json" || name == "model.safetensors.index.json";
      const bool text = kind == ".json" || kind == ".jinja" || kind == ".txt" || kind == ".model";
      if (entry.is_regular_file() && text && !own)
        write_file_atomic(to / name, read_file(entry.path()));
    }
  }

  int run(Context& context) override {
    std::error_code ignored;
    if (out_.empty()) throw Error(Kind::usage, "[quantize] OUT: expected a folder, got \"\"");
    if (fs::exists(out_, ignored) &&
        !(fs::is_directory(out_, ignored) && fs::is_empty(out_, ignored)))
      throw Error(Kind::usage, "[quantize] " + out_ +
                                   " exists and is no empty folder: expected the name of a new "
                                   "one, so that nothing is lost.");
    auto m = open_model(model_, uint64_t(seed_), dtype_argument(dtype_), context);
    const auto before = m.model.parameter_bytes();
    const auto parameters = m.model.parameter_count();
    make_directory(out_);  // before the work: what cannot be saved need not be computed
    Progress progress(context);
    quantize_model(m.model,
                   {.bits = std::stoi(bits_),
                    .group_size = std::stoi(group_size_),
                    .embedding_bits = embedding_bits_ ? std::stoi(*embedding_bits_) : 0},
                   [&](int done, int all) {
                     if (context.stop.stop_requested())
                       throw Error(Kind::canceled, "[quantize] interrupted; nothing was written");
                     progress.update(done, all, {});
                   });
    m.model.save(out_);
    if (!m.place.path.empty()) copy_companions(m.place.path, out_);
    progress.clear();
    const auto after = m.model.parameter_bytes();
    const double bits = 8.0 * double(after) / double(parameters);
    if (context.json) {
      context.print_json(Json::object({{"bytes_before", Json(before)},
                                       {"bytes_after", Json(after)},
                                       {"bits_per_weight", Json(bits)}}));
    } else {
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
