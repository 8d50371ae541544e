#include "lmxlab/io/hf_folder.h"

#include "lmxlab/base/json.h"

#include <set>
#include <unordered_map>

namespace lmxlab::io {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

}  // namespace

bool has_weights(const fs::path& folder) {
  return fs::exists(folder / kIndex) || fs::exists(folder / kSingle);
}

Tensors read_folder(const fs::path& folder) {
  if (!fs::is_directory(folder))
    throw Error(Kind::not_found, "[load] there is no folder " + folder.string());
  const auto single = folder / kSingle, index = folder / kIndex;
  if (!fs::exists(index)) {
    if (!fs::exists(single))
      throw Error(Kind::not_found, "[load] " + folder.string() +
                                       " holds no weights: expected model.safetensors or "
                                       "model.safetensors.index.json");
    return SafeTensors(single).all();
  }
  const auto json = Json::parse(read_file(index), index.string());
  return with_context(index.string(), [&] {
    Tensors out;
    std::set<std::string> shards;
    std::unordered_map<std::string_view, std::string_view> owners;
    for (const auto& [name, shard] : json.at("weight_map").as_object()) {
      const auto& file = shard.as_string();
      if (file.find('/') != std::string::npos)
        throw Error(Kind::bad_data, "[load] the shard \"" + file + "\" is outside the folder");
      shards.insert(file);
      owners.emplace(name, file);
    }
    for (const auto& shard : shards)
      for (auto& [name, array] : SafeTensors(folder / shard).all()) {
        const auto owner = owners.find(name);
        if (owner == owners.end() || owner->second != shard)
          throw Error(Kind::bad_data,
                      "[load] the tensor " + name + " in " + shard + " is not in the index");
        out.emplace(name, array);
      }
    for (const auto& [name, shard] : json.at("weight_map").as_object())
      if (!out.count(name))
        throw Error(Kind::bad_data,
                    "[load] the tensor " + name + " is not in its shard " + shard.as_string());
    return out;
  });
}

}  // namespace lmxlab::io
