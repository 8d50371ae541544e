// --adapter DIR, of every command that runs a model.
#pragma once

#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/options.h"

#include <string>
#include <vector>

namespace lmxlab::cli {

class AdapterArgument {
 public:
  void declare(Options& options) {
    options.option("--adapter", "DIR", &folders_,
                   "an adapter of PEFT or mlx-lm beside the weights; several add up");
  }
  /// Loads them, one beside the other. @throws as load_adapter
  void load(OpenModel& m) const;

 private:
  std::vector<std::string> folders_;
};

/// An adapter's folder: here, or on a hub. @throws Error(not_found)
std::filesystem::path adapter_folder(const std::string& argument);

}  // namespace lmxlab::cli
