#include "lmxlab/models/quantization_config.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {
namespace {

using kernels::FloatFormat;

// What a layer was packed as.
struct Form {
  int group, bits;
  FloatFormat floats;
  auto operator<=>(const Form&) const = default;
};
Form form_of(const core::Weight& w) {
  return {w.group, w.bits, w.floats};
}
Json numbers(const Form& form) {
  Json json = Json::object();
  json["group_size"] = Json(form.group), json["bits"] = Json(form.bits);
  if (form.floats != FloatFormat::none)
    json["mode"] = Json(kernels::float_groups(form.floats).name);
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

// The mode of a layer's object, else of the whole; affine unless one says another.
FloatFormat mode_of(const Json* own, const Json& all) {
  const Json* mode = own ? own->find("mode") : nullptr;
  if (!mode && !(own && own->contains("bits"))) mode = all.find("mode");
  if (!mode || mode->is_null() || mode->as_string() == "affine") return FloatFormat::none;
  for (const auto f : {FloatFormat::mxfp4, FloatFormat::nvfp4, FloatFormat::mxfp8})
    if (mode->as_string() == kernels::float_groups(f).name) return f;
  throw Error(Kind::unsupported, "[load] quantization: mode \"" + mode->as_string() +
                                     "\" is not supported; expected affine, mxfp4, nvfp4 or mxfp8");
}

}  // namespace

std::optional<Json> quantization_of(core::Transformer& model) {
  std::map<Form, int> count;
  const auto layers = core::weights_of(model);
  for (const auto& [path, w, embedding] : layers) {
    if (w->scales) count[form_of(*w)]++;
  }
  if (count.empty()) return std::nullopt;
  const Form usual = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) {
                       return a.second < b.second;
                     })->first;
  Json json = numbers(usual);
  for (const auto& [path, w, embedding] : layers) {
    if (w->scales && form_of(*w) != usual) {
      json[path] = numbers(form_of(*w));
      if (w->floats == FloatFormat::none && usual.floats != FloatFormat::none)
        json[path]["mode"] = Json("affine");
    }
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
      mode_of(nullptr, *json);  // known, or an error
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
    const auto floats = mode_of(own, quantization);
    if (floats != FloatFormat::none) {
      if (w->w.value.shape(-1) % kernels::float_groups(floats).group != 0)
        throw Error(Kind::bad_data, "[load] quantization: " + path + " has " +
                                        std::to_string(w->w.value.shape(-1)) +
                                        " inputs, no whole groups of " +
                                        kernels::float_groups(floats).name);
      w->expect_packed(floats);
      continue;
    }
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
    if (!w->biases) continue;
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
