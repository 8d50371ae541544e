// pull: a model from a hub into the cache that other tools share.
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/hub_argument.h"

namespace lmxlab::cli {
namespace {

class Pull : public Command {
  std::string name_, revision_ = "main";
  std::optional<std::string> file_;
  bool no_plan_ = false;

  void declare(Options& o) override {
    o.argument("NAME", &name_,
               "a repository on the hub, org/name, or one file of it, org/name:file")
        .require();
    o.option("--revision", "R", &revision_, "a branch, a tag or a commit");
    o.option("--file", "F", &file_, "one file of it, by its whole name")
        .otherwise("config, tokenizer, templates and safetensors");
    o.flag("--no-plan", &no_plan_,
           "fetch also a model that does not fit in this machine's memory, as for another one");
  }

  io::HubName wanted() const {
    auto name = io::hub_name(name_);
    if (!name)
      throw Error(Kind::usage, "[pull] \"" + name_ +
                                   "\" is no name on a hub: expected org/name or org/name:file, as "
                                   "in HuggingFaceTB/SmolLM2-135M-Instruct");
    if (file_) {
      if (!name->file.empty() && name->file != *file_)
        throw Error(Kind::usage,
                    "[pull] " + name_ + " and --file " + *file_ + " name two files. Keep one.");
      if (const auto why = io::unsafe_path(*file_); !why.empty())
        throw Error(Kind::usage, "[pull] --file \"" + *file_ + "\" " + why +
                                     ": expected the name of a file in the repository");
      name->file = *file_;
    }
    name->revision = revision_;
    return *name;
  }

  int run(Context& context) override {
    const auto pulled = pull(wanted(), io::HubPart::whole, context, !no_plan_);
    if (context.json)
      context.print_json(Json::object({{"path", Json(pulled.path.string())},
                                       {"files", Json(pulled.files)},
                                       {"bytes", Json(pulled.bytes)}}));
    else
      context.print(std::to_string(pulled.files) + (pulled.files == 1 ? " file, " : " files, ") +
                    human_bytes(double(pulled.bytes)) + ", in " + pulled.path.string() + "\n");
    return 0;
  }
};

}  // namespace

Command* make_pull() {
  return new Pull;
}

}  // namespace lmxlab::cli
