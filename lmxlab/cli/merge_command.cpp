#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/companions.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/core/tree.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/gguf_save.h"
#include "lmxlab/models/quantize.h"

namespace lmxlab::cli {
namespace {

class Merge : public Command {
  std::string model_, adapter_, out_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_, "the base: a model folder or a GGUF file, packed or not")
        .require();
    o.argument("ADAPTER", &adapter_, "an adapter's folder, as PEFT or mlx-lm writes it").require();
    o.argument("OUT", &out_, "a new folder; a new GGUF file if it ends in .gguf").require();
  }

  int run(Context& context) override {
    const bool gguf = out_.ends_with(".gguf");
    gguf ? expect_new_file("merge", out_) : expect_new_folder("merge", out_);
    const auto folder = adapter_folder(adapter_);
    auto m = open_model(model_, 0, std::nullopt, context);
    if (m.place.path.empty())
      throw Error(Kind::usage,
                  "[merge] " + model_ + " is a preset: expected a model folder or a GGUF file");
    load_adapter(m.model, folder);
    if (!gguf)
      for (const auto& w : core::weights_of(m.model.transformer()))
        if (w.weight->blocks())
          throw Error(Kind::unsupported, "[merge] " + model_ +
                                             " has weights in blocks of a GGUF file, which a "
                                             "folder cannot hold. Name OUT with .gguf at its end.");
    const auto merged = merge_adapter(m.model, "default");
    separate_model(m.model);
    if (gguf) {
      GgufSaveOptions options;
      options.name = m.place.path.stem().string();
      options.more = [&](io::GgufWriter& file) { write_gguf_companions(m, file, context); };
      save_gguf(m.model, out_, options);
    } else {
      m.model.save(out_);
      write_companions(m, out_);
    }
    const auto bytes = m.model.parameter_bytes();
    if (context.json)
      context.print_json(Json::object({{"tensors", Json(merged.tensors)},
                                       {"bytes", Json(bytes)},
                                       {"max_error", Json(merged.max_error)}}));
    else
      context.print(with_commas(merged.tensors) + " matrices changed, the largest error " +
                    Json(static_cast<float>(merged.max_error)).dump() + ", " +
                    human_bytes(double(bytes)) + " in " + out_ + "\n");
    return 0;
  }
};

}  // namespace

Command* make_merge() {
  return new Merge;
}

}  // namespace lmxlab::cli
