#include "lmxlab/cli/adapter_argument.h"

#include "lmxlab/base/files.h"
#include "lmxlab/models/adapters.h"

namespace lmxlab::cli {

fs::path adapter_folder(const std::string& argument) {
  std::error_code ignored;
  if (!fs::is_directory(argument, ignored))
    throw Error(Kind::not_found, "[adapter] there is no folder " + argument);
  if (!fs::exists(fs::path(argument) / "adapter_config.json", ignored))
    throw Error(Kind::not_found,
                "[adapter] " + argument + " is no adapter: expected adapter_config.json in it");
  return argument;
}

void AdapterArgument::load(LanguageModel& model) const {
  int number = 0;
  for (const auto& f : folders_)
    load_adapter(model, adapter_folder(f), "adapter" + std::to_string(number++));
}

}  // namespace lmxlab::cli
