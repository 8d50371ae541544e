#include "lmxlab/core/side_paths.h"

#include "lmxlab/core/mlp.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

constexpr float kLeastSquare = 1e-5f;  // of a stream's mean square

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}
mx::array mean_square(const mx::array& x) {
  return mx::mean(mx::square(f32(x)), -1, true);
}
// x with the magnitude of another.
mx::array like(const mx::array& x, const mx::array& magnitude) {
  const auto own = mx::sqrt(mx::maximum(mean_square(x), mx::array(kLeastSquare)));
  return kernels::cast(mx::divide(mx::multiply(f32(x), magnitude), own), x.dtype());
}
Linear square_of(const Build& b) {
  return {b.dim, b.dim, false, b.std, b.init};
}

}  // namespace

Laurel::Laurel(const config::Block& c, const Build& b)
    : left(b.dim, c.laurel, false, b.std, b.init),
      right(c.laurel, b.dim, false, b.std, b.init),
      norm(c.norm, b.dim) {}

mx::array Laurel::operator()(const mx::array& x) const {
  return norm.onto(x, right(left(x)));
}

LayerInput::LayerInput(const config::LayerInputs& c, const config::Norm& n, const Build& b)
    : gate(b.dim, c.width, false, b.std, b.init),
      projection(c.width, b.dim, false, b.std, b.init),
      norm(n, b.dim),
      act(c.act) {}

mx::array LayerInput::operator()(const mx::array& x, const mx::array& own) const {
  return norm(projection(gated(act, gate(x), own)));
}

LayerInputTable::LayerInputTable(const config::Model& m, const Build& b)
    : table(m.layer_inputs->vocab, b.layers * m.layer_inputs->width, b.std, b.init),
      projection(b.dim, b.layers * m.layer_inputs->width, false, b.std, b.init),
      norm(m.layers.empty() ? m.final_norm : m.layers[0].norm, m.layer_inputs->width),
      config(*m.layer_inputs),
      layers(b.layers) {}

mx::array LayerInputTable::operator()(const mx::array& tokens, const mx::array& x) const {
  const auto ids = mx::astype(tokens, mx::int32);
  const auto known = mx::where(mx::less(ids, mx::array(config.vocab)), ids, mx::array(0));
  const mx::Shape shape{x.shape(0), x.shape(1), layers, config.width};
  const auto root = [](int n) { return std::sqrt(static_cast<float>(n)); };
  const auto of_token = kernels::scale(table(known, x.dtype()), root(config.width));
  const auto of_text = kernels::scale(projection(x), 1 / root(x.shape(-1)));
  const auto both = kernels::add(norm(mx::reshape(of_text, shape)), mx::reshape(of_token, shape));
  return kernels::scale(both, 1 / root(2));
}

AltUp::AltUp(const config::AltUp& c, const config::Norm& n, const Build& b)
    : scale{ones({b.dim}), c.scaled},
      correction(c.streams, c.streams, false, b.std, b.init),
      prediction(c.streams, c.streams * c.streams, false, b.std, b.init),
      router(b.dim, c.streams, false, b.std, b.init),
      norm(n, b.dim),
      config_(c) {}

mx::array AltUp::modalities(const mx::array& x) const {
  const auto in = kernels::scale(norm(x), 1 / static_cast<float>(x.shape(-1)));
  return kernels::cast(mx::tanh(f32(router(in))), x.dtype());
}

// The layer with its weights within the limit, in training.
mx::array AltUp::limited(const Linear& layer, const mx::array& x, bool training) const {
  if (!training || !config_.clip || layer.weight.quantized()) return layer(x);
  const mx::array most(*config_.clip);
  const auto w = mx::clip(f32(layer.weight.w.value), mx::negative(most), most);
  return mx::matmul(x, kernels::cast(mx::transpose(w), x.dtype()));
}

mx::array AltUp::predict(const mx::array& streams, bool training) const {
  const int n = config_.streams;
  const auto weights =
      limited(prediction, modalities(stream_of(streams, config_.active)), training);
  const auto mixed =
      mx::matmul(mx::reshape(weights, {streams.shape(0), streams.shape(1), n, n}), streams);
  return kernels::add(streams, mixed);
}

mx::array AltUp::correct(const mx::array& predicted, const mx::array& made, bool training) const {
  const auto weights =
      mx::add(limited(correction, modalities(made), training), mx::array(1.0f, made.dtype()));
  const auto news = mx::subtract(made, stream_of(predicted, config_.active));
  return mx::add(predicted, mx::multiply(mx::expand_dims(news, 2), mx::expand_dims(weights, -1)));
}

mx::array AltUp::scaled(const mx::array& active) const {
  if (!config_.scaled) return active;
  return mx::multiply(active, kernels::cast(scale.value, active.dtype()));
}

AltUpEnds::AltUpEnds(const config::AltUp& c, const Build& b) {
  for (int i = 1; i < c.streams; ++i) projections.push_back(square_of(b));
  for (int i = 1; i < c.streams; ++i) unembed_projections.push_back(square_of(b));
}

mx::array AltUpEnds::open(const mx::array& x) const {
  const auto magnitude = mx::sqrt(mean_square(x));
  Arrays streams{x};
  for (const auto& p : projections) streams.push_back(like(p(x), magnitude));
  return mx::stack(streams, 2);
}

mx::array AltUpEnds::close(const mx::array& streams) const {
  auto sum = stream_of(streams, 0);
  const auto magnitude = mx::sqrt(mean_square(sum));
  for (size_t i = 0; i < unembed_projections.size(); ++i) {
    const auto stream = stream_of(streams, static_cast<int>(i) + 1);
    sum = kernels::add(sum, like(unembed_projections[i](stream), magnitude));
  }
  return kernels::scale(sum, 1 / static_cast<float>(streams.shape(2)));
}

mx::array stream_of(const mx::array& streams, int i) {
  return mx::squeeze(mx::slice(streams, {0, 0, i, 0},
                               {streams.shape(0), streams.shape(1), i + 1, streams.shape(3)}),
                     2);
}

}  // namespace lmxlab::core
