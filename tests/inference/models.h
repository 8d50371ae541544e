// Small models of every kind of attention, position and wiring, for comparing ways to generate.
#pragma once

#include "lmxlab/config/presets.h"
#include "lmxlab/models/language_model.h"

#include <string>
#include <vector>

namespace lmxlab::testing_models {

struct Named {
  std::string name;
  config::Model config;
};

inline config::Model small(const config::Attention& mixer,
                           config::Wiring wiring = config::Wiring::pre) {
  config::Block block;
  block.mixer = mixer;
  block.ffn = config::Mlp{.hidden = 48};
  block.wiring = wiring;
  config::Model m;
  m.dim = 32, m.vocab = 61, m.context = 128;
  m.layers = {block, block};
  m.init_std = 0.3f;  // far from uniform, so that texts differ
  return m;
}

inline std::vector<Named> all() {
  using namespace config;
  const Attention base{.heads = 4, .kv_heads = 2, .head_dim = 8};
  std::vector<Named> out;
  for (const char* name : {"gpt-tiny", "llama-tiny"}) {
    auto m = preset(name);
    m.init_std = 0.2f;
    out.push_back({name, m});
  }
  const auto with = [&](const std::string& name, auto change) {
    Attention a = base;
    change(a);
    out.push_back({name, small(a)});
  };
  with("window 5", [](auto& a) { a.window = 5; });
  with("window 1", [](auto& a) { a.window = 1; });
  with("alibi", [](auto& a) { a.position = Alibi{}; });
  with("alibi, window 6", [](auto& a) { a.position = Alibi{}, a.window = 6; });
  with("softcap", [](auto& a) { a.softcap = 2.0f; });
  with("softcap, window 4, qk_norm",
       [](auto& a) { a.softcap = 2.0f, a.window = 4, a.qk_norm = RmsNorm{}; });
  with("interleaved rope", [](auto& a) { a.position = Rope{.interleaved = true}; });
  with("no position", [](auto& a) { a.position = NoPosition{}; });
  with("one key head, biases", [](auto& a) { a.kv_heads = 1, a.qkv_bias = a.out_bias = true; });
  for (const auto& [wiring, name] : EnumNames<Wiring>::table)
    out.push_back({std::string("wiring ") + name, small(base, wiring)});
  Attention absolute = base;
  absolute.position = NoPosition{};
  auto sinusoidal = small(absolute);
  sinusoidal.position = Sinusoidal{};
  out.push_back({"sinusoidal", sinusoidal});
  auto learned = small(absolute);
  learned.position = Learned{.length = 128};
  learned.logit_softcap = 5.0f, learned.tie_head = false, learned.head_bias = true;
  out.push_back({"learned, soft-capped logits", learned});
  Attention local = base;
  local.window = 4;
  auto mixed = small(base);
  Block global = mixed.layers[0], near = global;
  near.mixer = local;
  mixed.layers = {near, near, global};
  out.push_back({"local and global layers", mixed});
  return out;
}

}  // namespace lmxlab::testing_models
