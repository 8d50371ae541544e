#include "lmxlab/config/describe.h"

#include "lmxlab/config/count.h"

#include "lmxlab/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lmxlab::config {
namespace {

using Phrases = std::vector<std::string>;
constexpr size_t kColumns = 80;

/// 10000 -> "10,000", 1e-05 and 0.125 as they are.
std::string number(float value) {
  if (std::abs(value) < 1e9f && value == std::trunc(value))
    return with_commas(static_cast<int64_t>(value));
  return Json(value).dump();
}
std::string comma(int64_t value) {
  return with_commas(value);
}

std::string norm_phrase(const Norm& norm) {
  const auto offset = [](float value) {
    return value != 0 ? ", weight offset " + number(value) : "";
  };
  if (const auto* c = std::get_if<Custom>(&norm)) return "custom norm " + c->name;
  if (const auto* l = std::get_if<LayerNorm>(&norm))
    return std::string("LayerNorm") +
           (!l->weight ? " without weights"
            : l->bias  ? ""
                       : " without bias") +
           ", eps " + number(l->eps) + offset(l->weight_offset);
  const auto& r = std::get<RmsNorm>(norm);
  return std::string("RMSNorm") + (r.weight ? "" : " without weights") + ", eps " + number(r.eps) +
         offset(r.weight_offset);
}

std::string rope_phrase(const Rope& r) {
  std::string out = "rope theta " + number(r.theta);
  if (r.dims > 0) out += " over " + std::to_string(r.dims) + " dimensions";
  if (r.interleaved) out += " interleaved";
  if (r.scale != 1) out += " scale " + number(r.scale);
  std::visit(
      [&](const auto& s) {
        if constexpr (requires { s.original; }) {
          out += std::string(" ") + s.kind;
          if constexpr (requires { s.factor; }) out += " factor " + number(s.factor);
          out += " from " + comma(s.original);
        }
      },
      r.scaling);
  return out;
}

Phrases phrases(const Mamba2& m) {
  Phrases out{"mamba2 " + std::to_string(m.heads) + " x " + std::to_string(m.head_dim),
              "state " + comma(m.state)};
  if (m.groups > 1) out.push_back(std::to_string(m.groups) + " groups");
  out.push_back("convolution of " + std::to_string(m.conv));
  if (!m.norm) out.push_back("no norm");
  if (m.norm && m.norm_before_gate) out.push_back("norm before the gate");
  if (m.in_bias) out.push_back("input bias");
  if (!m.conv_bias) out.push_back("no convolution bias");
  if (m.out_bias) out.push_back("output bias");
  if (m.dt_min > 0) out.push_back("time steps from " + number(m.dt_min));
  if (m.dt_max) out.push_back("time steps to " + number(*m.dt_max));
  return out;
}
Phrases phrases(const GatedDelta& m) {
  Phrases out{"gated delta " + std::to_string(m.heads) + " x " + std::to_string(m.value_dim)};
  out.push_back(std::to_string(m.key_heads) + " key heads x " + std::to_string(m.key_dim));
  out.push_back("convolution of " + std::to_string(m.conv));
  if (m.allow_neg_eigval) out.push_back("negative eigenvalues");
  return out;
}
Phrases phrases(const ShortConv& m) {
  Phrases out{"convolution of " + std::to_string(m.conv)};
  if (m.bias) out.push_back("biases");
  return out;
}
Phrases phrases(const KimiDelta& m) {
  Phrases out{"kimi delta " + std::to_string(m.heads) + " x " + std::to_string(m.head_dim),
              "convolution of " + std::to_string(m.conv)};
  if (!m.low_rank) out.push_back("gates of full rank");
  if (m.lower_bound) out.push_back("log decays from " + number(*m.lower_bound));
  return out;
}
Phrases phrases(const Mamba& m) {
  Phrases out{"mamba " + comma(m.inner), "state " + comma(m.state),
              "time steps of rank " + comma(m.dt_rank), "convolution of " + std::to_string(m.conv)};
  if (m.norms != MambaNorms::none) out.push_back(enum_name(m.norms) + " norms");
  if (m.bias) out.push_back("biases");
  if (!m.conv_bias) out.push_back("no convolution bias");
  return out;
}
Phrases phrases(const Lightning& m) {
  Phrases out{"lightning " + std::to_string(m.heads) + " x " + std::to_string(m.head_dim)};
  if (m.decays != Decays::exact)
    out.push_back(enum_name(m.decays) + " decays in blocks of " + comma(m.block));
  return out;
}
Phrases phrases(const RgLru& m) {
  Phrases out{"rg_lru " + comma(m.width), "gates of " + comma(m.heads) + " blocks",
              "convolution of " + std::to_string(m.conv)};
  if (m.act != Act::gelu_tanh) out.push_back(enum_name(m.act));
  return out;
}
Phrases phrases(const RwkvTime& m) {
  return {"rwkv time mixing " + comma(m.inner)};
}
Phrases phrases(const RwkvChannel& m) {
  Phrases out{"rwkv channel mixing " + comma(m.hidden)};
  if (!m.gate) out.push_back("no gate");
  return out;
}
Phrases phrases(const Rwkv7& m) {
  Phrases out{"rwkv7 " + std::to_string(m.heads) + " x " + std::to_string(m.head_dim),
              "decays of rank " + comma(m.decay_rank), "rates of rank " + comma(m.rate_rank),
              "gate of rank " + comma(m.gate_rank)};
  if (m.values_from)
    out.push_back("values of layer " + comma(*m.values_from) + " by rank " + comma(m.value_rank));
  return out;
}
Phrases phrases(const Mamba3& m) {
  Phrases out{"mamba3 " + std::to_string(m.heads) + " x " + std::to_string(m.head_dim),
              "state " + comma(m.state)};
  if (m.groups > 1) out.push_back(std::to_string(m.groups) + " groups");
  out.push_back(comma(m.angles) + (m.angles == 1 ? " angle" : " angles"));
  if (m.norm) out.push_back("norm a head");
  return out;
}
Phrases phrases(const Mlstm& m) {
  return {"mlstm " + std::to_string(m.heads) + " x " + std::to_string(m.value_dim),
          "keys of " + std::to_string(m.key_dim), "gates within " + number(m.gate_cap)};
}

Phrases phrases(const Attention& a) {
  Phrases out{"attention " + std::to_string(a.heads) + " x " + std::to_string(a.head_dim)};
  if (a.kv_heads != a.heads)
    out.push_back(std::to_string(a.kv_heads) + (a.kv_heads == 1 ? " kv head" : " kv heads"));
  if (const auto* r = std::get_if<Rope>(&a.position)) out.push_back(rope_phrase(*r));
  if (std::holds_alternative<Alibi>(a.position)) out.push_back("ALiBi");
  if (a.window) out.push_back((a.chunked ? "chunks of " : "window ") + comma(*a.window));
  if (a.qk_norm)
    out.push_back("q and k norm " + norm_phrase(*a.qk_norm) +
                  (a.qk_norm_joint     ? " over all heads"
                   : a.qk_norm_by_head ? " of each head"
                                       : "") +
                  (a.qk_norm_late ? " after rotation" : ""));
  if (a.qkv_bias && a.out_bias)
    out.push_back("biases");
  else if (a.qkv_bias)
    out.push_back("q, k, v biases");
  else if (a.out_bias)
    out.push_back("output bias");
  if (a.scale) out.push_back("scale " + number(*a.scale));
  if (a.softcap) out.push_back("softcap " + number(*a.softcap));
  if (a.v_dim) out.push_back("values " + comma(*a.v_dim));
  if (a.v_of_k) out.push_back("values of the keys");
  if (a.kv_from) out.push_back("keys and values of layer " + comma(*a.kv_from));
  if (a.v_norm) out.push_back("v norm " + norm_phrase(*a.v_norm));
  if (a.k_scale != 1) out.push_back("keys times " + number(a.k_scale));
  if (a.v_scale != 1) out.push_back("values times " + number(a.v_scale));
  if (a.gate)
    out.push_back(std::string(a.gate_softplus ? "softplus gate" : "gate") +
                  (a.gate_by_head ? " a head" : ""));
  if (a.sinks) out.push_back("sinks");
  if (a.clip) out.push_back("q, k, v within " + number(*a.clip));
  if (a.out_norm) out.push_back("output norm " + norm_phrase(*a.out_norm));
  if (a.temperature)
    out.push_back("queries grow every " + comma(a.temperature->every) + " positions");
  return out;
}

Phrases phrases(const Parallel& p) {
  Phrases out = phrases(p.attention);
  out[0] = "parallel " + out[0];
  for (auto& phrase : phrases(p.mamba)) out.push_back(std::move(phrase));
  const auto times = [&](const char* what, float value) {
    if (value != 1) out.push_back(std::string(what) + " times " + number(value));
  };
  times("attention's input", p.attention_in), times("attention", p.attention_out);
  times("mamba's input", p.mamba_in), times("mamba", p.mamba_out);
  return out;
}

Phrases mixer_phrases(const Mixer& mixer) {
  if (const auto recurrent = std::visit(
          [](const auto& m) -> std::optional<Phrases> {
            if constexpr (requires { phrases(m); }) return phrases(m);
            return std::nullopt;
          },
          mixer))
    return *recurrent;
  if (std::holds_alternative<Nothing>(mixer)) return {"no mixer"};
  if (const auto* c = std::get_if<Custom>(&mixer))
    return {"custom mixer " + c->name, c->values.dump()};
  if (const auto* m = std::get_if<Mla>(&mixer)) {
    Phrases out{"latent attention " + std::to_string(m->heads) + " x (" +
                    std::to_string(m->nope_dim) + " + " + std::to_string(m->rope_dim) + ")",
                "values " + std::to_string(m->v_dim), "latent " + comma(m->kv_rank)};
    if (m->q_rank) out.push_back("query latent " + comma(*m->q_rank));
    if (const auto* r = std::get_if<Rope>(&m->position)) out.push_back(rope_phrase(*r));
    if (m->bias) out.push_back("biases");
    if (m->scale) out.push_back("scale " + number(*m->scale));
    if (m->gate) out.push_back("gate a head");
    if (const auto& x = m->indexer) {
      if (!x->shared)
        out.push_back("indexer " + std::to_string(x->heads) + " x " + std::to_string(x->head_dim));
      out.push_back("top " + comma(x->top_k) + (x->shared ? " keys as chosen before" : " keys"));
      if (x->loss != 0 && !x->shared) out.push_back("indexer loss " + number(x->loss));
    }
    return out;
  }
  if (const auto* s = std::get_if<Nsa>(&mixer)) {
    Phrases out{"sparse attention " + std::to_string(s->heads) + " x " +
                std::to_string(s->head_dim)};
    if (s->kv_heads != s->heads)
      out.push_back(std::to_string(s->kv_heads) + (s->kv_heads == 1 ? " kv head" : " kv heads"));
    if (const auto* r = std::get_if<Rope>(&s->position)) out.push_back(rope_phrase(*r));
    out.push_back("blocks of " + comma(s->block) + " each " + comma(s->stride) + " compressed by " +
                  comma(s->hidden));
    out.push_back(comma(s->selected) + " blocks of " + comma(s->selected_block) + " selected");
    out.push_back("window " + comma(s->window));
    if (s->scale) out.push_back("scale " + number(*s->scale));
    return out;
  }
  return phrases(std::get<Attention>(mixer));
}

Phrases moe_phrases(const Moe& m) {
  std::string widths;
  for (const auto& [width, experts] : m.by_width())
    widths += (widths.empty() ? "" : " and ") + (m.widths.empty() ? "" : comma(experts) + " of ") +
              comma(width);
  Phrases out{comma(m.top_k) + " of " + comma(m.experts) + " experts " +
                  (m.gated ? "gated mlp " : "mlp ") + widths,
              enum_name(m.act)};
  if (m.bias) out.push_back("biases");
  if (m.clamp) out.push_back("clamped at " + number(*m.clamp));
  if (m.alpha != 1) out.push_back("alpha " + number(m.alpha));
  if (m.up_offset != 0) out.push_back("up plus " + number(m.up_offset));
  if (m.latent > 0) out.push_back("latent " + comma(m.latent));
  if (m.zero_experts > 0) out.push_back(comma(m.zero_experts) + " zero experts");
  out.push_back("router " + enum_name(m.scoring));
  if (m.router_bias) out.push_back("router bias");
  if (m.router_softcap) out.push_back("router softcap " + number(*m.router_softcap));
  if (m.router_norm) out.push_back("router norm eps " + number(*m.router_norm));
  if (m.selection_bias) out.push_back("selection bias");
  if (m.groups > 1)
    out.push_back(comma(m.groups_kept) + " of " + comma(m.groups) + " groups by " +
                  enum_name(m.group_score));
  if (m.normalize > 0)
    out.push_back(m.normalize == 1 ? "normalized" : "normalized by order " + number(m.normalize));
  if (m.scale != 1) out.push_back("weights times " + number(m.scale));
  if (m.expert_scale) out.push_back("a scale an expert");
  if (m.input_scaled) out.push_back("inputs scaled");
  if (m.shared > 0)
    out.push_back("shared expert " + comma(m.shared) + (m.shared_gate ? " gated" : ""));
  if (m.shared_bias) out.push_back("shared biases");
  if (m.aux_loss != 0) out.push_back("balance loss " + number(m.aux_loss));
  if (m.z_loss != 0) out.push_back("z loss " + number(m.z_loss));
  if (m.bias_rate != 0) out.push_back("bias rate " + number(m.bias_rate));
  return out;
}

Phrases mlp_phrases(const Mlp& m) {
  Phrases out{std::string(m.gated ? "gated mlp " : "mlp ") + comma(m.hidden), enum_name(m.act)};
  if (m.bias) out.push_back("biases");
  if (m.norm) out.push_back("inner norm " + norm_phrase(*m.norm));
  if (m.gate_scale != 1) out.push_back("gate times " + number(m.gate_scale));
  if (m.sparsity > 0) out.push_back("sparsity " + number(m.sparsity));
  return out;
}

Phrases ffn_phrases(const Ffn& ffn) {
  if (std::holds_alternative<Nothing>(ffn)) return {"no ffn"};
  if (const auto* c = std::get_if<Custom>(&ffn)) return {"custom ffn " + c->name, c->values.dump()};
  if (const auto* m = std::get_if<Moe>(&ffn)) return moe_phrases(*m);
  if (const auto* both = std::get_if<MlpAndMoe>(&ffn)) {
    Phrases out = mlp_phrases(both->mlp);
    out.push_back("beside");
    for (auto& phrase : moe_phrases(both->moe)) out.push_back(std::move(phrase));
    return out;
  }
  return mlp_phrases(std::get<Mlp>(ffn));
}

/// The largest offset up to `width` that does not cut a UTF-8 character.
size_t cut_before(const std::string& text, size_t width) {
  size_t cut = width;
  while (cut > 1 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return cut;
}

/// Phrases joined by commas, broken between them (or inside, where one alone is too long, between
/// words if it has any) into lines of `width`.
std::vector<std::string> wrap(const Phrases& phrases, size_t width) {
  std::vector<std::string> lines(1);
  for (size_t i = 0; i < phrases.size(); ++i) {
    std::string piece = phrases[i] + (i + 1 < phrases.size() ? "," : "");
    if (!lines.back().empty() && lines.back().size() + 1 + piece.size() > width)
      lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += piece;
    while (lines.back().size() > width) {
      const size_t space = lines.back().rfind(' ', width);
      const bool words = space != std::string::npos && space > 0;
      const size_t cut = words ? space : cut_before(lines.back(), width);
      std::string rest = lines.back().substr(words ? cut + 1 : cut);
      lines.back().resize(cut);
      lines.push_back(std::move(rest));
    }
  }
  return lines;
}

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text;
}
std::string right(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

void row(std::string& out, const std::string& name, const Phrases& phrases) {
  constexpr size_t kName = 12;
  bool first = true;
  for (const auto& line : wrap(phrases, kColumns - kName)) {
    out += padded(first ? name : "", kName) + line + "\n";
    first = false;
  }
}

Phrases model_position(const Model& m) {
  Phrases out{comma(m.context) + " tokens"};
  if (const auto* l = std::get_if<Learned>(&m.position))
    out.push_back(l->length == m.context ? "learned positions"
                                         : comma(l->length) + " learned positions");
  else if (std::holds_alternative<Sinusoidal>(m.position))
    out.push_back("sinusoidal positions");
  return out;
}

Phrases head_phrases(const Model& m) {
  if (m.score) return {"one number: a reward model"};
  Phrases out{m.tie_head    ? "the embedding, transposed"
              : m.head_bias ? "its own weights and bias"
                            : "its own weights"};
  if (m.logit_scale != 1) out.push_back("logits times " + number(m.logit_scale));
  if (m.logit_softcap) out.push_back("softcap " + number(*m.logit_softcap));
  return out;
}

struct MixerName {
  char letter;
  std::string name;
};
MixerName name_of(const Mixer& mixer) {
  constexpr std::pair<const char*, char> kLetters[] = {
      {Attention::kind, 'A'}, {Mla::kind, 'L'},         {Mamba2::kind, 'M'},
      {Mamba::kind, 'S'},     {GatedDelta::kind, 'D'},  {KimiDelta::kind, 'K'},
      {ShortConv::kind, 'C'}, {Lightning::kind, 'G'},   {RgLru::kind, 'R'},
      {RwkvTime::kind, 'T'},  {RwkvChannel::kind, 'H'}, {Mlstm::kind, 'E'},
      {Rwkv7::kind, 'V'},     {Mamba3::kind, 'Z'},      {Nothing::kind, '-'},
      {Parallel::kind, 'P'},  {Nsa::kind, 'N'}};
  if (const auto* a = std::get_if<Attention>(&mixer); a && a->window)
    return {'W', a->chunked ? "attention in chunks" : "attention in a window"};
  if (const auto* c = std::get_if<Custom>(&mixer)) return {'X', c->name};
  const std::string kind = std::visit([](const auto& c) { return std::string(c.kind); }, mixer);
  for (const auto& [name, letter] : kLetters)
    if (kind == name) return {letter, kind};
  return {'?', kind};
}

}  // namespace

LayerPattern layer_pattern(const Model& m) {
  LayerPattern out;
  for (const Block& b : m.layers) {
    const auto [letter, name] = name_of(b.mixer);
    if (out.letters.find(letter) == std::string::npos)
      out.legend += (out.legend.empty() ? "" : ", ") + (letter + (" " + name));
    out.letters += letter;
  }
  return out;
}

std::string mixer_summary(const Model& m) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const Block& b : m.layers) {
    const auto name = name_of(b.mixer).name;
    auto it = std::find_if(kinds.begin(), kinds.end(), [&](auto& k) { return k.first == name; });
    if (it == kinds.end()) it = kinds.insert(kinds.end(), {name, 0});
    ++it->second;
  }
  if (kinds.size() == 1) return kinds[0].first;
  std::string out;
  for (const auto& [name, n] : kinds)
    out += (out.empty() ? "" : ", ") + std::to_string(n) + " " + name;
  return out;
}

std::string ffn_summary(const Model& m) {
  if (m.layers.empty()) return "";
  const Ffn& last = m.layers.back().ffn;  // the first layers of a sparse model may be dense
  if (const auto* moe = experts_in(m.layers.back()))
    return comma(moe->top_k) + "/" + comma(moe->experts) + " experts";
  if (const auto* mlp = std::get_if<Mlp>(&last)) return mlp->gated ? "gated mlp" : "mlp";
  if (const auto* c = std::get_if<Custom>(&last)) return c->name;
  return "none";
}

std::string describe(const Model& m) {
  const Count n = count(m);
  std::string out;
  row(out, "family", {m.family});
  row(out, "parameters", {comma(n.total)});
  if (n.active != n.total) row(out, "active", {comma(n.active) + " of them a token"});
  row(out, "width", {comma(m.dim)});
  row(out, "vocabulary", {comma(m.vocab)});
  row(out, "context", model_position(m));
  Phrases embeddings;
  if (m.embed_scale != 1) embeddings.push_back("times " + number(m.embed_scale));
  if (m.embed_norm) embeddings.push_back(norm_phrase(*m.embed_norm));
  if (const auto& l = m.layer_inputs)
    embeddings.push_back(comma(l->width) + " numbers a layer from a table of " + comma(l->vocab));
  if (m.altup)
    embeddings.push_back(comma(m.altup->streams) + " streams, blocks see number " +
                         comma(m.altup->active));
  if (!embeddings.empty()) row(out, "embeddings", embeddings);
  row(out, "final norm", {norm_phrase(m.final_norm)});
  row(out, "head", head_phrases(m));
  if (!m.mtp_heads.empty())
    row(out, "mtp heads",
        {comma(int64_t(m.mtp_heads.size())) + " for further tokens", comma(n.mtp) + " parameters"});
  if (m.dropout > 0) row(out, "dropout", {number(m.dropout)});
  const auto pattern = layer_pattern(m);
  if (pattern.letters.find_first_not_of(pattern.letters[0]) != std::string::npos)
    row(out, "pattern", {pattern.letters}), row(out, "", {pattern.legend});

  for (size_t i = 0; i < m.shared_blocks.size(); ++i) {
    const auto& s = m.shared_blocks[i];
    Phrases shared = phrases(s.attention);
    for (auto& phrase : mlp_phrases(s.mlp)) shared.push_back(std::move(phrase));
    shared.push_back("additions of rank " + comma(s.rank));
    row(out, "shared " + std::to_string(i), shared);
  }

  constexpr size_t kRange = 12, kNumber = 16;
  const auto layer_line = [&](const std::string& range, const std::string& text,
                              const std::string& value) {
    std::string line =
        padded(range, kRange) + padded(text, kColumns - kRange - kNumber) + right(value, kNumber);
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  out += "\n";
  layer_line("layer", "block", "parameters each");
  std::vector<Json> blocks;
  for (const Block& b : m.layers) blocks.push_back(to_json(b));
  for (size_t i = 0; i < m.layers.size();) {
    size_t j = i;
    while (j + 1 < m.layers.size() && blocks[j + 1] == blocks[i]) ++j;
    const Block& b = m.layers[i];
    std::string range = std::to_string(i) + (j > i ? "-" + std::to_string(j) : "");
    const auto lines = [&](const Phrases& phrases, int64_t parameters) {
      bool first = true;
      for (const auto& text : wrap(phrases, kColumns - kRange - kNumber - 1)) {
        layer_line(range, text, first ? comma(parameters) : "");
        first = false, range.clear();
      }
    };
    auto mixer = mixer_phrases(b.mixer);
    if (b.shared) mixer.push_back("behind shared block " + comma(*b.shared));
    lines(mixer, n.layers[i].mixer);
    auto ffn = ffn_phrases(b.ffn);
    if (b.shortcut) {
      ffn.push_back("shortcut");
      for (auto& phrase : moe_phrases(*b.shortcut)) ffn.push_back(std::move(phrase));
    }
    lines(ffn, n.layers[i].ffn);
    Phrases wiring{enum_name(b.wiring) + " wiring", norm_phrase(b.norm)};
    if (b.branch_scale != 1) wiring.push_back("branches times " + number(b.branch_scale));
    if (b.stream_scale != 1) wiring.push_back("stream times " + number(b.stream_scale));
    if (b.ffn_branch_scale) wiring.push_back("ffn times " + number(*b.ffn_branch_scale));
    if (b.ffn_stream_scale)
      wiring.push_back("stream past the ffn times " + number(*b.ffn_stream_scale));
    if (b.laurel > 0) wiring.push_back("laurel of rank " + comma(b.laurel));
    if (b.layer_scale) wiring.push_back("scaled");
    lines(wiring, n.layers[i].norm);
    i = j + 1;
  }

  out += "\n";
  const auto part = [&](const std::string& name, int64_t value) {
    if (value == 0) return;
    char percent[16];
    std::snprintf(percent, sizeof percent, "%.1f%%", 100.0 * double(value) / double(n.total));
    out += padded(name, 12) + right(comma(value), 20) + right(percent, 9) + "\n";
  };
  out += padded("part", 12) + right("parameters", 20) + right("share", 9) + "\n";
  part("embedding", n.embedding), part("positions", n.position), part("mixers", n.mixer);
  part("ffns", n.ffn), part("norms", n.norm), part("head", n.head);
  part("mtp heads", n.mtp);

  out += "\n";
  row(out, "weights",
      {human_bytes(4.0 * double(n.total)) + " in float32",
       human_bytes(2.0 * double(n.total)) + " in bfloat16"});
  Phrases cache{human_bytes(double(kv_bytes_per_token(m, 2))) + " a token in bfloat16"};
  if (const auto states = state_bytes(m, 2))
    cache.push_back(human_bytes(double(states)) + " of states");
  cache.push_back(human_bytes(double(kv_bytes(m, m.context, 2))) + " for the whole context");
  row(out, "cache", cache);
  row(out, "arithmetic",
      {human_count(flops_per_token(m, m.context)) + " FLOP a token forward at the whole context"});
  return out;
}

}  // namespace lmxlab::config
