// What adapters and their files share. Private to models.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/models/adapters.h"

#include <string>
#include <vector>

namespace lmxlab {

struct AdaptableLayer {
  std::string path;
  core::Linear* layer;
};
/// Linear layers of the blocks that are computed as such.
std::vector<AdaptableLayer> adaptable_layers(LanguageModel& model);

struct LinearSizes {
  int in, out;
};
LinearSizes sizes_of(const core::Linear& layer);

/// @throws Error(not_found), Error(usage)
void adapter_must_exist(LanguageModel& model, const std::string& name);
void adapter_must_be_new(LanguageModel& model, const std::string& name);
void add_adapter(core::Linear& layer, core::Adapter adapter);
void freeze_base(LanguageModel& model);
AdapterInfo adapter_info(LanguageModel& model, const std::string& name);

}  // namespace lmxlab
