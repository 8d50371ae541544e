#include "lmxlab/kernels/graph_walk.h"

#include <mlx/mlx.h>

#include <functional>
#include <string>
#include <vector>

#include "lmxlab/kernels/rehearsal.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

struct Counted {
  size_t peak, active;
};
// The step's peak by MLX's own evaluation, and by the walk.
Counted counted(const std::function<Arrays()>& step, void (*evaluate)(Arrays)) {
  const Rehearsal rehearsal;
  auto out = step();
  evaluate(out);
  for (const auto& o : out) EXPECT_TRUE(o.is_available());
  return {rehearsal.peak(), rehearsal.active()};
}
void expect_same(const std::string& what, const std::function<Arrays()>& step) {
  const auto own = counted(step, [](Arrays out) { mx::eval(std::move(out)); });
  const auto walked = counted(step, walk_graph);
  EXPECT_EQ(walked.active, own.active) << what;
  // The queue gives what an op read back after it; MLX's where memory is asked for the next time.
  EXPECT_LE(walked.peak, own.peak) << what;
  EXPECT_GE(double(walked.peak), 0.98 * double(own.peak)) << what;
}

array noise(mx::Shape shape, uint64_t key) {
  return mx::random::normal(std::move(shape), mx::float32, mx::random::key(key));
}

TEST(GraphWalk, CountsAsAnEvaluationDoes) {
  expect_same("a chain that writes in place", [] {
    auto x = noise({1000, 1000}, 1);
    for (int i = 0; i < 20; i++) x = mx::add(mx::multiply(x, array(0.5f)), array(1.0f));
    return Arrays{x};
  });
  expect_same("what is kept for later", [] {
    Arrays all{noise({400, 400}, 2)};
    for (int i = 0; i < 8; i++) all.push_back(mx::tanh(mx::matmul(all.back(), all.front())));
    auto sum = all.front();
    for (const auto& x : all) sum = mx::add(sum, mx::transpose(x));
    return Arrays{sum};
  });
  expect_same("several outputs, slices and copies", [] {
    const auto parts = mx::split(noise({600, 900}, 3), 3, 1);
    const auto x = mx::reshape(mx::transpose(parts[0]), {600, 300});
    const auto y = mx::concatenate({parts[1], mx::exp(parts[2])}, 1);
    return Arrays{mx::sum(x, 0), mx::softmax(y, -1), mx::argmax(y, 1)};
  });
}

TEST(GraphWalk, KnowsTheLargestOp) {
  const Rehearsal rehearsal;
  const auto x = noise({1000, 1000}, 1);
  // In place, and half of it: the random numbers are the largest.
  walk_graph({mx::slice(mx::exp(x), {0, 0}, {500, 1000})});
  EXPECT_EQ(rehearsal.largest_op(), size_t{4'000'000});
}

TEST(GraphWalk, CountsGradientsAndUpdates) {
  expect_same("a layer of two matrices, trained", [] {
    const auto x = noise({500, 256}, 4);
    const auto loss = [&](const Arrays& w) {
      auto h = x;
      for (size_t i = 0; i + 1 < w.size(); i += 2)
        h = mx::add(h, mx::matmul(mx::maximum(mx::matmul(h, w[i]), array(0.0f)), w[i + 1]));
      return Arrays{mx::mean(mx::square(h))};
    };
    Arrays w;
    for (uint64_t i = 0; i < 6; i++)
      w.push_back(noise(i % 2 ? mx::Shape{1024, 256} : mx::Shape{256, 1024}, 5 + i));
    std::vector<int> all{0, 1, 2, 3, 4, 5};
    auto [value, grads] = mx::value_and_grad(loss, all)(w);
    Arrays out{value[0]};
    for (size_t i = 0; i < w.size(); i++)
      out.push_back(mx::subtract(w[i], mx::multiply(array(0.1f), grads[i])));
    w.clear();
    return out;
  });
}

}  // namespace
}  // namespace lmxlab::kernels
