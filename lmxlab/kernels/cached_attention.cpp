#include "lmxlab/kernels/cached_attention.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/attention_parts.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/rope_parts.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

struct Settings {
  int at;
  float scale, softcap;
  int window;
  bool rotates, interleaved;
  int dims;
  float theta, rope_scale, magnitude;

  bool operator==(const Settings&) const = default;
};

// Rows of heads side by side, [B, L, H D], as attention reads them.
HeadView side_by_side(void* data, int64_t heads, int64_t length, int64_t width) {
  return {static_cast<char*>(data), length * heads * width, width, heads * width};
}

// A buffer [B, K, C, D] from column `at` on.
HeadView columns_of(char* data, const array& buffer, int64_t at, Type type) {
  const int64_t capacity = buffer.shape(2), width = buffer.shape(3);
  return {data + at * width * size_of(type), buffer.shape(1) * capacity * width, capacity * width,
          width};
}

// Keys or values where they lie.
struct Rows {
  HeadView at;
  Type type;
};

// The first `count` rows of each head.
void copy_rows(const AttentionShape& s, int64_t count, int64_t width, const Rows& from,
               const Rows& to) {
  const int64_t rows = s.batch * s.groups * count;
  parallel_for(rows, std::max<int64_t>(1, 16384 / width), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      const int64_t b = r / (s.groups * count), h = r / count % s.groups;
      convert(from.type, element_at(from.at, from.type, b, h, r % count), to.type,
              element_at(to.at, to.type, b, h, r % count), width);
    }
  });
}

// q, k, v, buffer of keys, buffer of values[, padding][, frequencies] -> output, the buffers
class CachedAttentionOp : public Op {
 public:
  CachedAttentionOp(const Settings& settings, bool padded) : settings_(settings), padded_(padded) {}
  const char* name() const override { return "lmxlab::CachedAttention"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const CachedAttentionOp&>(other);
    return settings_ == op.settings_ && padded_ == op.padded_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const int heads = in[0].shape(2) / in[3].shape(3);
    return {{in[0].shape(0), in[0].shape(1), heads * in[4].shape(3)}, in[3].shape(), in[4].shape()};
  }

  Arrays plain(const Arrays& in) const override {
    const auto& s = settings_;
    const int B = in[0].shape(0), L = in[0].shape(1), to = s.at + L;
    const auto split = [&](const array& x, int width) {
      return mx::transpose(mx::reshape(x, {B, L, x.shape(2) / width, width}), {0, 2, 1, 3});
    };
    auto q = split(in[0], in[3].shape(3)), k = split(in[1], in[3].shape(3));
    if (s.rotates) {
      Rope rope{s.dims, s.interleaved, s.theta, s.rope_scale};
      rope.magnitude = s.magnitude;
      if (const auto* given = frequencies(in)) rope.frequencies = *given;
      const array first(s.at);
      const auto offsets = padded_ ? mx::subtract(first, in[5]) : first;
      q = kernels::rope(q, rope, offsets), k = kernels::rope(k, rope, offsets);
    }
    const auto write = [&](const array& buffer, const array& x) {
      return mx::slice_update(buffer, mx::astype(x, buffer.dtype()), mx::Shape{0, 0, s.at, 0},
                              mx::Shape{B, buffer.shape(1), to, buffer.shape(3)});
    };
    const auto keys = write(in[3], k), values = write(in[4], split(in[2], in[4].shape(3)));
    const auto seen = [&](const array& buffer) {
      return mx::astype(mx::slice(buffer, {0, 0, 0, 0}, {B, buffer.shape(1), to, buffer.shape(3)}),
                        in[0].dtype());
    };
    AttentionMask mask{true, s.window, s.softcap};
    if (padded_) mask.padding = in[5];
    const auto out = kernels::attention(q, seen(keys), seen(values), s.scale, mask);
    return {mx::reshape(mx::transpose(out, {0, 2, 1, 3}), {B, L, out.shape(1) * out.shape(3)}),
            keys, values};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    const auto &q = in[0], &keys = in[3], &values = in[4];
    const int64_t width = keys.shape(3), value = values.shape(3), length = q.shape(1);
    const auto& set = settings_;
    const AttentionShape s{q.shape(0),
                           q.shape(2) / width,
                           keys.shape(1),
                           length,
                           set.at + length,
                           width,
                           value,
                           type_of(q.dtype()),
                           set.scale,
                           set.softcap,
                           true,
                           set.window,
                           padded_ ? in[5].data<int32_t>() : nullptr};
    give(out[0]);
    give(out[1], keys);
    give(out[2], values);
    const Renewed k_buffer(keys, out[1]), v_buffer(values, out[2]);
    if (q.size() == 0) {
      return task([=] { k_buffer.keep(), v_buffer.keep(); });
    }
    const Type kept = type_of(keys.dtype());
    const bool ordered = one_order(), few = ordered || is_decode(s), as_is = kept == s.type;
    const auto plan = ordered ? plan_one_order(s) : few ? plan_decode(s) : plan_forward(s);
    Slices slices;
    const auto reserve = [&](int64_t bytes) {
      const auto from = slices.used();
      slices.take<char>(bytes);
      return from;
    };
    const auto at_plan = reserve(plan.bytes), at_q = reserve(set.rotates ? int64_t(q.nbytes()) : 0);
    const auto at_lse = reserve(4 * s.batch * s.heads * length);
    const auto at_k = reserve(set.rotates && !as_is ? int64_t(in[1].nbytes()) : 0);
    // Many queries read keys and values of their own type.
    const int64_t wide = few || as_is ? 0 : s.batch * s.groups * s.keys * size_of(s.type);
    const auto at_wide_k = reserve(wide * width), at_wide_v = reserve(wide * value);
    const auto* const given = frequencies(in);
    task([=, memory = Scratch<char>(slices.used()), from_q = Dense(q), from_k = Dense(in[1]),
          from_v = Dense(in[2]), turns = given ? std::optional(Dense(*given)) : std::nullopt,
          k_all = columns_of(k_buffer.data(), keys, 0, kept),
          k_new = columns_of(k_buffer.data(), keys, set.at, kept),
          v_all = columns_of(v_buffer.data(), values, 0, kept),
          v_new = columns_of(v_buffer.data(), values, set.at, kept), to = out[0].data<char>()] {
      k_buffer.keep(), v_buffer.keep();
      char* const room = memory.get();
      auto queries = side_by_side(const_cast<void*>(from_q.read()), s.heads, length, width);
      auto new_k = side_by_side(const_cast<void*>(from_k.read()), s.groups, length, width);
      const auto new_v = side_by_side(const_cast<void*>(from_v.read()), s.groups, length, value);
      if (set.rotates) {
        std::vector<int32_t> offsets{set.at};
        if (s.pads) {
          offsets.clear();
          for (int64_t b = 0; b < s.batch; b++) offsets.push_back(set.at - s.pads[b]);
        }
        const RopeAngles angles{set.rope_scale,
                                offsets.data(),
                                s.pads != nullptr,
                                set.theta,
                                turns ? static_cast<const float*>(turns->read()) : nullptr,
                                set.magnitude};
        const auto rotate = [&](int64_t heads, const HeadView& from, const HeadView& into) {
          rotate_heads({s.type,
                        set.interleaved,
                        s.batch,
                        heads,
                        length,
                        width,
                        set.dims,
                        {from.batch, from.head, from.row},
                        {into.batch, into.head, into.row}},
                       angles, from.data, into.data);
        };
        const auto turned = side_by_side(room + at_q, s.heads, length, width);
        rotate(s.heads, queries, turned);
        const auto turned_k = as_is ? k_new : side_by_side(room + at_k, s.groups, length, width);
        rotate(s.groups, new_k, turned_k);
        queries = turned, new_k = turned_k;
      }
      if (!set.rotates || !as_is) copy_rows(s, length, width, {new_k, s.type}, {k_new, kept});
      copy_rows(s, length, value, {new_v, s.type}, {v_new, kept});
      const auto into = side_by_side(to, s.heads, length, value);
      auto* const lse = reinterpret_cast<float*>(room + at_lse);
      if (ordered) {
        attention_one_order(s, plan, queries, {k_all, kept}, {v_all, kept}, into, lse,
                            room + at_plan);
        return;
      }
      if (few) {
        attention_decode(s, plan, queries, {k_all, kept}, {v_all, kept}, into, lse, room + at_plan);
        return;
      }
      const auto of_own_type = [&](const HeadView& all, int64_t wide_row, int64_t at) {
        if (as_is) return all;
        const HeadView own{room + at, s.groups * s.keys * wide_row, s.keys * wide_row, wide_row};
        copy_rows(s, s.keys, wide_row, {all, kept}, {own, s.type});
        return own;
      };
      attention_forward(s, plan, queries, of_own_type(k_all, width, at_wide_k),
                        of_own_type(v_all, value, at_wide_v), into, lse, room + at_plan);
    });
  }

 private:
  const array* frequencies(const Arrays& in) const {
    const size_t i = padded_ ? 6 : 5;
    return in.size() > i ? &in[i] : nullptr;
  }

  Settings settings_;
  bool padded_;
};

}  // namespace

CachedAttention cached_attention(const array& q, const array& k, const array& v, array keys,
                                 array values, int at, const std::optional<Rope>& rope, float scale,
                                 const AttentionMask& mask) {
  const auto dtype = q.dtype();
  const auto projection = [&](const array& x) {
    return x.ndim() == 3 && x.shape(0) == q.shape(0) && x.shape(1) == q.shape(1) &&
           x.dtype() == dtype;
  };
  const auto buffer = [&](const array& x) {
    return x.ndim() == 4 && x.shape(0) == q.shape(0) && x.shape(1) > 0 && x.shape(3) > 0 &&
           (x.dtype() == dtype || (dtype == mx::float32 && x.dtype() == mx::float16));
  };
  const bool fits = projection(q) && projection(k) && projection(v) && buffer(keys) &&
                    buffer(values) && keys.shape(1) == values.shape(1) &&
                    keys.dtype() == values.dtype() && keys.shape(2) == values.shape(2) &&
                    k.shape(2) == keys.shape(1) * keys.shape(3) &&
                    v.shape(2) == values.shape(1) * values.shape(3) &&
                    q.shape(2) % k.shape(2) == 0 && at >= 0 && at + q.shape(1) <= keys.shape(2);
  if (!fits) {
    throw Error(
        Kind::usage,
        "[cached_attention] the shapes do not fit: expected q [B, L, H Dh], k [B, L, K "
        "Dh], v [B, L, K Dv] and buffers [B, K, C, Dh] and [B, K, C, Dv] of one type, or float16 "
        "buffers for float32, with room for L columns from " +
            std::to_string(at) + " on.");
  }
  Settings s{at, scale, mask.softcap, mask.window, rope.has_value(), false, 0, 0, 0, 1};
  Arrays in{q, k, v, std::move(keys), std::move(values)};
  if (mask.padding) in.push_back(dense(*mask.padding));
  if (rope) {
    const int width = in[3].shape(3);
    s.interleaved = rope->interleaved, s.theta = rope->theta, s.rope_scale = rope->scale;
    s.magnitude = rope->magnitude;
    s.dims = rope->dims > 0 ? rope->dims : width;
    if (s.dims % 2 != 0 || s.dims > width ||
        (rope->frequencies && rope->frequencies->shape() != mx::Shape{s.dims / 2})) {
      throw Error(Kind::usage, "[cached_attention] expected an even number of at most " +
                                   std::to_string(width) +
                                   " elements to turn and a frequency for each pair, got " +
                                   std::to_string(s.dims) + ".");
    }
    if (rope->frequencies) in.push_back(mx::astype(*rope->frequencies, mx::float32));
  }
  const auto op = std::make_shared<CachedAttentionOp>(s, mask.padding.has_value());
  if (!fused(dtype)) {
    const auto all = op->plain(in);
    return {all[0], all[1], all[2]};
  }
  auto shapes = op->output_shapes(in);
  const auto kept = in[3].dtype();
  const auto all = array::make_arrays(std::move(shapes), {dtype, kept, kept}, op, std::move(in));
  return {all[0], all[1], all[2]};
}

}  // namespace lmxlab::kernels
