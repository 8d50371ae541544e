#include "lmxlab/inference/generation_config.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/io/gguf.h"

#include <limits>

namespace lmxlab {
namespace {

// The object in `path`, or an empty one if there is no such file.
Json read_if_there(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  auto json = Json::parse(read_file(path), path.string());
  if (!json.is_object())
    throw Error(Kind::bad_data,
                path.string() + ": expected an object, got " + std::string(json.type_name()));
  return json;
}

// Calls `use` with the member if it is there and not null; what it throws names file and member.
template <class F>
bool with_member(const Json& json, const fs::path& path, const char* name, F use) {
  const Json* value = json.find(name);
  if (!value || value->is_null()) return false;
  with_context(path.string() + ": " + name, [&] { use(*value); });
  return true;
}

int as_id(const Json& json) {
  const int64_t id = json.as_integer();
  if (id < 0 || id > std::numeric_limits<int>::max())
    throw Error(Kind::bad_data, "expected a token id, got " + std::to_string(id));
  return static_cast<int>(id);
}

}  // namespace

SamplingOptions read_generation_config(const fs::path& folder) {
  const auto path = folder / "generation_config.json";
  const auto json = read_if_there(path);
  SamplingOptions o;
  const auto number = [&](const char* name, float& field) {
    with_member(json, path, name,
                [&](const Json& v) { field = static_cast<float>(v.as_number()); });
  };
  number("temperature", o.temperature);
  number("top_p", o.top_p);
  number("min_p", o.min_p);
  number("repetition_penalty", o.repetition_penalty);
  with_member(json, path, "top_k", [&](const Json& v) { o.top_k = as_id(v); });
  with_member(json, path, "do_sample", [&](const Json& v) {
    if (!v.as_bool()) o.temperature = 0;
  });
  try {
    validate(o, std::numeric_limits<int>::max());
  } catch (const Error& e) {
    throw Error(Kind::bad_data, path.string() + ": " + e.what());
  }
  return o;
}

std::vector<int> eos_tokens(const fs::path& folder) {
  std::vector<int> out;
  if (io::is_gguf(folder)) {
    const io::Gguf file(folder);
    for (const char* key : {"eos", "eot", "eom"})
      if (const auto* id = file.find("tokenizer.ggml." + std::string(key) + "_token_id"))
        out.push_back(as_id(Json(id->as_integer())));
    return out;
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const auto path = folder / name;
    const bool found = with_member(read_if_there(path), path, "eos_token_id", [&](const Json& v) {
      if (!v.is_array()) return out.push_back(as_id(v));
      for (const auto& id : v.as_array()) out.push_back(as_id(id));
    });
    if (found) return out;
  }
  if (!data::tokenizer_file(folder).empty())
    if (const auto eos = data::Tokenizer::load(folder).eos_id()) out.push_back(*eos);
  return out;
}

}  // namespace lmxlab
