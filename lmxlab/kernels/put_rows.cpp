#include "lmxlab/kernels/put_rows.h"

#include <mlx/mlx.h>

#include <cstring>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/rehearsal.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

class PutRows : public Op {  // part, to? -> to
 public:
  PutRows(int first, int rows) : first_(first), rows_(rows) {}
  const char* name() const override { return "lmxlab::PutRows"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const PutRows&>(other);
    return first_ == op.first_ && rows_ == op.rows_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{rows_, in[0].shape(1)}};
  }
  Arrays plain(const Arrays& in) const override {
    const auto to = in.size() > 1 ? in[1] : mx::zeros({rows_, in[0].shape(1)}, in[0].dtype());
    return {mx::slice_update(to, in[0], mx::Shape{first_, 0},
                             mx::Shape{first_ + in[0].shape(0), in[0].shape(1)})};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    const bool renews = in.size() > 1;
    if (renews && !in[1].is_donatable()) wait_for_stream(stream());
    if (renews) {
      give(out[0], in[1]);
    } else {
      give(out[0]);
    }
    const size_t skip = static_cast<size_t>(first_) * in[0].shape(1) * in[0].itemsize();
    task([part = Dense(in[0]), to = Renewed(in[renews ? 1 : 0], out[0]), renews, skip,
          bytes = in[0].nbytes()] {
      if (renews) to.keep();
      std::memcpy(to.data() + skip, part.read(), bytes);
    });
  }

 private:
  int first_, rows_;
};

}  // namespace

array put_rows(const std::optional<array>& to, const array& part, int first, int rows) {
  const bool fits =
      part.ndim() == 2 && first >= 0 && first + part.shape(0) <= rows &&
      (!to || (to->shape() == mx::Shape{rows, part.shape(1)} && to->dtype() == part.dtype()));
  if (!fits) {
    throw Error(Kind::usage, "[put_rows] expected [rows, W] and a part of it, of one type.");
  }
  const auto op = std::make_shared<PutRows>(first, rows);
  Arrays in{part};
  if (to) in.push_back(*to);
  if (!fused(part.dtype())) return op->plain(in)[0];
  return array({rows, part.shape(1)}, part.dtype(), op, std::move(in));
}

}  // namespace lmxlab::kernels
