#include "lmxlab/cli/model_argument.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/core/tree.h"
#include "lmxlab/io/hf_folder.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/gguf_model.h"
#include "lmxlab/models/quantization_config.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/models/weight_cache.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace lmxlab::cli {
namespace {

std::string model_names(const std::string& argument) {
  std::vector<std::string> names;
  for (const auto& p : config::presets()) names.push_back(p.name);
  return suggestion(argument, names);
}

// Where weights laid out for this machine are kept; none: nowhere.
std::optional<fs::path> weight_cache_folder() {
  const auto set = [](const char* name) {
    const char* v = std::getenv(name);
    return v && *v ? std::optional(fs::path(v)) : std::nullopt;
  };
  if (const auto own = set("LMXLAB_WEIGHT_CACHE")) {
    if (*own == "off") return std::nullopt;
    return own;
  }
  if (const auto cache = set("XDG_CACHE_HOME")) return *cache / "lmxlab" / "weights";
  if (const auto home = set("HOME")) return *home / ".cache" / "lmxlab" / "weights";
  return std::nullopt;
}

}  // namespace

ModelPlace find_model(const std::string& argument, const Context& context, io::HubPart part) {
  std::error_code ignored;
  const bool own = fs::exists(fs::path(argument) / "config.json", ignored);
  for (const auto& p : config::presets())
    if (p.name == argument && !own) return {{}, argument};
  const auto hub = io::hub_name(argument);
  if (hub && !hub->file.empty() && !hub->file.ends_with(".gguf") && !fs::exists(argument, ignored))
    throw Error(Kind::usage,
                "[model] " + argument +
                    ": expected a GGUF file behind the colon, as in org/name:file.gguf");
  const auto text = local_path(argument, part, context);
  const fs::path path(text);
  const bool folder = fs::is_directory(path, ignored);
  if (folder && fs::exists(path / "config.json", ignored)) return {path, ""};
  if (folder && fs::exists(path / "adapter_config.json", ignored)) {
    const auto base = base_of_adapter(path);
    if (base.empty() || base == argument)
      throw Error(Kind::not_found, "[model] " + argument +
                                       " is an adapter that names no base: give its model, and the "
                                       "folder with --adapter");
    auto place = with_context(argument, [&] { return find_model(base, context, part); });
    place.adapters = {{path}};
    return place;
  }
  if (folder)
    throw Error(Kind::not_found,
                "[model] " + argument + " is no model folder: expected config.json in it" +
                    (io::has_weights(path)
                         ? ". A checkpoint of the Python lmxlab has none: `lmxlab convert " +
                               argument + " OUT --config PRESET` makes a folder of it"
                         : ""));
  const bool exists = fs::exists(path, ignored);
  if (exists && (text.ends_with(".gguf") || io::is_gguf(path))) return {path, ""};
  if (argument.ends_with(".gguf"))
    throw Error(Kind::not_found, "[model] there is no file " + argument);
  if (exists)
    throw Error(Kind::usage, "[model] " + argument +
                                 " is a file, and no GGUF file: expected a model folder, a GGUF "
                                 "file or a preset. Give the folder that holds config.json.");
  if (argument.find('/') == std::string::npos)
    throw Error(Kind::not_found, "[model] there is no folder and no preset \"" + argument + "\"; " +
                                     model_names(argument));
  const bool path_alone = argument[0] == '/' || argument[0] == '.' || argument[0] == '~' ||
                          argument.starts_with("runs/");
  throw Error(Kind::not_found,
              "[model] there is no folder " + argument +
                  (path_alone ? ""
                              : ", and it is no name on a hub: expected org/name or "
                                "org/name:file.gguf"));
}

fs::path weights_of(const ModelPlace& place) {
  if (place.path.empty() || io::is_gguf(place.path) || io::has_weights(place.path))
    return place.path;
  const auto path = place.path / "config.json";
  auto json = Json::parse(read_file(path), path.string());
  if (with_context(path.string(), [&] { return take_quantization(json); }))
    throw Error(Kind::unsupported,
                "[model] " + path.string() +
                    " is of packed weights, and there are none beside it. Remove "
                    "\"quantization_config\" from it, and give --bits.");
  return {};
}

config::Model read_config(const ModelPlace& place, const Context& context) {
  if (place.path.empty()) return config::preset(place.preset);
  if (io::is_gguf(place.path)) {
    const io::Gguf file(place.path);
    auto read = with_context(place.path.string(), [&] { return read_gguf_config(file); });
    for (const auto& w : read.warnings) context.warn(w);
    return std::move(read.model);
  }
  const auto path = place.path / "config.json";
  auto json = parse_python_json(read_file(path), path.string());
  with_context(path.string(), [&] { return take_quantization(json); });
  auto read = with_context(path.string(), [&] { return config::from_hf(json); });
  config::validate(read.model, Kind::bad_data);
  for (const auto& w : read.warnings) context.warn(w);
  return std::move(read.model);
}

void cast_weights(LanguageModel& model, DType dtype) {
  const Enter enter(model.runtime());
  for (auto& e : core::collect(model.transformer()))
    if (mx::issubdtype(e.param->value.dtype(), mx::floating))
      e.param->value = mx::astype(e.param->value, to_mlx(dtype));
}

OpenModel open_model(const std::string& argument, uint64_t seed, std::optional<DType> dtype,
                     const Context& context) {
  return open_model(find_model(argument, context), seed, dtype, context);
}

void expect_no_adapter(const std::string& command, const OpenModel& m) {
  if (m.place.adapters.empty()) return;
  const auto folder = m.place.adapters[0].path.string();
  throw Error(Kind::usage,
              "[" + command + "] " + folder +
                  " is an adapter: expected a whole model. Make one of it first: merge " +
                  m.place.path.string() + " " + folder + " OUT");
}

OpenModel new_model(ModelPlace place, uint64_t seed, DType dtype, const Context& context) {
  return {LanguageModel(read_config(place, context), seed, dtype), std::nullopt, std::move(place)};
}

OpenModel open_model(ModelPlace place, uint64_t seed, std::optional<DType> dtype,
                     const Context& context) {
  if (place.path.empty())
    return new_model(std::move(place), seed, dtype.value_or(DType::f32), context);
  expect_mappable(place.path);
  auto model = LanguageModel::load(place.path);
  load_adapters(model, place.adapters);
  for (const auto& w : model.warnings()) context.warn(w);
  // What is cast is not what the folder holds.
  const bool cast = dtype && *dtype != model.dtype();
  if (cast) cast_weights(model, *dtype);
  const auto cache = cast ? std::nullopt : weight_cache_folder();
  if (!cache) {
    interleave_model(model);
  } else if (const auto problem = interleave_from_cache(model, place.path, *cache)) {
    context.warn(*problem);
  }
  std::optional<data::Tokenizer> tokenizer;
  std::error_code ignored;
  if (!data::tokenizer_file(place.path).empty()) tokenizer = data::Tokenizer::load(place.path);
  if (tokenizer && tokenizer->vocab_size() > model.config().vocab)
    throw Error(Kind::mismatch,
                "[model] the tokenizer has " + std::to_string(tokenizer->vocab_size()) +
                    " tokens, the model a vocabulary of " + std::to_string(model.config().vocab));
  return {std::move(model), std::move(tokenizer), std::move(place)};
}

Subject subject_of(const OpenModel& m) {
  Subject subject{m.model.config(), m.place.path};
  subject.adapters = m.place.adapters;
  return subject;
}

plan::Budget budget_beside(const OpenModel& m, const OpenModel* draft) {
  int64_t mapped = 0, made = 0;
  for (const auto* one : {&m, draft})
    if (one) (one->place.path.empty() ? made : mapped) += one->model.parameter_bytes();
  return machine_budget(mapped, std::min(made, static_cast<int64_t>(kernels::active_bytes())));
}

std::optional<DType> dtype_argument(const std::string& text) {
  if (text.empty()) return std::nullopt;
  return text == "bf16" ? DType::bf16 : DType::f32;
}
const char* dtype_name(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16";
}

std::vector<int> parse_ids(const std::string& text, int vocab, const std::string& option) {
  std::vector<int> out;
  for (const auto& part : split(text, ',')) {
    const auto digits = trim(part);
    int id = 0;
    const auto [at, code] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (digits.empty() || code != std::errc() || at != digits.data() + digits.size() || id < 0 ||
        id >= vocab)
      throw Error(Kind::usage, "[tokens] " + option + ": expected ids from 0 to " +
                                   std::to_string(vocab - 1) + " with commas between them, got \"" +
                                   std::string(digits) + "\"");
    out.push_back(id);
  }
  return out;
}

}  // namespace lmxlab::cli
