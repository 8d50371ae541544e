#include "lmxlab/config/validate.h"

#include "lmxlab/config/custom.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>

namespace lmxlab::config {
namespace {

using std::to_string;

/// Collects problems relative to one part of the model ("mixer.heads: ...").
class Checker {
 public:
  std::vector<std::string> found;

  void say(const std::string& path, const std::string& what) {
    found.push_back(path + ": " + what);
  }
  void positive(const std::string& path, int64_t value) {
    if (value < 1) say(path, "expected at least 1, got " + to_string(value));
  }
  /// A product that becomes one dimension of an array.
  void dimension(const std::string& path, int64_t a, int64_t b, const std::string& what) {
    constexpr int64_t largest = std::numeric_limits<int32_t>::max();
    if (a > 0 && b > 0 && a > largest / b)
      say(path, what + " is " + to_string(a * b) + ", more than an array's dimension can be (" +
                    to_string(largest) + ")");
  }
  void at_least_zero(const std::string& path, double value) {
    if (!(value >= 0) || !std::isfinite(value))
      say(path, "expected a number of at least 0, got " + Json(value).dump());
  }
  void above_zero(const std::string& path, double value) {
    if (!(value > 0) || !std::isfinite(value))
      say(path, "expected a positive number, got " + Json(value).dump());
  }
  void finite(const std::string& path, double value) {
    if (!std::isfinite(value)) say(path, "expected a finite number");
  }
  void custom(const std::string& path, Part part, const Custom& c) {
    if (is_registered(part, c.name)) return;
    const auto known = registered(part);
    const std::string name(part_name(part));
    say(path,
        "no " + name + " is registered as \"" + c.name + "\"" +
            (known.empty() ? "; none is registered at all" : "; " + suggestion(c.name, known)));
  }
  void scale(const std::string& path, float value) {
    if (!std::isfinite(value) || value == 0)
      say(path, "expected a finite number other than 0, got " + Json(double(value)).dump());
  }
  void norm(const std::string& path, const Norm& norm) {
    if (const auto* r = std::get_if<RmsNorm>(&norm)) {
      epsilon(path + ".eps", r->eps), finite(path + ".weight_offset", r->weight_offset);
    } else if (const auto* l = std::get_if<LayerNorm>(&norm)) {
      epsilon(path + ".eps", l->eps), finite(path + ".weight_offset", l->weight_offset);
    } else {
      custom(path, Part::norm, std::get<Custom>(norm));
    }
  }
  void attention(const Attention& a) {
    positive("mixer.heads", a.heads), positive("mixer.kv_heads", a.kv_heads);
    positive("mixer.head_dim", a.head_dim);
    if (a.heads > 0 && a.kv_heads > 0 && a.heads % a.kv_heads != 0)
      say("mixer.kv_heads", to_string(a.heads) + " heads are no multiple of " +
                                to_string(a.kv_heads) + " key/value heads");
    dimension("mixer.heads", a.heads, a.head_dim, "heads * head_dim");
    if (const auto* r = std::get_if<Rope>(&a.position)) rope(*r, a.head_dim);
    if (a.window) positive("mixer.window", *a.window);
    if (a.chunked && !a.window) say("mixer.chunked", "chunks need their length; give window");
    if (a.qk_norm) norm("mixer.qk_norm", *a.qk_norm);
    if (a.scale) above_zero("mixer.scale", *a.scale);
    if (a.softcap) above_zero("mixer.softcap", *a.softcap);
    if (a.clip) above_zero("mixer.clip", *a.clip);
    if (a.out_norm) norm("mixer.out_norm", *a.out_norm);
    if (a.qk_norm_joint && (a.qk_norm_by_head || a.qk_norm_late))
      say("mixer.qk_norm_joint",
          "a norm over all heads has no weights by head and comes before "
          "rotation");
    if (a.qk_norm && a.qk_norm_by_head && std::holds_alternative<Custom>(*a.qk_norm))
      say("mixer.qk_norm_by_head", "expected a norm of ours");
    if (const auto* l = a.qk_norm ? std::get_if<LayerNorm>(&*a.qk_norm) : nullptr;
        l && l->bias && a.qk_norm_by_head)
      say("mixer.qk_norm", "norms with weights by head have no bias");
    if (const auto* s = std::get_if<Alibi>(&a.position)) above_zero("mixer.position.max", s->max);
    if (a.clip && a.gate) say("mixer.clip", "there is none beside a gate");
    if (a.v_dim) {
      positive("mixer.v_dim", *a.v_dim);
      dimension("mixer.v_dim", a.heads, *a.v_dim, "heads * v_dim");
    }
    scale("mixer.k_scale", a.k_scale), scale("mixer.v_scale", a.v_scale);
    if (a.v_norm) norm("mixer.v_norm", *a.v_norm);
    if (a.v_of_k && a.value_dim() != a.head_dim)
      say("mixer.v_of_k", "values of the keys have their width; leave v_dim out");
    if ((a.gate_by_head || a.gate_softplus) && !a.gate)
      say("mixer.gate", "there is no gate to be by head or softplus; set gate to true");
    if (a.temperature) {
      above_zero("mixer.temperature.scale", a.temperature->scale);
      positive("mixer.temperature.every", a.temperature->every);
      if (a.temperature->first < 0) say("mixer.temperature.first", "expected at least 0");
    }
  }
  void latent_attention(const Mla& m) {
    for (const auto& [name, value] :
         {std::pair("heads", m.heads), std::pair("kv_rank", m.kv_rank),
          std::pair("nope_dim", m.nope_dim), std::pair("rope_dim", m.rope_dim),
          std::pair("v_dim", m.v_dim)})
      positive(std::string("mixer.") + name, value);
    if (m.q_rank) positive("mixer.q_rank", *m.q_rank);
    dimension("mixer.heads", m.heads, int64_t{m.nope_dim} + m.rope_dim + m.v_dim,
              "heads * (nope_dim + rope_dim + v_dim)");
    if (const auto* r = std::get_if<Rope>(&m.position)) rope(*r, m.rope_dim);
    if (std::holds_alternative<Alibi>(m.position))
      say("mixer.position", "latent attention has rope or none");
    norm("mixer.latent_norm", m.latent_norm);
    if (m.scale) above_zero("mixer.scale", *m.scale);
    scale("mixer.q_scale", m.q_scale), scale("mixer.kv_scale", m.kv_scale);
    if (m.indexer) indexer(*m.indexer, m);
  }
  void indexer(const Indexer& x, const Mla& m) {
    positive("mixer.indexer.top_k", x.top_k);
    if (x.shared && x.loss != 0)
      say("mixer.indexer.loss",
          "a layer that takes another's choice has nothing to learn; leave it out");
    if (x.shared) return;  // it has no sizes then
    positive("mixer.indexer.heads", x.heads), positive("mixer.indexer.head_dim", x.head_dim);
    dimension("mixer.indexer.heads", x.heads, x.head_dim, "heads * head_dim");
    norm("mixer.indexer.norm", x.norm), at_least_zero("mixer.indexer.loss", x.loss);
    if (!m.q_rank)
      say("mixer.indexer", "its queries are made of the latent vector of queries; give q_rank");
    if (std::holds_alternative<Rope>(m.position) && x.head_dim < m.rope_dim)
      say("mixer.indexer.head_dim", "expected at least rope_dim, " + to_string(m.rope_dim) +
                                        ", since so many turn, got " + to_string(x.head_dim));
  }
  // Of layers that take what another has chosen.
  void choices(const std::vector<Block>& layers) {
    const Indexer* last = nullptr;
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto* m = std::get_if<Mla>(&layers[i].mixer);
      if (!m || !m->indexer) continue;
      const std::string path = "layers." + to_string(i) + ".mixer.indexer";
      if (!m->indexer->shared)
        last = &*m->indexer;
      else if (!last)
        say(path + ".shared", "no layer before it has chosen keys");
      else if (last->top_k != m->indexer->top_k)
        say(path + ".top_k", "expected that of the layer which chooses, " + to_string(last->top_k) +
                                 ", got " + to_string(m->indexer->top_k));
    }
  }
  void sparse_attention(const Nsa& n) {
    positive("mixer.heads", n.heads), positive("mixer.kv_heads", n.kv_heads);
    positive("mixer.head_dim", n.head_dim);
    multiple("mixer.kv_heads", n.heads, "heads", n.kv_heads, "key/value heads");
    dimension("mixer.heads", n.heads, n.head_dim, "heads * head_dim");
    dimension("mixer.kv_heads", 3 * int64_t{n.kv_heads}, n.head_dim, "3 * kv_heads * head_dim");
    if (const auto* r = std::get_if<Rope>(&n.position)) rope(*r, n.head_dim);
    if (std::holds_alternative<Alibi>(n.position))
      say("mixer.position", "sparse attention has rope or none");
    for (const auto& [name, value] :
         {std::pair("block", n.block), std::pair("stride", n.stride), std::pair("hidden", n.hidden),
          std::pair("selected_block", n.selected_block), std::pair("selected", n.selected),
          std::pair("window", n.window)})
      positive(std::string("mixer.") + name, value);
    dimension("mixer.block", n.block, n.head_dim, "block * head_dim");
    dimension("mixer.selected", n.selected, n.selected_block, "selected * selected_block");
    multiple("mixer.stride", n.block, "positions of a compressed key", n.stride, "a stride");
    multiple("mixer.stride", n.selected_block, "positions of a selected block", n.stride,
             "a stride");
    if (n.block > n.selected_block)
      say("mixer.block", "expected at most selected_block, " + to_string(n.selected_block) +
                             ", got " + to_string(n.block));
    at_least_zero("mixer.first", n.first), at_least_zero("mixer.local", n.local);
    if (n.first >= 0 && n.local >= 0 && int64_t{n.first} + n.local > n.selected)
      say("mixer.selected", "expected at least first + local, " +
                                to_string(int64_t{n.first} + n.local) + ", got " +
                                to_string(n.selected));
    if (n.scale) above_zero("mixer.scale", *n.scale);
  }
  void moe(const Moe& m) {
    positive("ffn.experts", m.experts), positive("ffn.top_k", m.top_k);
    positive("ffn.hidden", m.hidden);
    if (m.act == Act::xielu) say("ffn.act", "experts have no xielu, which has weights of its own");
    dimension("ffn.experts", m.experts, m.hidden, "experts * hidden");
    if (!m.widths.empty()) {
      for (const int width : m.widths) positive("ffn.widths", width);
      if (std::ssize(m.widths) != m.experts)
        say("ffn.widths", "expected one for each of the " + to_string(m.experts) +
                              " experts, got " + to_string(m.widths.size()));
      if (!std::is_sorted(m.widths.begin(), m.widths.end()))
        say("ffn.widths", "expected ascending numbers");
      dimension("ffn.widths", m.experts, *std::max_element(m.widths.begin(), m.widths.end()),
                "experts * the largest width");
      if (m.bias) say("ffn.bias", "experts of several widths have none");
    }
    at_least_zero("ffn.latent", m.latent), at_least_zero("ffn.zero_experts", m.zero_experts);
    at_least_zero("ffn.shared", m.shared), at_least_zero("ffn.up_offset", m.up_offset);
    for (const auto& [path, value] :
         std::initializer_list<std::pair<const char*, float>>{{"ffn.normalize", m.normalize},
                                                              {"ffn.norm_eps", m.norm_eps},
                                                              {"ffn.norm_min", m.norm_min},
                                                              {"ffn.aux_loss", m.aux_loss},
                                                              {"ffn.z_loss", m.z_loss},
                                                              {"ffn.bias_rate", m.bias_rate}})
      at_least_zero(path, value);
    above_zero("ffn.alpha", m.alpha), above_zero("ffn.scale", m.scale);
    if (m.clamp) above_zero("ffn.clamp", *m.clamp);
    if (m.router_softcap) above_zero("ffn.router_softcap", *m.router_softcap);
    if (m.router_norm) epsilon("ffn.router_norm", *m.router_norm);
    const bool changed = m.clamp || m.alpha != 1 || m.up_offset != 0;
    if (changed && !(m.gated && m.act == Act::silu))
      say("ffn.act",
          "clamp, alpha and up_offset belong to a gated silu; set act to silu and gated "
          "to true, or leave them out");
    choice(m);
    if (m.normalize == 0 && (m.norm_eps != 0 || m.norm_min != 0))
      say("ffn.normalize", "norm_eps and norm_min need a norm; set normalize to 1");
    if (m.shared_gate && m.shared == 0)
      say("ffn.shared_gate", "there is no shared expert to gate; give shared its width");
    if (m.shared_bias && m.shared == 0 && m.latent == 0)
      say("ffn.shared_bias", "there is neither a shared expert nor a latent projection");
    if (m.bias_rate != 0 && !m.selection_bias)
      say("ffn.bias_rate", "there are no selection biases to move; set selection_bias to true");
  }
  void recurrent(const Mamba2& m) {
    heads(m.heads, m.head_dim);
    positive("mixer.groups", m.groups), positive("mixer.state", m.state);
    multiple("mixer.groups", m.heads, "heads", m.groups, "groups");
    dimension("mixer.groups", m.groups, m.state, "groups * state");
    convolution(m.conv), epsilon("mixer.norm_eps", m.norm_eps);
    if (!(m.dt_min >= 0) || !std::isfinite(m.dt_min))
      say("mixer.dt_min", "expected a number of at least 0, got " + Json(m.dt_min).dump());
    if (m.dt_max && (!(*m.dt_max > m.dt_min) || !std::isfinite(*m.dt_max)))
      say("mixer.dt_max", "expected more than dt_min, " + Json(m.dt_min).dump() + ", got " +
                              Json(*m.dt_max).dump());
    if (!m.scales.empty() && m.scales.size() != 5)
      say("mixer.scales", "expected five, of z, x, B, C and dt, got " + to_string(m.scales.size()));
    for (const float s : m.scales) scale("mixer.scales", s);
  }
  void recurrent(const GatedDelta& m) {
    positive("mixer.heads", m.heads), positive("mixer.key_heads", m.key_heads);
    positive("mixer.key_dim", m.key_dim), positive("mixer.value_dim", m.value_dim);
    multiple("mixer.key_heads", m.heads, "heads", m.key_heads, "key heads");
    dimension("mixer.heads", m.heads, m.value_dim, "heads * value_dim");
    dimension("mixer.key_heads", m.key_heads, m.key_dim, "key_heads * key_dim");
    convolution(m.conv), epsilon("mixer.norm_eps", m.norm_eps);
  }
  void recurrent(const ShortConv& m) { convolution(m.conv); }
  void recurrent(const KimiDelta& m) {
    heads(m.heads, m.head_dim), convolution(m.conv), epsilon("mixer.norm_eps", m.norm_eps);
    if (m.lower_bound && !(*m.lower_bound < 0 && std::isfinite(*m.lower_bound)))
      say("mixer.lower_bound", "expected a number below 0, got " + Json(*m.lower_bound).dump());
  }
  void recurrent(const Mamba& m) {
    positive("mixer.inner", m.inner), positive("mixer.state", m.state);
    positive("mixer.dt_rank", m.dt_rank);
    dimension("mixer.inner", m.inner, 2, "2 * inner");
    convolution(m.conv), epsilon("mixer.norm_eps", m.norm_eps);
  }
  void recurrent(const Lightning& m) {
    heads(m.heads, m.head_dim), epsilon("mixer.norm_eps", m.norm_eps);
    if (m.block < 2) say("mixer.block", "expected at least 2 positions, got " + to_string(m.block));
  }
  void dense(const Mlp& m) {
    positive("ffn.hidden", m.hidden);
    if (m.norm) norm("ffn.norm", *m.norm);
    if (m.act == Act::xielu && m.gated) say("ffn.act", "xielu is no gate; set gated to false");
    scale("ffn.gate_scale", m.gate_scale);
    if (!(m.sparsity >= 0 && m.sparsity < 1))
      say("ffn.sparsity", "expected a share from 0 to below 1, got " + Json(m.sparsity).dump());
    if ((m.gate_scale != 1 || m.sparsity > 0) && !m.gated)
      say("ffn.gated", "gate_scale and sparsity belong to a gate; set gated to true");
  }
  void recurrent(const RgLru& m) {
    positive("mixer.width", m.width), positive("mixer.heads", m.heads);
    multiple("mixer.heads", m.width, "channels", m.heads, "heads");
    convolution(m.conv);
    if (m.act == Act::xielu) say("mixer.act", "a gate has no xielu, which has weights of its own");
  }
  void recurrent(const RwkvTime& m) {
    positive("mixer.inner", m.inner);
    dimension("mixer.inner", m.inner, 3, "3 * inner");
  }
  void recurrent(const RwkvChannel& m) { positive("mixer.hidden", m.hidden); }
  void recurrent(const Rwkv7& m) {
    heads(m.heads, m.head_dim);
    dimension("mixer.heads", 3 * int64_t{m.heads}, m.head_dim, "3 * heads * head_dim");
    positive("mixer.decay_rank", m.decay_rank), positive("mixer.rate_rank", m.rate_rank);
    positive("mixer.value_rank", m.value_rank), positive("mixer.gate_rank", m.gate_rank);
    epsilon("mixer.norm_eps", m.norm_eps);
  }
  void recurrent(const Mamba3& m) {
    heads(m.heads, m.head_dim);
    positive("mixer.groups", m.groups), positive("mixer.state", m.state);
    multiple("mixer.groups", m.heads, "heads", m.groups, "groups");
    dimension("mixer.groups", m.groups, m.state, "groups * state");
    positive("mixer.angles", m.angles), epsilon("mixer.norm_eps", m.norm_eps);
    if (m.angles > m.state / 2)
      say("mixer.angles", "expected at most half of the state's " + to_string(m.state) +
                              " numbers, got " + to_string(m.angles));
    at_least_zero("mixer.decay_min", m.decay_min);
  }
  void recurrent(const Mlstm& m) {
    positive("mixer.heads", m.heads);
    positive("mixer.key_dim", m.key_dim), positive("mixer.value_dim", m.value_dim);
    dimension("mixer.heads", m.heads, int64_t{m.key_dim} + m.value_dim,
              "heads * (key_dim + value_dim)");
    above_zero("mixer.gate_cap", m.gate_cap);
    epsilon("mixer.eps", m.eps), epsilon("mixer.norm_eps", m.norm_eps);
  }
  void block(const Block& b) {
    if (const auto* m = std::get_if<Mla>(&b.mixer)) latent_attention(*m);
    if (const auto* n = std::get_if<Nsa>(&b.mixer)) sparse_attention(*n);
    std::visit(
        [&](const auto& m) {
          if constexpr (requires { recurrent(m); }) recurrent(m);
        },
        b.mixer);
    if (const auto* a = attention_in(b.mixer)) attention(*a);
    if (const auto* p = std::get_if<Parallel>(&b.mixer)) {
      recurrent(p->mamba);
      scale("mixer.attention_in", p->attention_in), scale("mixer.mamba_in", p->mamba_in);
      scale("mixer.attention_out", p->attention_out), scale("mixer.mamba_out", p->mamba_out);
      if (p->attention.kv_from) say("mixer.attention.kv_from", "expected keys of its own");
    }
    if (const auto* c = std::get_if<Custom>(&b.mixer)) custom("mixer", Part::mixer, *c);
    if (const auto* m = std::get_if<Mlp>(&b.ffn)) dense(*m);
    if (const auto* m = std::get_if<MlpAndMoe>(&b.ffn)) dense(m->mlp);
    if (const auto* m = experts_in(b)) moe(*m);
    if (b.shortcut && experts_in(b.ffn))
      say("shortcut", "there are experts in the FFN already; set ffn to mlp");
    if (b.shortcut && std::holds_alternative<Nothing>(b.ffn))
      say("shortcut", "it reads what the FFN reads, and there is none");
    at_least_zero("laurel", b.laurel);
    if (b.laurel > 0 && b.wiring != Wiring::sandwich)
      say("laurel", "expected sandwich wiring, got " + enum_name(b.wiring));
    scale("branch_scale", b.branch_scale), scale("stream_scale", b.stream_scale);
    if (b.ffn_branch_scale) scale("ffn_branch_scale", *b.ffn_branch_scale);
    if (b.ffn_stream_scale) scale("ffn_stream_scale", *b.ffn_stream_scale);
    if ((b.wiring == Wiring::parallel || b.wiring == Wiring::twin) &&
        (b.stream_scale != 1 || b.ffn_stream_scale.value_or(1) != 1))
      say("stream_scale", "both branches of a " + enum_name(b.wiring) +
                              " block are added to one stream: set it to 1");
    if (const auto* c = std::get_if<Custom>(&b.ffn)) custom("ffn", Part::ffn, *c);
    norm("norm", b.norm);
  }
  void model(const Model& m) {
    positive("dim", m.dim), positive("vocab", m.vocab), positive("context", m.context);
    if (const auto* l = std::get_if<Learned>(&m.position)) {
      positive("position.length", l->length);
      if (l->offset < 0) say("position.offset", "expected at least 0");
      if (l->length >= 1 && l->length < m.context)
        say("position.length", to_string(l->length) +
                                   " learned positions are fewer than the context of " +
                                   to_string(m.context));
    }
    if (std::holds_alternative<Sinusoidal>(m.position) && m.dim % 2 != 0)
      say("dim", "sinusoidal positions need an even width, got " + to_string(m.dim));
    if (m.layers.empty()) say("layers", "expected at least one layer");
    choices(m.layers);
    norm("final_norm", m.final_norm);
    if (m.tie_head && m.head_bias)
      say("head_bias", "a tied head has no bias; set tie_head to false or leave it out");
    scale("embed_scale", m.embed_scale), scale("logit_scale", m.logit_scale);
    if (m.embed_norm) norm("embed_norm", *m.embed_norm);
    if (const auto& l = m.layer_inputs) {
      positive("layer_inputs.width", l->width), positive("layer_inputs.vocab", l->vocab);
      dimension("layer_inputs.width", static_cast<int64_t>(m.layers.size()), l->width,
                "layers * width");
      if (l->act == Act::xielu) say("layer_inputs.act", "expected one without weights");
    }
    if (const auto& a = m.altup) {
      if (a->streams < 2) say("altup.streams", "expected at least 2, got " + to_string(a->streams));
      if (a->clip) above_zero("altup.clip", *a->clip);
      if (a->active < 0 || a->active >= a->streams)
        say("altup.active", "expected one of the " + to_string(a->streams) + " streams, got " +
                                to_string(a->active));
    }
    for (size_t i = 0; i < m.shared_blocks.size(); ++i) {
      const auto& s = m.shared_blocks[i];
      attention(s.attention), dense(s.mlp), norm("shared_blocks.norm", s.norm);
      positive("shared_blocks.rank", s.rank);
      if (!s.mlp.gated || s.mlp.act == Act::xielu)
        say("shared_blocks.mlp", "expected a gated FFN, and no xielu");
      if (s.attention.kv_from) say("shared_blocks.attention", "expected keys of its own");
    }
    for (size_t i = 0; i < m.layers.size(); ++i)
      lent_keys(m, i), lent_values(m, i), shared_block(m, i);
    if (!m.layers.empty() && m.layers.back().shortcut)
      say("layers", "the last has a shortcut, and no block comes behind it");
    choices(m.mtp_heads);
    if (!m.mtp_heads.empty() && (m.layer_inputs || m.altup))
      say("mtp_heads",
          "expected none beside layer_inputs or altup, whose blocks see more than a "
          "stream");
    for (const Block& b : m.mtp_heads)
      if (!stands_alone(b) || std::holds_alternative<Nothing>(b.mixer)) {
        say("mtp_heads",
            "expected blocks with a mixer that need no others: no kv_from, "
            "values_from, shared, shortcut or indexer");
        break;
      }
    if (m.logit_softcap) above_zero("logit_softcap", *m.logit_softcap);
    if (!(m.dropout >= 0 && m.dropout < 1))
      say("dropout", "expected a share from 0 to below 1, got " + Json(m.dropout).dump());
    if (!(m.init_std >= 0) || !std::isfinite(m.init_std))
      say("init_std", "expected a number of at least 0, got " + Json(m.init_std).dump());
  }

 private:
  void heads(int heads, int head_dim) {
    positive("mixer.heads", heads), positive("mixer.head_dim", head_dim);
    dimension("mixer.heads", heads, head_dim, "heads * head_dim");
  }
  void convolution(int conv) {
    if (conv < 2) say("mixer.conv", "expected at least 2 positions, got " + to_string(conv));
  }
  void multiple(const std::string& path, int a, const char* of, int b, const char* by) {
    if (a > 0 && b > 0 && a % b != 0)
      say(path, to_string(a) + " " + of + " are no multiple of " + to_string(b) + " " + by);
  }
  void epsilon(const std::string& path, float eps) { at_least_zero(path, eps); }
  void shared_block(const Model& m, size_t i) {
    const Block& b = m.layers[i];
    if (!b.shared) return;
    const auto path = "layers." + to_string(i) + ".shared";
    if (*b.shared < 0 || static_cast<size_t>(*b.shared) >= m.shared_blocks.size())
      say(path, "expected one of the " + to_string(m.shared_blocks.size()) +
                    " shared blocks, got " + to_string(*b.shared));
    if (b.wiring != Wiring::pre) say(path, "expected pre wiring, got " + enum_name(b.wiring));
    if (attention_in(b.mixer) || std::holds_alternative<Mla>(b.mixer) ||
        !recurrent_size(b.mixer, m.dim))
      say(path, "expected a recurrent mixer behind it");
  }
  // Of a layer that has another's keys and values.
  void lent_keys(const Model& m, size_t i) {
    const auto* a = std::get_if<Attention>(&m.layers[i].mixer);
    if (!a || !a->kv_from) return;
    const auto path = "layers." + to_string(i) + ".mixer.kv_from";
    const int from = *a->kv_from;
    const auto* other = from >= 0 && static_cast<size_t>(from) < i
                            ? std::get_if<Attention>(&m.layers[static_cast<size_t>(from)].mixer)
                            : nullptr;
    if (!other || other->kv_from)
      say(path,
          "expected an earlier layer of attention with keys of its own, got " + to_string(from));
    else if (other->kv_heads != a->kv_heads || other->head_dim != a->head_dim ||
             other->value_dim() != a->value_dim() || other->window != a->window)
      say(path, "layer " + to_string(from) + " has other heads or another window");
  }
  // Of a layer that mixes in another's values.
  void lent_values(const Model& m, size_t i) {
    const auto* own = std::get_if<Rwkv7>(&m.layers[i].mixer);
    if (!own || !own->values_from) return;
    const auto path = "layers." + to_string(i) + ".mixer.values_from";
    const int from = *own->values_from;
    const auto* other = from >= 0 && static_cast<size_t>(from) < i
                            ? std::get_if<Rwkv7>(&m.layers[static_cast<size_t>(from)].mixer)
                            : nullptr;
    if (!other || other->values_from)
      say(path,
          "expected an earlier layer of rwkv7 with values of its own, got " + to_string(from));
    else if (int64_t{other->heads} * other->head_dim != int64_t{own->heads} * own->head_dim)
      say(path, "layer " + to_string(from) + " has values of another width");
  }
  // Of experts, whole or by groups.
  void choice(const Moe& m) {
    const int64_t all = int64_t{m.experts} + m.zero_experts;
    positive("ffn.groups", m.groups), positive("ffn.groups_kept", m.groups_kept);
    if (m.top_k > all)
      say("ffn.top_k", to_string(m.top_k) + " experts a token are more than the " + to_string(all) +
                           " to choose from");
    if (m.groups > 1 && m.groups_kept > 0 && m.top_k >= 1 && all >= m.top_k) {
      const int64_t each = all / m.groups;
      if (all % m.groups != 0)
        say("ffn.groups",
            to_string(all) + " experts are no multiple of " + to_string(m.groups) + " groups");
      else if (m.group_score == GroupScore::top2 && each < 2)
        say("ffn.group_score", "top2 needs groups of at least 2 experts; set it to max");
      else if (m.groups_kept <= m.groups && m.top_k > m.groups_kept * each)
        say("ffn.top_k", to_string(m.top_k) + " experts a token are more than the " +
                             to_string(m.groups_kept * each) + " of the groups kept");
    }
    if (m.groups >= 1 && m.groups_kept > m.groups)
      say("ffn.groups_kept", to_string(m.groups_kept) + " are more than the " +
                                 to_string(m.groups) + " groups there are");
    if (m.scoring != Scoring::sparsemixer) return;
    above_zero("ffn.jitter", m.jitter);
    if (m.groups > 1 || m.selection_bias)
      say("ffn.scoring", "sparsemixer knows neither groups nor selection biases");
  }
  void rope(const Rope& r, int head_dim) {
    above_zero("mixer.position.theta", r.theta), scale("mixer.position.scale", r.scale);
    if (r.dims < 0) say("mixer.position.dims", "expected at least 0, got " + to_string(r.dims));
    if (r.dims > head_dim && head_dim > 0)
      say("mixer.position.dims", to_string(r.dims) +
                                     " rotated dimensions are more than the head's " +
                                     to_string(head_dim));
    if (r.dims > 0 && r.dims % 2 != 0)
      say("mixer.position.dims",
          "rotation needs an even number of dimensions, got " + to_string(r.dims));
    if (r.dims == 0 && head_dim > 0 && head_dim % 2 != 0)
      say("mixer.head_dim", "rotary positions need an even head, got " + to_string(head_dim));
    scaling(r, r.dims > 0 ? r.dims : head_dim);
  }
  void scaling(const Rope& r, int dims) {
    const std::string path = "mixer.position.scaling.";
    std::visit(
        [&](const auto& s) {
          if constexpr (requires { s.original; }) positive(path + "original", s.original);
          if constexpr (requires { s.attention_factor; })
            above_zero(path + "attention_factor", s.attention_factor);
          if constexpr (requires { s.factor; }) {
            if (!(s.factor >= 1) || !std::isfinite(s.factor))
              say(path + "factor", "expected a number of at least 1, got " + Json(s.factor).dump());
          }
        },
        r.scaling);
    if (const auto* s = std::get_if<Llama3Scaling>(&r.scaling)) {
      above_zero(path + "low_freq_factor", s->low_freq_factor);
      if (!(s->high_freq_factor >= s->low_freq_factor) || !std::isfinite(s->high_freq_factor))
        say(path + "high_freq_factor", "expected at least low_freq_factor, " +
                                           Json(s->low_freq_factor).dump() + ", got " +
                                           Json(s->high_freq_factor).dump());
    } else if (const auto* y = std::get_if<Yarn>(&r.scaling)) {
      above_zero(path + "beta_fast", y->beta_fast), above_zero(path + "beta_slow", y->beta_slow);
      if (r.theta == 1) say("mixer.position.theta", "yarn needs a base other than 1");
    } else if (const auto* p = std::get_if<Proportional>(&r.scaling)) {
      if (!(p->share > 0 && p->share <= 1))
        say(path + "share", "expected a share above 0 and up to 1, got " + Json(p->share).dump());
      if (r.dims > 0) say("mixer.position.dims", "proportional positions are of whole heads");
    } else if (const auto* l = std::get_if<LongRope>(&r.scaling)) {
      divisors(path + "short_factor", l->short_factor, dims);
      divisors(path + "long_factor", l->long_factor, dims);
    }
  }
  void divisors(const std::string& path, const std::vector<float>& values, int dims) {
    if (static_cast<int64_t>(values.size()) * 2 != dims)
      say(path, "expected " + to_string(dims / 2) + " numbers, one a pair, got " +
                    to_string(values.size()));
    for (const float v : values)
      if (!(v > 0) || !std::isfinite(v))
        return say(path, "expected positive numbers, got " + Json(v).dump());
  }
};

/// {0, 1, 2, 5} -> "0-2,5"
std::string ranges(const std::vector<size_t>& sorted) {
  std::string out;
  for (size_t i = 0; i < sorted.size();) {
    size_t j = i;
    while (j + 1 < sorted.size() && sorted[j + 1] == sorted[j] + 1) ++j;
    if (!out.empty()) out += ',';
    out += to_string(sorted[i]);
    if (j > i) out += '-' + to_string(sorted[j]);
    i = j + 1;
  }
  return out;
}

}  // namespace

Problems check(const Model& model) {
  Checker top;
  top.model(model);
  Problems out;
  for (auto& p : top.found) out.add(std::move(p));

  for (const auto& [list, blocks] :
       {std::pair("layers.", &model.layers), std::pair("mtp_heads.", &model.mtp_heads)}) {
    std::vector<std::string> order;
    std::map<std::string, std::vector<size_t>> where;
    for (size_t i = 0; i < blocks->size(); ++i) {
      Checker c;
      c.block((*blocks)[i]);
      for (auto& p : c.found) {
        if (where.find(p) == where.end()) order.push_back(p);
        where[p].push_back(i);
      }
    }
    for (const auto& p : order) out.add(list + ranges(where[p]) + "." + p);
  }
  return out;
}

void validate(const Model& model, Kind kind) {
  check(model).raise(kind, "[config] the model contradicts itself");
}

}  // namespace lmxlab::config
