#include "lmxlab/core/linear.h"


namespace lmxlab::core {

Linear::Linear(int in, int out, bool with_bias, float std, Init& init)
    : weight{{init.normal({out, in}, std)}} {
  if (with_bias) bias = Param{zeros({out})};
}

mx::array Linear::operator()(const mx::array& x) const {
  return weight.matmul(x, bias);
}

Embedding::Embedding(int vocab, int dim, float std, Init& init)
    : weight{{init.normal({vocab, dim}, std)}} {}

}  // namespace lmxlab::core
