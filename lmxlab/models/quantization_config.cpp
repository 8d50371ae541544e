#include "lmxlab/models/quantization_config.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {
namespace {

Json numbers(int group, int bits) {
  Json json = Json::object();
  json["group_size"] = Json(group), json["bits"] = Json(bits);
  return json;
}

// A number of a layer's object, else of the whole.
int64_t number(const std::string& path, const Json* own, const Json& all, const char* key) {
  const Json* found = own ? own->find(key) : nullptr;
  if (!found) found = all.find(key);
  if (!found)
    throw Error(Kind::bad_data, "[load] quantization: " + path + " has no " + std::string(key));
  return found->as_integer();
}

void only_affine(const Json& json) {
  const Json* mode = json.find("mode");
  if (mode && mode->as_string() != "affine")
    throw Error(Kind::unsupported, "[load] quantization: mode \"" + mode->as_string() +
                                       "\" is not supported; expected \"affine\"");
}

}  // namespace

std::optional<Json> quantization_of(core::Transformer& model) {
  std::map<std::pair<int, int>, int> count;
  const auto layers = core::weights_of(model);
  for (const auto& [path, w, embedding] : layers) {
    if (w->scales) count[{w->group, w->bits}]++;
  }
  if (count.empty()) return std::nullopt;
  const auto [group, bits] =
      std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      })->first;
  Json json = numbers(group, bits);
  for (const auto& [path, w, embedding] : layers) {
    if (w->scales && (w->group != group || w->bits != bits))
      json[path] = numbers(w->group, w->bits);
  }
  return json;
}

std::optional<Json> take_quantization(Json& config) {
  std::optional<Json> found;
  for (const char* key : {"quantization", "quantization_config"}) {
    const Json* json = config.find(key);
    if (!json) continue;
    if (!json->is_null() && !found) {
      if (const Json* method = json->find("quant_method"))
        throw Error(Kind::unsupported, "[load] weights quantized by \"" + method->as_string() +
                                           "\" are not supported. Take the model's own weights, "
                                           "or a folder that mlx-lm made.");
      only_affine(*json);
      found = *json;
    }
    config.erase(key);
  }
  return found;
}

void expect_packed(core::Transformer& model, const Json& quantization,
                   const core::Tensors& tensors) {
  for (const auto& [path, w, embedding] : core::weights_of(model)) {
    if (!tensors.count(path + ".scales")) continue;
    const Json* own = quantization.find(path);
    if (own && !own->is_object()) own = nullptr;  // true: as the others
    if (own) only_affine(*own);
    const auto group = number(path, own, quantization, "group_size"),
               bits = number(path, own, quantization, "bits");
    const bool known = (group == 32 || group == 64 || group == 128) && bits >= 2 && bits <= 8 &&
                       bits != 7 && w->w.value.shape(-1) % group == 0;
    if (!known)
      throw Error(Kind::bad_data, "[load] quantization: " + path + " cannot have " +
                                      std::to_string(bits) + " bits in groups of " +
                                      std::to_string(group) +
                                      ": expected 2, 3, 4, 5, 6 or "
                                      "8 bits and groups of 32, 64 or 128 that divide " +
                                      std::to_string(w->w.value.shape(-1)));
    w->expect_packed(static_cast<int>(group), static_cast<int>(bits));
  }
}

void check_packed(core::Transformer& model) {
  for (const auto& [path, w, embedding] : core::weights_of(model)) {
    if (!w->quantized()) continue;
    const auto scales = w->scales->value.dtype();
    const bool half = scales == mx::float16 || scales == mx::bfloat16;
    if (scales != w->biases->value.dtype() || !(half || scales == mx::float32))
      throw Error(Kind::mismatch, "[load] " + path +
                                      ": scales and biases must be of one type, float32, float16 "
                                      "or bfloat16");
  }
}

core::Tensors folder_tensors(core::Transformer& model) {
  core::Tensors tensors;
  for (const auto& e : core::collect(model)) tensors.emplace(e.path, e.param->value);
  for (const auto& [path, w, embedding] : core::weights_of(model)) {
    if (!w->interleaved) continue;
    for (const char* leaf : {".weight_tiles", ".scales_tiles", ".biases_tiles"})
      tensors.erase(path + leaf);
    const auto apart = kernels::separate(w->packed());
    tensors.emplace(path + ".weight", apart.packed);
    tensors.emplace(path + ".scales", *apart.scales);
    tensors.emplace(path + ".biases", *apart.biases);
  }
  return tensors;
}

}  // namespace lmxlab
