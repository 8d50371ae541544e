#include "lmxlab/core/shared_block.h"

#include "lmxlab/core/mlp.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

namespace lmxlab::core {
namespace {

// The same with another width of what comes in and goes out.
Build widths(Build b, int in, int out) {
  b.dim = in, b.out = out;
  return b;
}

}  // namespace

Addition::Addition(int in, int rank, int out, const Build& b)
    : down(in, rank, false, b.std, b.init), up(rank, out, false, b.std, b.init) {}

SharedPart::SharedPart(const config::SharedBlock& c, const Build& b)
    : linear(b.dim, b.dim, false, b.residual_std, b.init),
      gate_up(b.dim, c.rank, 2 * c.mlp.hidden, b) {
  if (!c.attention_additions) return;
  const auto& a = c.attention;
  q.emplace(2 * b.dim, c.rank, a.heads * a.head_dim, b);
  k.emplace(2 * b.dim, c.rank, a.kv_heads * a.head_dim, b);
  values.emplace(2 * b.dim, c.rank, a.kv_heads * a.value_dim(), b);
}

SharedBlock::SharedBlock(const config::SharedBlock& c, const Build& b)
    : attention(c.attention, widths(b, 2 * b.dim, b.dim)),
      gate_up_proj(b.dim, 2 * c.mlp.hidden, c.mlp.bias, b.std, b.init),
      down_proj(c.mlp.hidden, b.dim, c.mlp.bias, b.std, b.init),
      before_attention(c.norm, 2 * b.dim),
      before_ffn(c.norm, b.dim),
      act_(c.mlp.act) {}

mx::array SharedBlock::operator()(const mx::array& x, const mx::array& embeddings,
                                  const SharedPart& own, Pass& pass) const {
  const auto both = before_attention(mx::concatenate({x, embeddings}, -1));
  auto qkv = attention.project(both, pass);
  size_t i = 0;
  for (const auto* addition : {&own.q, &own.k, &own.values}) {
    if (*addition) qkv[i] = kernels::add(qkv[i], (**addition)(both));
    ++i;
  }
  const auto mixed = attention.finish(attention.mix(qkv, pass), pass);
  const auto normed = before_ffn(mixed);
  const auto gate_up = mx::split(kernels::add(gate_up_proj(normed), own.gate_up(normed)), 2, -1);
  return own.linear(down_proj(gated(act_, gate_up[0], gate_up[1])));
}

}  // namespace lmxlab::core
