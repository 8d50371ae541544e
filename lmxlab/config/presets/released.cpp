#include "lmxlab/config/presets/released.h"

#include "lmxlab/base/json.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

namespace lmxlab::config {

const char* const kTiny = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
  "num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":128,
  "max_position_embeddings":128})";
const char* const kTinyHeads = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
  "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"intermediate_size":128,
  "max_position_embeddings":128})";

std::string shape(int vocab, int dim, int depth, int heads, int kv_heads, int hidden, int context) {
  return Json::object({{"vocab_size", vocab},
                       {"hidden_size", dim},
                       {"num_hidden_layers", depth},
                       {"num_attention_heads", heads},
                       {"num_key_value_heads", kv_heads},
                       {"intermediate_size", hidden},
                       {"max_position_embeddings", context}})
      .dump();
}

std::string llama3_rope(int factor, int original, int high) {
  return R"({"rope_scaling":{"rope_type":"llama3","low_freq_factor":1,"factor":)" +
         std::to_string(factor) + R"(,"original_max_position_embeddings":)" +
         std::to_string(original) + R"(,"high_freq_factor":)" + std::to_string(high) + "}}";
}

std::string layer_types(const std::string& letters, const char* word) {
  std::string list;
  for (const char c : letters)
    list += (list.empty() ? "\"" : ",\"") + std::string(c == 'f' ? "full_attention" : word) + '"';
  return R"({"layer_types":[)" + list + "]}";
}

namespace {

Model read(const char* model_type, const Released& released) {
  Json config = Json::object({{"model_type", model_type}});
  for (const auto& keys : released.keys) {
    Json more = Json::parse(keys, released.name);
    for (auto& [key, value] : more.as_object()) config[key] = std::move(value);
  }
  Model m = from_hf(config, true).model;
  if (!released.change) return m;
  released.change(m);
  validate(m);
  return m;
}

}  // namespace

std::vector<FamilyPresets> released_presets() {
  std::vector<FamilyPresets> out;
  for (auto& table : {released_gpt(), released_llama(), released_gemma(), released_mla(),
                      released_moe(), released_hybrid()})
    for (const auto& family : table) {
      std::vector<Preset> presets;
      for (const auto& r : family.models)
        presets.push_back(
            {r.name, family.name, [type = family.model_type, r] { return read(type, r); }});
      out.push_back({family.name, std::move(presets)});
    }
  return out;
}

}  // namespace lmxlab::config
