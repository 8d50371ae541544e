#include "lmxlab/inference/prompt_cache.h"

#include "lmxlab/base/fields.h"
#include "lmxlab/base/fnv.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <string>

namespace lmxlab {
namespace {

// The adapters that are on, whole: they may be of one base.
void add_adapters(Fnv& hash, core::Transformer& transformer) {
  struct Adder : core::Visitor {
    Fnv& hash;
    explicit Adder(Fnv& h) : hash(h) {}
    void linear(const std::string& path, core::Linear& layer) override {
      for (auto& a : layer.adapters) {
        if (!a.on) continue;
        hash.add(path + std::to_string(a.scale));
        for (const auto& e : core::collect(a)) {
          const auto values = to_vector<float>(e.param->value);
          hash.add({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
        }
      }
    }
  } adder(hash);
  transformer.visit(adder);
}

// The config and some of the weights: the last norm's and the first token's, which every step of a
// training moves.
std::string fingerprint(const LanguageModel& model) {
  Fnv hash;
  hash.add(to_json(model.config()).dump());
  auto& transformer = const_cast<core::Transformer&>(model.transformer());
  for (const auto& entry : core::collect(transformer.norm)) {
    const auto values = to_vector<float>(mx::astype(entry.param->value, mx::float32));
    hash.add({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  const auto& table = transformer.embed_tokens.weight.w.value;
  const auto row = mx::contiguous(mx::slice(table, {0, 0}, {1, table.shape(1)}));
  mx::eval(row);
  hash.add({row.data<char>(), row.nbytes()});
  add_adapters(hash, transformer);
  return hash.digits();
}

std::string array_name(int layer, size_t i) {
  return "layers." + std::to_string(layer) + "." + std::to_string(i);
}

int number(const io::Metadata& facts, const std::string& key, int low, int high) {
  const auto it = facts.find(key);
  const std::string text = it == facts.end() ? "nothing" : it->second;
  const bool digits =
      !text.empty() && text.size() < 10 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  const int value = digits ? std::stoi(text) : -1;
  if (value < low || value > high)
    throw Error(Kind::bad_data, "expected " + key + " from " + std::to_string(low) + " to " +
                                    std::to_string(high) + ", got " + text);
  return value;
}

}  // namespace

void save_prompt_cache(const std::filesystem::path& path, const LanguageModel& model,
                       const PromptCache& kept) {
  const Enter enter(model.runtime());
  io::Tensors tensors;
  const auto count = static_cast<int>(kept.tokens.size());
  tensors.emplace("tokens", count == 0 ? mx::zeros({0}, mx::int32)
                                       : mx::array(kept.tokens.begin(), {count}, mx::int32));
  for (int i = 0; i < kept.cache.layers(); ++i) {
    const auto* layer = kept.cache.layer(i);
    if (!layer) continue;
    const auto arrays = layer->arrays();
    for (size_t k = 0; k < arrays.size(); ++k) tensors.emplace(array_name(i, k), arrays[k]);
  }
  io::write_safetensors(path, tensors,
                        {{"kind", "prompt cache"},
                         {"model", fingerprint(model)},
                         {"length", std::to_string(kept.cache.length())},
                         {"kv_bits", std::to_string(kept.kv_bits)},
                         {"max_kv", std::to_string(kept.cache.max_kv)}});
}

PromptCache load_prompt_cache(const std::filesystem::path& path, const LanguageModel& model) {
  return with_context("[prompt cache] " + path.string(), [&] {
    const io::SafeTensors file(path);
    const auto& facts = file.metadata();
    const auto kind = facts.find("kind");
    if (kind == facts.end() || kind->second != "prompt cache" || !file.contains("tokens"))
      throw Error(Kind::bad_data, "it is no prompt cache");
    const auto owner = facts.find("model");
    if (owner == facts.end() || owner->second != fingerprint(model))
      throw Error(Kind::mismatch,
                  "another model wrote it. Remove the file, or give the name of a new one.");
    const Enter enter(model.runtime());
    PromptCache kept;
    const auto ids = file.get("tokens");
    if (ids.dtype() != mx::int32 || ids.ndim() != 1)
      throw Error(Kind::bad_data, "tokens: expected int32 [n]");
    for (const int id : to_vector<int32_t>(ids)) {
      if (id < 0 || id >= model.config().vocab)
        throw Error(Kind::bad_data, "token " + std::to_string(id) + " is outside the vocabulary");
      kept.tokens.push_back(id);
    }
    const int length = number(facts, "length", 0, 1 << 28);
    if (length != static_cast<int>(kept.tokens.size()))
      throw Error(Kind::bad_data, "length: expected that of its tokens, " +
                                      std::to_string(kept.tokens.size()) + ", got " +
                                      std::to_string(length));
    kept.kv_bits = number(facts, "kv_bits", 0, 16);
    kept.cache = model.make_cache(
        {}, {.kv_bits = kept.kv_bits, .max_kv = number(facts, "max_kv", 0, 1 << 28)});
    for (int i = 0; i < kept.cache.layers(); ++i) {
      auto* layer = kept.cache.layer(i);
      if (!layer) continue;
      std::vector<mx::array> arrays;
      for (size_t k = 0; file.contains(array_name(i, k)); ++k) {
        // A copy: the file may be written again while this is in use, and buffers are written to.
        const auto mapped = file.get(array_name(i, k));
        if (mapped.ndim() == 0 || mapped.shape(0) != 1)
          throw Error(Kind::bad_data,
                      array_name(i, k) + ": expected an array of one row, [1, ...]");
        arrays.push_back(mx::add(mapped, mx::zeros({1}, mapped.dtype())));
      }
      mx::eval(arrays);
      layer->restore(std::move(arrays), length);
    }
    kept.cache.advance(length);
    return kept;
  });
}

}  // namespace lmxlab
