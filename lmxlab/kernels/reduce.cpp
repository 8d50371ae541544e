#include "lmxlab/kernels/reduce.h"

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/reduce.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// sums[c] = the sum of `width` columns over rows `stride` elements apart. Four rows at a time: the
// sums lie in the first cache level, and are not to be its only traffic.
void sum_block(Type type, const void* data, int64_t rows, int64_t stride, int64_t width,
               float* sums) {
  with_type(type, [=](auto t) {
    const auto* x = static_cast<const decltype(t)*>(data);
    std::fill(sums, sums + width, 0.0f);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
      each(width, [=](int64_t i, auto lanes) {
        const VF a = hn::Add(read(x + i, lanes), read(x + stride + i, lanes));
        const VF b = hn::Add(read(x + 2 * stride + i, lanes), read(x + 3 * stride + i, lanes));
        write(hn::Add(read(sums + i, lanes), hn::Add(a, b)), sums + i, lanes);
      });
    }
    for (; r < rows; r++, x += stride) {
      each(width, [=](int64_t i, auto lanes) {
        write(hn::Add(read(sums + i, lanes), read(x + i, lanes)), sums + i, lanes);
      });
    }
  });
}

void sum_columns(const float* parts, int64_t count, int64_t stride, int64_t first, int64_t last,
                 Type type, void* out) {
  with_type(type, [=](auto t) {
    auto* const to = static_cast<decltype(t)*>(out) + first;
    each(last - first, [=](int64_t i, auto lanes) {
      VF total = hn::Zero(DF());
      for (int64_t k = 0; k < count; k++) {
        total = hn::Add(total, read(parts + k * stride + first + i, lanes));
      }
      write(total, to + i, lanes);
    });
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(sum_block);
HWY_EXPORT(sum_columns);

constexpr int64_t kSlice = 2048;  // columns: their sums fit the first cache level

class SumRows : public Op {
 public:
  explicit SumRows(mx::Dtype dtype) : dtype_(dtype) {}
  const char* name() const override { return "lmxlab::SumRows"; }
  bool same(const Op& other) const override {
    return dtype_ == static_cast<const SumRows&>(other).dtype_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {{in[0].shape(-1)}}; }
  Arrays plain(const Arrays& in) const override {
    std::vector<int> axes(in[0].ndim() - 1);
    for (size_t i = 0; i < axes.size(); i++) axes[i] = static_cast<int>(i);
    return {mx::astype(mx::sum(mx::astype(in[0], mx::float32), axes), dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const int64_t width = in[0].shape(-1);
    const RowBlocks blocks(width ? static_cast<int64_t>(in[0].size()) / width : 0);
    task([x = Dense(in[0]), parts = Scratch<float>(blocks.count * width), blocks, width,
          from = type_of(in[0].dtype()), y = out[0].data<void>(), to = type_of(dtype_)] {
      const auto* const rows = static_cast<const char*>(x.read());
      const int64_t slices = (width + kSlice - 1) / kSlice;
      const int64_t item = blocks.block * std::min(width, kSlice);
      parallel_for(
          blocks.count * slices, (32768 + item) / (item + 1), [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; i++) {
              const int64_t block = i / slices, c = i % slices * kSlice;
              HWY_DYNAMIC_DISPATCH(sum_block)
              (from, rows + (blocks.begin(block) * width + c) * size_of(from), blocks.size(block),
               width, std::min(kSlice, width - c), parts.get() + block * width + c);
            }
          });
      sum_parts(parts.get(), blocks.count, width, width, to, y);
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
             const Arrays&) override {
    return {mx::broadcast_to(cast(cotangents[0], primals[0].dtype()), primals[0].shape())};
  }

 private:
  mx::Dtype dtype_;
};

}  // namespace

void sum_parts(const float* parts, int64_t count, int64_t stride, int64_t width, Type type,
               void* out) {
  parallel_for(width, std::max<int64_t>(64, 16384 / std::max<int64_t>(1, count)),
               [=](int64_t first, int64_t last) {
                 HWY_DYNAMIC_DISPATCH(sum_columns)(parts, count, stride, first, last, type, out);
               });
}

array sum_rows(const array& x, mx::Dtype dtype) {
  if (x.ndim() == 0) {
    throw Error(Kind::usage, "[sum_rows] expected [..., N], got a scalar.");
  }
  // The sum of one row is the row.
  if (x.size() > 0 && static_cast<int64_t>(x.size()) == x.shape(-1) && has_type(x.dtype()) &&
      has_type(dtype)) {
    return mx::reshape(cast(x, dtype), {x.shape(-1)});
  }
  auto op = std::make_shared<SumRows>(dtype);
  if (!fused(x.dtype()) || !has_type(dtype)) return op->plain({x})[0];
  return array({x.shape(-1)}, dtype, op, {x});
}

}  // namespace lmxlab::kernels
#endif
