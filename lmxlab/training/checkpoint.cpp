#include "lmxlab/training/checkpoint.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/names.h"

#include <algorithm>
#include <charconv>

namespace lmxlab {
namespace {

constexpr const char* kStep = "step-";
constexpr const char* kParameter = "parameter.";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kStep)) return std::nullopt;
  int64_t n = 0;
  const auto* end = name.data() + name.size();
  const auto [at, code] = std::from_chars(name.data() + 5, end, n);
  if (code != std::errc() || at != end) return std::nullopt;
  return n;
}

// A file gets the content of another one, whole or not at all.
void put_in_place(const fs::path& from, const fs::path& to) {
  const auto temporary = to.parent_path() / ("." + to.filename().string() + ".tmp");
  std::error_code code;
  fs::remove(temporary, code);
  fs::create_hard_link(from, temporary, code);
  if (code) {  // a file system without hard links
    code.clear();
    fs::copy_file(from, temporary, fs::copy_options::overwrite_existing, code);
    if (!code) sync_path(temporary);
  }
  if (!code) fs::rename(temporary, to, code);
  if (code)
    throw Error(Kind::resource, "[run] cannot write " + to.string() + ": " + code.message());
}

}  // namespace

bool RunFolder::exists() const {
  return fs::exists(path_ / "recipe.toml");
}

std::vector<CheckpointInfo> RunFolder::checkpoints() const {
  std::vector<CheckpointInfo> out;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(path_ / "checkpoints", code)) {
    const auto step = step_of(entry.path().filename().string());
    if (!step) continue;
    CheckpointInfo info{*step, entry.path(), {}};
    const auto state = entry.path() / "state.json";
    if (!fs::exists(state)) continue;
    const auto json = Json::parse(read_file(state), state.string());
    if (const auto* loss = json.find("val_loss"); loss && loss->is_number())
      info.val_loss = loss->as_number();
    out.push_back(std::move(info));
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return out;
}

fs::path RunFolder::save(Trainer& trainer, LanguageModel& model,
                         const std::string& data_fingerprint, int keep,
                         const std::string& base) const {
  const Enter enter(model.runtime());
  const auto parent = path_ / "checkpoints";
  make_directory(parent);
  const auto name = kStep + std::to_string(trainer.state().step);
  const auto done = parent / name, making = parent / ("." + name + ".tmp");
  std::error_code code;
  fs::remove_all(making, code);
  make_directory(making);
  const auto adapters = adapters_of(model);
  const bool adapted = !adapters.empty();
  try {
    auto arrays = trainer.state_arrays();
    if (adapted) {
      const Trainer::Averaged averaged(trainer);
      save_adapter(model, adapters[0].name, making, AdapterFormat::peft, base);
    } else {
      const Trainer::Averaged averaged(trainer);
      model.save(making);
    }
    if (adapted || trainer.averages())
      for (const auto& e : core::collect_trainable(model.transformer()))
        arrays.emplace(kParameter + e.path, e.param->value);
    io::write_safetensors(making / "state.safetensors", arrays);
    Json state = to_json(trainer.state());
    state["version"] = Json(1);
    state["data_fingerprint"] = Json(data_fingerprint);
    write_file_atomic(making / "state.json", state.dump(2) + "\n");
    // A checkpoint is a model folder too.
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
      if (fs::exists(path_ / file)) put_in_place(path_ / file, making / file);
    sync_path(making);
  } catch (...) {
    fs::remove_all(making, code);
    throw;
  }
  fs::remove_all(done, code);
  fs::rename(making, done, code);
  if (code)
    throw Error(Kind::resource, "[run] cannot write " + done.string() + ": " + code.message());
  sync_path(parent);
  std::vector<const char*> files{"model.safetensors"};
  if (adapted) files = {"adapter_model.safetensors", "adapter_config.json"};
  for (const char* file : files) put_in_place(done / file, path_ / file);

  auto all = checkpoints();
  const auto best = std::min_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return a.val_loss.value_or(1e300) < b.val_loss.value_or(1e300);
  });
  const int64_t best_step = best != all.end() && best->val_loss ? best->step : -1;
  for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i)
    if (all[i].step != best_step) fs::remove_all(all[i].folder, code);
  return done;
}

void RunFolder::load(const CheckpointInfo& checkpoint, LanguageModel& model, Trainer& trainer,
                     const std::string& data_fingerprint) const {
  const auto state_path = checkpoint.folder / "state.json";
  auto json = Json::parse(read_file(state_path), state_path.string());
  const auto* version = json.find("version");
  if (!version || !(*version == Json(1)))
    throw Error(Kind::unsupported, "[run] " + state_path.string() + ": expected version 1");
  const auto* data = json.find("data_fingerprint");
  if (!data || !(*data == Json(data_fingerprint)))
    throw Error(Kind::mismatch,
                "[run] the data are not those that " + path_.string() +
                    " was trained on. Give the same file and tokenizer, or start a new run.");
  json.erase("version"), json.erase("data_fingerprint");
  const auto state = from_json<TrainState>(json, state_path.string());
  if (state.step != checkpoint.step)
    throw Error(Kind::bad_data,
                "[run] " + state_path.string() + " is of step " + std::to_string(state.step));

  const Enter enter(model.runtime());
  auto arrays = io::SafeTensors(checkpoint.folder / "state.safetensors").all();
  if (adapters_of(model).empty()) {
    auto tensors = names_from_checkpoint(
        config::hf_form(model.config()),
        io::SafeTensors(checkpoint.folder / "model.safetensors").all(), model.config());
    core::load(core::collect(model.transformer()), tensors, checkpoint.folder.string());
  }
  if (!adapters_of(model).empty() || trainer.averages()) {
    core::Tensors parameters;
    for (auto it = arrays.begin(); it != arrays.end();) {
      if (!it->first.starts_with(kParameter)) {
        ++it;
        continue;
      }
      parameters.emplace(it->first.substr(std::string_view(kParameter).size()), it->second);
      it = arrays.erase(it);
    }
    core::load(core::collect_trainable(model.transformer()), parameters,
               checkpoint.folder.string());
  }
  trainer.restore(arrays, state);
}

void RunFolder::clean(int64_t step) const {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(path_ / "checkpoints", code))
    if (entry.path().filename().string().starts_with(".")) fs::remove_all(entry.path(), code);
  const auto metrics = path_ / "metrics.jsonl";
  if (!fs::exists(metrics)) return;
  std::string kept;
  const auto text = read_file(metrics);
  for (size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    if (end == std::string::npos) break;  // half a line
    const auto line = text.substr(at, end - at);
    at = end + 1;
    try {
      if (Json::parse(line).at("step").as_integer() <= step) kept += line + "\n";
    } catch (const Error&) {
    }
  }
  write_file_atomic(metrics, kept);
}

}  // namespace lmxlab
