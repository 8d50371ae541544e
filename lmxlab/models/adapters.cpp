#include "lmxlab/models/adapters.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/quantize_blocks.h"
#include "lmxlab/models/adapter_layers.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace lmxlab {
namespace {

namespace mx = mlx::core;
using core::Adapter;
using core::Linear;

}  // namespace

std::vector<AdaptableLayer> adaptable_layers(LanguageModel& model) {
  struct Finder : core::Visitor {
    std::vector<AdaptableLayer> out;
    void linear(const std::string& path, Linear& l) override {
      if (path.starts_with("model.layers.") && path.find(".altup.") == path.npos)
        out.push_back({path, &l});
    }
  } finder;
  model.transformer().visit(finder);
  return std::move(finder.out);
}

namespace {

bool is_target(const std::string& target, const std::string& path) {
  if (target.find('*') != target.npos) return fits_pattern(target, path);
  return path == target || path.ends_with("." + target);
}

Adapter* find(Linear& layer, const std::string& name) {
  for (auto& a : layer.adapters)
    if (a.name == name) return &a;
  return nullptr;
}

/// |W|^2 of rows, some rows at a time.
mx::array square_norms(const core::Weight& w, int rows) {
  std::vector<mx::array> parts;
  constexpr int kRows = 4096;
  for (int from = 0; from < rows; from += kRows) {
    const auto at = mx::arange(from, std::min(rows, from + kRows), mx::int32);
    parts.push_back(mx::sum(mx::square(w.rows(at, mx::float32)), -1));
    mx::eval(parts.back());
  }
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
}

}  // namespace

void adapter_must_exist(LanguageModel& model, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& a : adapters_of(model)) names.push_back(a.name);
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  throw Error(Kind::not_found, "[adapter] the model has no adapter \"" + name + "\". " +
                                   (names.empty() ? "It has none: load or attach one."
                                                  : "It has: " + join(names, ", ") + "."));
}
void adapter_must_be_new(LanguageModel& model, const std::string& name) {
  if (name.empty() || name.find('.') != name.npos)
    throw Error(Kind::usage, "[adapter] name: expected one without dots, got \"" + name + "\"");
  for (const auto& a : adapters_of(model))
    if (a.name == name)
      throw Error(Kind::usage,
                  "[adapter] the model has an adapter \"" + name + "\" already. Detach it first.");
}

LinearSizes sizes_of(const Linear& l) {
  if (!l.weight.quantized()) return {l.weight.w.value.shape(1), l.weight.w.value.shape(0)};
  const auto packed = l.weight.packed();
  return {packed.in, packed.out};
}

void add_adapter(Linear& layer, Adapter adapter) {
  if (adapter.magnitude) adapter.square_norms = square_norms(layer.weight, sizes_of(layer).out);
  layer.adapters.push_back(std::move(adapter));
}
void freeze_base(LanguageModel& model) {
  for (const auto& e : core::collect(model.transformer()))
    if (e.path.find(".adapter.") == e.path.npos && !e.path.starts_with("score."))
      e.param->trainable = false;
}
void train_only(LanguageModel& model, const std::vector<std::string>& patterns) {
  const auto parameters = core::collect(model.transformer());
  std::vector<bool> chosen(parameters.size(), false);
  for (const auto& p : patterns) {
    bool used = false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& path = parameters[i].path;
      if (!is_target(p, path) && !is_target(p + ".weight", path) && !is_target(p + ".bias", path))
        continue;
      if (!parameters[i].param->trainable)
        throw Error(Kind::usage, "[train] " + path + " does not train: it is packed, or a state.");
      chosen[i] = used = true;
    }
    if (!used)
      throw Error(Kind::usage, "[train] \"" + p + "\" fits no parameter; one is " +
                                   parameters.back().path + ".");
  }
  for (size_t i = 0; i < parameters.size(); ++i)
    if (!chosen[i]) parameters[i].param->trainable = false;
}
AdapterInfo adapter_info(LanguageModel& model, const std::string& name) {
  AdapterInfo out{name};
  for (const auto& t : adaptable_layers(model))
    if (const auto* a = find(*t.layer, name)) {
      ++out.layers, out.on = a->on;
      out.parameters += static_cast<int64_t>(a->a.value.size() + a->b.value.size());
      if (a->magnitude) out.parameters += static_cast<int64_t>(a->magnitude->value.size());
    }
  return out;
}

AdapterInfo attach_adapter(LanguageModel& model, const AdapterOptions& o, const std::string& name,
                           uint64_t seed) {
  Problems problems;
  if (o.rank < 1) problems.add("rank: expected at least 1, got " + std::to_string(o.rank));
  if (!(o.alpha > 0)) problems.add("alpha: expected more than 0, got " + std::to_string(o.alpha));
  if (!(o.dropout >= 0 && o.dropout < 1))
    problems.add("dropout: expected from 0 to less than 1, got " + std::to_string(o.dropout));
  for (const auto& r : o.ranks)
    if (r.rank < 1)
      problems.add("rank of " + r.pattern + ": expected at least 1, got " + std::to_string(r.rank));
  const auto all = adaptable_layers(model);
  const int layers = static_cast<int>(model.config().layers.size());
  if (o.last_layers < 0 || o.last_layers > layers)
    problems.add("last_layers: expected from 0 to " + std::to_string(layers) + ", got " +
                 std::to_string(o.last_layers));
  problems.raise(Kind::usage, "[adapter] cannot be attached");
  adapter_must_be_new(model, name);
  const int first = o.last_layers > 0 ? layers - o.last_layers : 0;
  std::vector<AdaptableLayer> chosen;
  std::vector<bool> used(o.targets.size(), false), ranked(o.ranks.size(), false);
  for (const auto& t : all) {
    const auto number = t.path.substr(13);  // behind "model.layers."
    if (std::stoi(number) < first) continue;
    bool wanted = o.targets.empty();
    for (size_t i = 0; i < o.targets.size(); ++i)
      if (is_target(o.targets[i], t.path)) wanted = used[i] = true;
    if (wanted) chosen.push_back(t);
  }
  const auto unused = [&](const std::string& what, const std::string& pattern) {
    throw Error(Kind::usage, "[adapter] the " + what + " \"" + pattern + "\" fits no linear layer" +
                                 (all.empty() ? "." : "; one is " + all.back().path + "."));
  };
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i]) unused("target", o.targets[i]);
  std::vector<int> ranks;
  for (const auto& t : chosen) {
    int rank = o.rank;
    for (size_t i = 0; i < o.ranks.size(); ++i)
      if (is_target(o.ranks[i].pattern, t.path)) {
        rank = o.ranks[i].rank, ranked[i] = true;
        break;
      }
    ranks.push_back(rank);
  }
  for (size_t i = 0; i < ranked.size(); ++i)
    if (!ranked[i]) unused("pattern of a rank", o.ranks[i].pattern);
  if (chosen.empty()) unused("choice", "every linear layer of the blocks");

  const Enter enter(model.runtime());
  auto key = mx::random::key(seed);
  for (size_t i = 0; i < chosen.size(); ++i) {
    auto& layer = *chosen[i].layer;
    const auto [in, out] = sizes_of(layer);
    const auto [next, mine] = mx::random::split(key);
    key = next;
    const float bound = 1 / std::sqrt(static_cast<float>(in)), rank = static_cast<float>(ranks[i]);
    const auto a =
        mx::random::uniform(mx::array(-bound), mx::array(bound), {ranks[i], in}, mx::float32, mine);
    Adapter adapter{name, {a}, {mx::zeros({out, ranks[i]}, mx::float32)}};
    adapter.scale = o.alpha / (o.rslora ? std::sqrt(rank) : rank);
    adapter.dropout = o.dropout;
    if (o.dora) adapter.magnitude = core::Param{mx::sqrt(square_norms(layer.weight, out))};
    add_adapter(layer, std::move(adapter));
  }
  freeze_base(model);
  return adapter_info(model, name);
}

void detach_adapter(LanguageModel& model, const std::string& name) {
  adapter_must_exist(model, name);
  for (const auto& t : adaptable_layers(model))
    std::erase_if(t.layer->adapters, [&](const Adapter& a) { return a.name == name; });
}

void use_adapters(LanguageModel& model, const std::vector<std::string>& names) {
  for (const auto& n : names) adapter_must_exist(model, n);
  for (const auto& t : adaptable_layers(model))
    for (auto& a : t.layer->adapters)
      a.on = std::find(names.begin(), names.end(), a.name) != names.end();
}

AdaptersOff::AdaptersOff(LanguageModel& model) : model_(model) {
  for (const auto& a : adapters_of(model))
    if (a.on) on_.push_back(a.name);
  use_adapters(model, {});
}
AdaptersOff::~AdaptersOff() {
  use_adapters(model_, on_);
}

std::vector<AdapterInfo> adapters_of(LanguageModel& model) {
  std::vector<std::string> names;
  for (const auto& t : adaptable_layers(model))
    for (const auto& a : t.layer->adapters)
      if (std::find(names.begin(), names.end(), a.name) == names.end()) names.push_back(a.name);
  std::vector<AdapterInfo> out;
  for (const auto& n : names) out.push_back(adapter_info(model, n));
  return out;
}

struct Merged::Kept {
  struct Layer {
    std::string path;
    core::Weight weight;
    Adapter adapter;
  };
  std::vector<Layer> layers;
};

Merged merge_adapter(LanguageModel& model, const std::string& name) {
  adapter_must_exist(model, name);
  Merged out;
  out.kept_ = std::make_shared<Merged::Kept>();
  const auto all = adaptable_layers(model);
  for (const auto& t : all)
    if (const auto& w = t.layer->weight;
        find(*t.layer, name) && w.blocks() &&
        kernels::quantizable_blocks(kernels::block_format(w.format).ggml).weights == 0)
      throw Error(Kind::unsupported, "[adapter] " + t.path +
                                         " is packed in a format that is read only. Merge into "
                                         "another: `lmxlab convert` the model first.");
  const Enter enter(model.runtime());
  for (const auto& t : all) {
    auto* adapter = find(*t.layer, name);
    if (!adapter) continue;
    auto& w = t.layer->weight;
    out.kept_->layers.push_back({t.path, w, *adapter});
    const int rows = sizes_of(*t.layer).out;
    const auto own = w.quantized() ? w.rows(mx::arange(rows, mx::int32), mx::float32)
                                   : mx::astype(w.w.value, mx::float32);
    const auto wanted = adapted_matrix(*adapter, own);
    core::Weight now{{wanted, false}};
    if (!w.quantized()) {
      now.w.value = mx::astype(wanted, w.w.value.dtype());
    } else if (w.blocks()) {
      now.expect_blocks(w.format);
      now.w.value = kernels::quantize_blocks(kernels::block_format(w.format).ggml, wanted);
    } else if (w.floats != kernels::FloatFormat::none) {
      now.quantize(w.floats);
    } else {
      now.w.value = mx::astype(wanted, w.scales->value.dtype());
      now.quantize(w.group, w.bits);
    }
    const auto is = now.quantized() ? now.rows(mx::arange(rows, mx::int32), mx::float32)
                                    : mx::astype(now.w.value, mx::float32);
    const auto error = mx::max(mx::abs(mx::subtract(is, wanted)));
    std::vector<mx::array> done{now.w.value, error};
    if (now.scales) done.push_back(now.scales->value);
    if (now.biases) done.push_back(now.biases->value);
    mx::eval(done);
    if (w.interleaved) now.interleave();
    out.max_error = std::max(out.max_error, double(error.item<float>()));
    ++out.tensors;
    w = std::move(now);
    std::erase_if(t.layer->adapters, [&](const Adapter& a) { return a.name == name; });
  }
  return out;
}

void unmerge_adapter(LanguageModel& model, Merged merged) {
  if (!merged.kept_) throw Error(Kind::usage, "[adapter] nothing was merged");
  const auto all = adaptable_layers(model);
  if (!merged.kept_->layers.empty())
    adapter_must_be_new(model, merged.kept_->layers[0].adapter.name);
  for (auto& kept : merged.kept_->layers) {
    const auto it = std::find_if(all.begin(), all.end(),
                                 [&](const AdaptableLayer& t) { return t.path == kept.path; });
    if (it == all.end()) throw Error(Kind::usage, "[adapter] it was merged into another model");
    it->layer->weight = std::move(kept.weight);
    it->layer->adapters.push_back(std::move(kept.adapter));
  }
}

}  // namespace lmxlab
