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

void AdapterArgument::load(OpenModel& m) const {
  std::vector<AdapterFolder> more;
  for (const auto& f : folders_)
    more.push_back({adapter_folder(f), "adapter" + std::to_string(more.size())});
  load_adapters(m.model, more);
  m.place.adapters.insert(m.place.adapters.end(), more.begin(), more.end());
}

}  // namespace lmxlab::cli
