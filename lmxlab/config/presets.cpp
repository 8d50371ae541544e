#include "lmxlab/config/presets.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace lmxlab::config {
namespace {

/// The width of the FFN where a family has a rule for it.
int (*hidden_rule(std::string_view family))(int) {
  return family == "gpt" ? gpt_hidden : family == "llama" ? llama_hidden : nullptr;
}

/// In the order in which families are first named, and within each the order of the lists.
std::vector<Preset> gather() {
  auto lists = std::vector<FamilyPresets>{{"gpt", gpt_presets()}, {"llama", llama_presets()}};
  for (auto& more : released_presets()) lists.push_back(std::move(more));
  lists.push_back({"grok", grok_presets()});
  for (auto& p : lmxlab_presets()) lists.push_back({p.family, {std::move(p)}});
  std::vector<Preset> out;
  for (auto& first : lists)
    for (auto& list : lists) {
      if (list.family != first.family) continue;
      for (auto& p : list.presets) out.push_back(std::move(p));
      list.presets.clear();
    }
  return out;
}

using std::to_string;

/// Where every layer that has the value says the same, that; else nothing.
void agree(std::optional<int>& out, bool& differs, int value) {
  if (differs) return;
  if (out && *out != value)
    out.reset(), differs = true;
  else
    out = value;
}

/// `value` times `over` / `under`, if that is whole.
std::optional<int> share(int64_t value, int64_t over, int64_t under) {
  if (under < 1 || value * over % under != 0) return std::nullopt;
  return static_cast<int>(value * over / under);
}

void resize_attention(Attention& a, const Sizes& s, int old_dim, int dim, Problems& problems) {
  const Attention before = a;
  const bool whole =
      int64_t{before.heads} * before.head_dim == old_dim;  // the heads divide the stream among them
  if (s.heads) a.heads = *s.heads;
  if (s.head_dim) a.head_dim = *s.head_dim;
  if (whole) {
    const bool free_heads = !s.heads && s.head_dim;
    const int parts = free_heads ? a.head_dim : a.heads;
    if (dim % parts != 0 || (s.head_dim && s.heads && int64_t{a.heads} * a.head_dim != dim)) {
      problems.add("dim: " + to_string(dim) + " is not " +
                   (free_heads   ? "a multiple of head_dim " + to_string(a.head_dim)
                    : s.head_dim ? to_string(a.heads) + " heads of " + to_string(a.head_dim)
                                 : "a multiple of " + to_string(a.heads) + " heads") +
                   "; change dim, heads or head_dim");
      return;
    }
    (free_heads ? a.heads : a.head_dim) = dim / parts;
  }
  if (s.kv_heads) {
    a.kv_heads = *s.kv_heads;
  } else if (before.kv_heads > 1 && a.heads != before.heads) {
    const auto kv = share(before.kv_heads, a.heads, before.heads);
    if (!kv)
      problems.add("kv_heads: " + to_string(before.kv_heads) + " of " + to_string(before.heads) +
                   " heads have no whole counterpart for " + to_string(a.heads) +
                   " heads; give kv_heads");
    else
      a.kv_heads = *kv;
  }
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = gather();
  return all;
}

std::vector<std::string> families() {
  std::vector<std::string> out;
  for (const auto& p : presets())
    if (out.empty() || out.back() != p.family) out.push_back(p.family);
  return out;
}

const std::vector<int64_t>& preset_parameters() {
  static const std::vector<int64_t> all = [] {
    std::vector<int64_t> out;
    for (const auto& p : presets()) out.push_back(count(p.make()).total);
    return out;
  }();
  return all;
}

Model tiny(std::string_view family, const Sizes& overrides) {
  std::string name(family);
  std::replace(name.begin(), name.end(), '_', '-');
  return preset(name + "-tiny", overrides);
}

Model preset(std::string_view name, const Sizes& overrides) {
  std::vector<std::string> names;
  for (const auto& p : presets()) {
    if (p.name == name) return with_context(p.name, [&] { return resize(p.make(), overrides); });
    names.push_back(p.name);
  }
  throw Error(Kind::not_found,
              "[presets] no preset \"" + std::string(name) + "\"; " + suggestion(name, names));
}

Model resize(Model model, const Sizes& s) {
  const std::string headline = "[config] the sizes contradict each other";
  Problems problems;
  const auto at_least_one = [&](const char* name, const std::optional<int>& value) {
    if (value && *value < 1)
      problems.add(std::string(name) + ": expected at least 1, got " + to_string(*value));
  };
  at_least_one("depth", s.depth), at_least_one("dim", s.dim), at_least_one("heads", s.heads);
  at_least_one("kv_heads", s.kv_heads), at_least_one("head_dim", s.head_dim),
      at_least_one("hidden", s.hidden);
  at_least_one("vocab", s.vocab), at_least_one("context", s.context);
  if (s.depth && *s.depth > kMaxDepth)
    problems.add("depth: expected at most " + to_string(kMaxDepth) + " layers, got " +
                 to_string(*s.depth));
  problems.raise(Kind::usage, headline);

  const int old_dim = model.dim;
  if (s.dim) model.dim = *s.dim;
  if (s.vocab) model.vocab = *s.vocab;
  if (s.context) {
    model.context = *s.context;
    if (auto* l = std::get_if<Learned>(&model.position)) l->length = *s.context;
  }
  const auto rule = hidden_rule(model.family);

  Problems layer_problems;
  bool attends = false, has_ffn = false;
  for (Block& b : model.layers) {
    if (auto* a = std::get_if<Attention>(&b.mixer)) {
      attends = true;
      if (layer_problems.empty())
        resize_attention(*a, s, old_dim, model.dim, layer_problems);  // one layer's say it all
    }
    if (auto* m = std::get_if<Mlp>(&b.ffn)) {
      has_ffn = true;
      if (s.hidden) {
        m->hidden = *s.hidden;
      } else if (s.dim && *s.dim != old_dim) {
        m->hidden =
            rule ? rule(model.dim)
                 : std::max(1,
                            static_cast<int>(std::lround(double(m->hidden) / old_dim * model.dim)));
      }
    }
  }
  for (const auto& p : layer_problems.list()) problems.add(p);
  if (!attends && (s.heads || s.kv_heads || s.head_dim))
    problems.add("heads, kv_heads, head_dim: no layer of this model has attention");
  if (!has_ffn && s.hidden) problems.add("hidden: no layer of this model has an FFN with one");
  problems.raise(Kind::usage, headline);

  if (s.depth && !model.layers.empty()) model.layers = cycle(model.layers, *s.depth);
  validate(model);
  return model;
}

Sizes sizes_of(const Model& model) {
  Sizes out{.depth = static_cast<int>(model.layers.size()),
            .dim = model.dim,
            .vocab = model.vocab,
            .context = model.context};
  bool heads = false, kv_heads = false, head_dim = false, hidden = false;
  for (const Block& b : model.layers) {
    if (const auto* a = std::get_if<Attention>(&b.mixer)) {
      agree(out.heads, heads, a->heads), agree(out.kv_heads, kv_heads, a->kv_heads);
      agree(out.head_dim, head_dim, a->head_dim);
    }
    if (const auto* m = std::get_if<Mlp>(&b.ffn)) agree(out.hidden, hidden, m->hidden);
  }
  return out;
}

}  // namespace lmxlab::config
