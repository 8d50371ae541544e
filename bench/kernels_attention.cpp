// Attention, forward and gradient, against MLX's ordinary ops: training shapes, prefill, decode.
#include <cmath>
#include <string>

#include "bench/bench.h"
#include "lmxlab/kernels/attention.h"

namespace mx = mlx::core;
using lmxlab::bench::Arrays;
using lmxlab::kernels::attention;
using lmxlab::kernels::AttentionMask;

namespace {

struct Shape {
  int batch, heads, groups, queries, keys, width;
};

// [B, H, L, Dh], as a projection gives it; or as a cache does.
mx::array heads(int batch, int heads, int length, int width, mx::Dtype dtype, bool cache) {
  const auto x = mx::astype(mx::random::normal({batch, length, heads, width}), dtype);
  const auto y = mx::transpose(x, {0, 2, 1, 3});
  return cache ? mx::contiguous(y) : y;
}

}  // namespace

int main(int argc, char** argv) {
  lmxlab::bench::Bench bench("attention", argc, argv);
  for (const auto& [dtype, type] :
       {std::pair{mx::float32, "f32"}, {mx::bfloat16, "bf16"}, {mx::float16, "f16"}}) {
    for (const Shape& s : {Shape{1, 2, 2, 4, 4, 8},
                           {2, 4, 4, 32, 32, 32},
                           {1, 9, 3, 100, 100, 64},
                           {16, 6, 6, 256, 256, 64},
                           {1, 9, 3, 512, 512, 64},
                           {1, 9, 3, 64, 2048, 64},
                           {1, 4, 4, 1024, 1024, 128},
                           {1, 9, 3, 1, 16, 64},
                           {1, 9, 3, 1, 512, 64},
                           {1, 9, 3, 1, 2048, 64},
                           {1, 9, 3, 1, 8192, 64},
                           {1, 32, 8, 1, 2048, 128},
                           {8, 9, 3, 1, 512, 64},
                           {1, 9, 3, 4, 2048, 64}}) {
      // Half types are scalar loops in MLX's ordinary ops: large ones would take minutes.
      const double pairs = double(s.batch) * s.heads * s.queries * s.keys;
      if (dtype == mx::float16 && pairs > 1e6) continue;
      const bool decode = s.queries < s.keys;
      const auto q = heads(s.batch, s.heads, s.queries, s.width, dtype, false);
      const auto k = heads(s.batch, s.groups, s.keys, s.width, dtype, decode);
      const auto v = heads(s.batch, s.groups, s.keys, s.width, dtype, decode);
      const auto g = heads(s.batch, s.heads, s.queries, s.width, dtype, false);
      const float scale = 1 / std::sqrt(static_cast<float>(s.width));
      const auto ours = [=](const Arrays& in) -> Arrays {
        return {attention(in[0], in[1], in[2], scale, {.causal = true})};
      };
      const auto plain = [=](const Arrays& in) -> Arrays {
        return {mx::fast::scaled_dot_product_attention(in[0], in[1], in[2], scale, "causal")};
      };
      const auto gradient = [](auto f) {
        return [=](const Arrays& in) { return mx::vjp(f, {in[0], in[1], in[2]}, {in[3]}).second; };
      };
      const std::string title = std::string(type) + " " + std::to_string(s.batch) + "x" +
                                std::to_string(s.heads) + "/" + std::to_string(s.groups) + "x" +
                                std::to_string(s.queries) + "x" + std::to_string(s.keys) + "x" +
                                std::to_string(s.width);
      // Half of the square of the queries is hidden.
      const double seen = pairs - double(s.batch) * s.heads * s.queries * (s.queries - 1) / 2;
      const double bytes =
          2.0 * static_cast<double>(k.nbytes()) + 2.0 * static_cast<double>(q.nbytes());
      bench.ops("forward " + title, {q, k, v}, ours, plain,
                {.flops = 4 * seen * s.width, .bytes = bytes});
      if (decode) continue;
      bench.ops("gradient " + title, {q, k, v, g}, gradient(ours), gradient(plain),
                {.flops = 14 * seen * s.width});
    }
  }
  return bench.done();
}
