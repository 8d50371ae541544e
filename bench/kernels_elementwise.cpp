// The kernels that memory bounds, forward and gradient, against the same functions in MLX's ops.
// `gbytes_per_s` counts what must be read and written once.
#include "bench/bench.h"

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/dropout.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/embedding.h"
#include "lmxlab/kernels/norm.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/rope.h"

namespace mx = mlx::core;
using mx::array;
using namespace lmxlab;
using bench::Arrays;
using Function = std::function<Arrays(const Arrays&)>;

namespace {

struct Shape {
  int rows, width;
  std::string text() const { return std::to_string(rows) + "x" + std::to_string(width); }
};
const std::vector<Shape> kShapes{{1, 576},   {8, 64},     {64, 576},
                                 {768, 128}, {4096, 384}, {4096, 1536}};
const std::vector<std::pair<mx::Dtype, std::string>> kFloats{
    {mx::float32, "f32"}, {mx::bfloat16, "bf16"}, {mx::float16, "f16"}};

array noise(mx::Shape shape, mx::Dtype dtype, int key) {
  return mx::astype(mx::random::normal(std::move(shape), mx::random::key(key)), dtype);
}

// The gradients of f's inputs, where the last arrays are the cotangents of its outputs.
Function gradient(Function f, size_t inputs) {
  return [f, inputs](const Arrays& v) {
    return mx::vjp(f, Arrays(v.begin(), v.begin() + inputs), Arrays(v.begin() + inputs, v.end()))
        .second;
  };
}

struct Case {
  std::string name;
  Function ours, plain;
  size_t inputs;  // how many arrays of the shape come in, before the weight
  bool weight;    // a float32 [D] last
  int outputs = 1;
};

std::vector<Case> cases() {
  using kernels::Activation;
  const auto one = [](auto f) -> Function { return [f](const Arrays& v) { return Arrays{f(v)}; }; };
  const auto rms = kernels::NormKind::rms;
  const auto in_dtype = [](const array& w, const array& x) { return mx::astype(w, x.dtype()); };
  std::vector<Case> all{
      {"add", one([](auto& v) { return kernels::add(v[0], v[1]); }),
       one([](auto& v) { return mx::add(v[0], v[1]); }), 2, false},
      {"scale", one([](auto& v) { return kernels::scale(v[0], 3); }),
       one([](auto& v) { return mx::multiply(v[0], array(3, v[0].dtype())); }), 1, false},
      {"rms_norm", one([](auto& v) { return kernels::rms_norm(v[0], v[1], 1e-5f); }),
       one([=](auto& v) { return mx::fast::rms_norm(v[0], in_dtype(v[1], v[0]), 1e-5f); }), 1,
       true},
      {"layer_norm", one([](auto& v) { return kernels::layer_norm(v[0], v[1], {}, 1e-5f); }),
       one([=](auto& v) { return mx::fast::layer_norm(v[0], in_dtype(v[1], v[0]), {}, 1e-5f); }), 1,
       true},
      {"norm_onto",
       one([=](auto& v) { return kernels::norm_onto(rms, v[0], v[1], {v[2]}, 1e-5f); }),
       one([=](auto& v) {
         return mx::add(v[0], mx::fast::rms_norm(v[1], in_dtype(v[2], v[0]), 1e-5f));
       }),
       2, true},
      {"add_norm",
       [=](const Arrays& v) -> Arrays {
         const auto y = kernels::add_norm(rms, v[0], v[1], {v[2]}, 1e-5f);
         return {y.sum, y.normed};
       },
       [=](const Arrays& v) -> Arrays {
         const auto sum = mx::add(v[0], v[1]);
         return {sum, mx::fast::rms_norm(sum, in_dtype(v[2], sum), 1e-5f)};
       },
       2, true, 2}};
  const auto c = [](float v, const array& x) { return array(v, x.dtype()); };
  const std::vector<std::tuple<std::string, Activation, std::function<array(const array&)>>> acts{
      {"silu", Activation::silu, [](const array& x) { return x * mx::sigmoid(x); }},
      {"gelu", Activation::gelu,
       [=](const array& x) { return x * c(0.5f, x) * (c(1, x) + mx::erf(x * c(0.70710678f, x))); }},
      {"gelu_tanh", Activation::gelu_tanh,
       [=](const array& x) {
         const auto u = c(0.79788456f, x) * (x + c(0.044715f, x) * x * x * x);
         return c(0.5f, x) * x * (c(1, x) + mx::tanh(u));
       }},
      {"relu2", Activation::relu2,
       [=](const array& x) { return mx::square(mx::maximum(x, c(0, x))); }},
      {"sigmoid", Activation::sigmoid, [](const array& x) { return mx::sigmoid(x); }},
      {"softplus", Activation::softplus,
       [=](const array& x) { return mx::logaddexp(x, c(0, x)); }}};
  for (const auto& [name, kind, plain] : acts) {
    all.push_back({name, one([k = kind](auto& v) { return kernels::activate(k, v[0]); }),
                   one([p = plain](auto& v) { return p(v[0]); }), 1, false});
    all.push_back({name + " gated",
                   one([k = kind](auto& v) { return kernels::gated(k, v[0], v[1]); }),
                   one([p = plain](auto& v) { return mx::multiply(p(v[0]), v[1]); }), 2, false});
  }
  return all;
}

void rows(bench::Bench& b) {
  for (const auto& c : cases()) {
    for (const auto& [dtype, type] : kFloats) {
      for (const auto& s : kShapes) {
        Arrays in;
        for (size_t i = 0; i < c.inputs; i++) {
          in.push_back(noise({s.rows, s.width}, dtype, static_cast<int>(i)));
        }
        const double bytes = static_cast<double>(in[0].nbytes());
        const auto title = c.name + " " + type + " " + s.text();
        if (c.weight) in.push_back(noise({s.width}, mx::float32, 7));
        const double ins = static_cast<double>(c.inputs), outs = c.outputs;
        b.ops(title, in, c.ours, c.plain, {.bytes = bytes * (ins + outs)});
        if (c.name == "add" || c.name == "scale") continue;
        const size_t inputs = in.size();
        for (int i = 0; i < c.outputs; i++) {
          in.push_back(noise({s.rows, s.width}, dtype, 20 + i));
        }
        // Read: inputs (of add_norm the sum, of norm_onto x only) and cotangents. Written: as many
        // gradients as inputs, but that of a sum once, and a residual's not at all.
        const double moved = c.weight ? 1 + outs + 1 : ins + outs + ins;
        b.ops(title + " gradient", in, gradient(c.ours, inputs), gradient(c.plain, inputs),
              {.bytes = bytes * moved});
      }
    }
  }
}

void casts(bench::Bench& b) {
  for (const auto& [from, f] : kFloats) {
    for (const auto& [to, t] : kFloats) {
      if (from == to) continue;
      for (const auto& s : kShapes) {
        const auto x = noise({s.rows, s.width}, from, 1);
        b.ops(
            "cast " + f + " to " + t + " " + s.text(), {x},
            [to = to](const Arrays& v) -> Arrays { return {kernels::cast(v[0], to)}; },
            [to = to](const Arrays& v) -> Arrays { return {mx::astype(v[0], to)}; },
            {.bytes = static_cast<double>(x.nbytes()) + x.size() * mx::size_of(to)});
      }
    }
  }
}

void others(bench::Bench& b) {
  for (const auto& [dtype, type] : kFloats) {
    for (const auto& s : kShapes) {
      const auto x = noise({s.rows, s.width}, dtype, 1);
      const double bytes = static_cast<double>(x.nbytes());
      b.ops(
          "sum_rows " + type + " " + s.text(), {x},
          [](const Arrays& v) -> Arrays { return {kernels::sum_rows(v[0], mx::float32)}; },
          [](const Arrays& v) -> Arrays { return {mx::sum(mx::astype(v[0], mx::float32), 0)}; },
          {.bytes = bytes});
      b.ops(
          "dropout " + type + " " + s.text(), {x, mx::random::key(1)},
          [](const Arrays& v) -> Arrays { return {kernels::dropout(v[0], 0.1f, v[1])}; },
          [](const Arrays& v) -> Arrays {
            const auto keep = mx::random::bernoulli(array(0.9f), v[0].shape(), v[1]);
            const array zero(0.0f, v[0].dtype()), factor(1 / 0.9f, v[0].dtype());
            return {mx::where(keep, mx::multiply(v[0], factor), zero)};
          },
          {.bytes = 2 * bytes});
    }
    for (const bool interleaved : {false, true}) {
      for (const auto& [B, H, L, D] : {std::tuple{1, 9, 1, 64},
                                       {1, 3, 1, 64},
                                       {8, 9, 1, 64},
                                       {1, 9, 512, 64},
                                       {16, 6, 256, 64},
                                       {16, 6, 256, 128}}) {
        const auto packed = noise({B, L, H * D}, dtype, 1);
        const auto heads = [H = H, D = D](const array& v) {
          return mx::transpose(mx::reshape(v, {v.shape(0), v.shape(1), H, D}), {0, 2, 1, 3});
        };
        b.ops(
            "rope " + type + (interleaved ? " interleaved " : " ") + std::to_string(B) + "x" +
                std::to_string(H) + "x" + std::to_string(L) + "x" + std::to_string(D),
            {packed},
            [=](const Arrays& v) -> Arrays {
              return {kernels::rope(heads(v[0]), {.interleaved = interleaved}, 100)};
            },
            [=, D = D](const Arrays& v) -> Arrays {
              return {mx::fast::rope(heads(v[0]), D, interleaved, 10000.0f, 1.0f, 100)};
            },
            {.bytes = 2.0 * static_cast<double>(packed.nbytes())});
      }
    }
    for (const auto& [V, D, T] :
         {std::tuple{65, 384, 4096}, {50257, 384, 4096}, {49152, 576, 1}, {49152, 576, 512}}) {
      const auto table = noise({V, D}, mx::float32, 1);
      const auto ids =
          mx::astype(mx::random::randint(0, V, {T}, mx::int32, mx::random::key(2)), mx::int32);
      const auto g = noise({T, D}, dtype, 3);
      const auto title = "embedding " + type + " " + std::to_string(V) + "x" + std::to_string(D) +
                         " ids " + std::to_string(T);
      const Function ours = [dtype = dtype, ids](const Arrays& v) -> Arrays {
        return {kernels::embedding(v[0], ids, dtype)};
      };
      const Function plain = [dtype = dtype, ids](const Arrays& v) -> Arrays {
        return {mx::astype(mx::take(v[0], ids, 0), dtype)};
      };
      const double rows = static_cast<double>(g.nbytes()) + 4.0 * T * D;
      b.ops(title, {table}, ours, plain, {.bytes = rows});
      if (T > 1) {
        b.ops(title + " gradient", {table, g}, gradient(ours, 1), gradient(plain, 1),
              {.bytes = static_cast<double>(table.nbytes() + g.nbytes())});
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Bench b("kernels_elementwise", argc, argv);
  rows(b);
  casts(b);
  others(b);
  return b.done();
}
