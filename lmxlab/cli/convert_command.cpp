#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/companions.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/io/hf_folder.h"
#include "lmxlab/models/convert.h"
#include "lmxlab/models/gguf_save.h"

#include <algorithm>
#include <iterator>

namespace lmxlab::cli {
namespace {

class Convert : public Command {
  std::string in_, out_, dtype_, config_, format_ = "safetensors";

  void declare(Options& o) override {
    o.argument("IN", &in_, "a model or run folder, or a GGUF file").require();
    o.argument("OUT", &out_, "the folder that is made, or the GGUF file").require();
    o.option("--dtype", "TYPE", &dtype_,
             "of the weights; q8_0 and what follows: of GGUF files, mixes as llama.cpp has them")
        .one_of(gguf_types())
        .otherwise("the model's own; bf16 of packed ones");
    o.option("--config", "MODEL", &config_,
             "a preset, or a folder whose config.json is meant: of weights that have none beside "
             "them, as checkpoints of the Python lmxlab");
    o.option("--format", "FORMAT", &format_, "what is written").one_of({"safetensors", "gguf"});
  }

  DType type_of(OpenModel& m) const {
    if (dtype_ == "f16") return DType::f16;
    if (const auto given = dtype_argument(dtype_)) return *given;
    for (const auto& [path, w, embedding] : core::weights_of(m.model.transformer()))
      if (w->quantized()) return DType::bf16;
    return m.model.dtype();
  }

  OpenModel with_config(Context& context) const {
    if (!io::has_weights(in_))
      throw Error(Kind::not_found, "[convert] " + in_ + ": expected a folder with *.safetensors");
    const auto config = read_config(find_model(config_, context, io::HubPart::texts), context);
    auto model = LanguageModel::load(in_, config);
    for (const auto& w : model.warnings()) context.warn(w);
    return {std::move(model), std::nullopt, {in_, ""}};
  }

  // Not every tokenizer can be said there.
  static bool can_be_gguf(const OpenModel& m, Context quiet) {
    quiet.quiet = true;
    try {
      io::GgufWriter nowhere;
      write_gguf_companions(m, nowhere, quiet);
      return true;
    } catch (const Error& e) {
      if (e.kind() != Kind::unsupported) throw;
      return false;
    }
  }

  int run(Context& context) override {
    const bool gguf = format_ == "gguf";
    if (gguf) {
      expect_new_file("convert", out_);
    } else {
      expect_new_folder("convert", out_);
      constexpr const char* kPlain[] = {"", "f32", "f16", "bf16"};
      if (std::find(std::begin(kPlain), std::end(kPlain), dtype_) == std::end(kPlain))
        throw Error(Kind::usage, "[convert] --dtype " + dtype_ +
                                     " is a type of GGUF files: add "
                                     "--format gguf, or use `lmxlab quantize`");
    }
    auto m = config_.empty() ? open_model(in_, 0, std::nullopt, context) : with_config(context);
    expect_no_adapter("convert", m);
    if (m.place.path.empty())
      throw Error(Kind::usage,
                  "[convert] " + in_ + " is a preset: expected a model folder or a GGUF file");
    govern_conversion(m.model.config(), m.model.parameter_bytes(),
                      gguf ? std::nullopt : std::optional(type_of(m)),
                      [&] { return can_be_gguf(m, context); }, {budget_beside(m)});
    return gguf ? to_gguf(m, context) : to_folder(m, context);
  }

  int to_gguf(OpenModel& m, Context& context) {
    Progress progress(context);
    GgufSaveOptions options;
    options.type = !dtype_.empty() ? dtype_ : dtype_name(type_of(m));
    options.name = m.place.path.stem().string();
    options.more = [&](io::GgufWriter& file) { write_gguf_companions(m, file, context); };
    options.progress = [&](int done, int all) {
      if (context.stop.stop_requested())
        throw Error(Kind::canceled, "[convert] interrupted; nothing was written");
      progress.update(done, all, {});
    };
    const auto saved = save_gguf(m.model, out_, options);
    progress.clear();
    for (const auto& warning : saved.warnings) context.warn(warning);
    report(context, saved.tensors, saved.bytes, options.type);
    return 0;
  }

  int to_folder(OpenModel& m, Context& context) {
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
    report(context, static_cast<int>(core::collect(model.transformer()).size()),
           model.parameter_bytes(), dtype_name(dtype));
    return 0;
  }

  void report(Context& context, int tensors, int64_t bytes, const std::string& type) const {
    if (context.json)
      context.print_json(Json::object({{"tensors", Json(tensors)}, {"bytes", Json(bytes)}}));
    else
      context.print(with_commas(tensors) + " tensors, " + human_bytes(double(bytes)) + " of " +
                    type + ", in " + out_ + "\n");
  }
};

}  // namespace

Command* make_convert() {
  return new Convert;
}

}  // namespace lmxlab::cli
