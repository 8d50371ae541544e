#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/companions.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/convert.h"

namespace lmxlab::cli {
namespace {

class Convert : public Command {
  std::string in_, out_, dtype_, format_ = "safetensors";

  void declare(Options& o) override {
    o.argument("IN", &in_, "a model or run folder, or a GGUF file").require();
    o.argument("OUT", &out_, "the folder that is made").require();
    o.option("--dtype", "TYPE", &dtype_, "of the weights")
        .one_of({"f32", "f16", "bf16"})
        .otherwise("the model's own; bf16 of packed ones");
    o.option("--format", "FORMAT", &format_, "what is written").one_of({"safetensors"});
  }

  DType type_of(OpenModel& m) const {
    if (dtype_ == "f16") return DType::f16;
    if (const auto given = dtype_argument(dtype_)) return *given;
    for (const auto& [path, w, embedding] : core::weights_of(m.model.transformer()))
      if (w->quantized()) return DType::bf16;
    return m.model.dtype();
  }

  int run(Context& context) override {
    expect_new_folder("convert", out_);
    auto m = open_model(in_, 0, std::nullopt, context);
    if (m.place.path.empty())
      throw Error(Kind::usage,
                  "[convert] " + in_ + " is a preset: expected a model folder or a GGUF file");
    const auto dtype = type_of(m);
    make_directory(out_);  // before the work: what cannot be saved need not be computed
    Progress progress(context);
    auto model = convert_model(std::move(m.model), dtype, [&](int done, int all) {
      if (context.stop.stop_requested())
        throw Error(Kind::canceled, "[convert] interrupted; nothing was written");
      progress.update(done, all, {});
    });
    model.save(out_);
    write_companions(m, out_);
    progress.clear();
    const auto tensors = core::collect(model.transformer()).size();
    const auto bytes = model.parameter_bytes();
    if (context.json)
      context.print_json(Json::object({{"tensors", Json(tensors)}, {"bytes", Json(bytes)}}));
    else
      context.print(with_commas(int64_t(tensors)) + " tensors, " + human_bytes(double(bytes)) +
                    " of " + dtype_name(dtype) + ", in " + out_ + "\n");
    return 0;
  }
};

}  // namespace

Command* make_convert() {
  return new Convert;
}

}  // namespace lmxlab::cli
