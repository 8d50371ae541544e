#include "lmxlab/kernels/embedding.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/embedding.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// sums += x
void accumulate(Type type, const void* x, float* sums, int64_t n) {
  with_type(type, [=](auto t) {
    const auto* const row = static_cast<const decltype(t)*>(x);
    each(n, [=](int64_t i, auto lanes) {
      write(hn::Add(read(sums + i, lanes), read(row + i, lanes)), sums + i, lanes);
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

HWY_EXPORT(accumulate);

// The row that an id names, or -1.
int64_t row_of(int32_t id, int64_t rows) {
  const int64_t row = id < 0 ? id + rows : id;
  return row >= 0 && row < rows ? row : -1;
}

class EmbeddingGrad : public Op {  // ids, g -> dtable
 public:
  EmbeddingGrad(int rows, mx::Dtype dtype) : rows_(rows), dtype_(dtype) {}
  const char* name() const override { return "lmxlab::EmbeddingGrad"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const EmbeddingGrad&>(other);
    return rows_ == op.rows_ && dtype_ == op.dtype_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {{rows_, in[1].shape(-1)}};
  }
  Arrays plain(const Arrays& in) const override {
    const int width = in[1].shape(-1), count = static_cast<int>(in[0].size());
    const auto updates = mx::reshape(mx::astype(in[1], mx::float32), {count, 1, width});
    const auto sums =
        mx::scatter_add(mx::zeros({rows_, width}), mx::reshape(in[0], {count}), updates, 0);
    return {mx::astype(sums, dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const auto count = static_cast<int64_t>(in[0].size());
    task([ids = Dense(in[0]), g = Dense(in[1]), count, rows = int64_t{rows_},
          width = int64_t{in[1].shape(-1)}, from = type_of(in[1].dtype()), to = type_of(dtype_),
          begins = Scratch<int32_t>(rows_ + 2), order = Scratch<int32_t>(count),
          dtable = out[0].data<char>()] {
      const auto* const id = static_cast<const int32_t*>(ids.read());
      const auto* const grad = static_cast<const char*>(g.read());
      // Positions sorted by row, those of one row in their own order (counting sort). After it,
      // row r has positions order[begin[r]] to order[begin[r + 1]].
      int32_t* const begin = begins.get();
      std::fill(begin, begin + rows + 2, 0);
      for (int64_t i = 0; i < count; i++) {
        if (const int64_t row = row_of(id[i], rows); row >= 0) begin[row + 2]++;
      }
      for (int64_t r = 0; r < rows; r++) begin[r + 2] += begin[r + 1];
      for (int64_t i = 0; i < count; i++) {
        if (const int64_t row = row_of(id[i], rows); row >= 0) {
          order.get()[begin[row + 1]++] = static_cast<int32_t>(i);
        }
      }
      // A part has its share of rows to write plus positions to read.
      const int64_t total = rows + begin[rows];
      const auto first_row = [=](int64_t share) {
        int64_t low = 0, high = rows;  // begin[r] + r grows with r
        while (low < high) {
          const int64_t middle = (low + high) / 2;
          if (begin[middle] + middle < share) {
            low = middle + 1;
          } else {
            high = middle;
          }
        }
        return low;
      };
      const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
      parallel_for(total, grain, [&](int64_t first, int64_t last) {
        std::vector<float> sums(static_cast<size_t>(width));
        const int64_t end = last == total ? rows : first_row(last);
        for (int64_t r = first_row(first); r < end; r++) {
          char* const row = dtable + r * width * size_of(to);
          if (begin[r] == begin[r + 1]) {
            std::memset(row, 0, static_cast<size_t>(width * size_of(to)));
            continue;
          }
          std::fill(sums.begin(), sums.end(), 0.0f);
          for (int32_t i = begin[r]; i < begin[r + 1]; i++) {
            HWY_DYNAMIC_DISPATCH(accumulate)
            (from, grad + order.get()[i] * width * size_of(from), sums.data(), width);
          }
          convert(Type::f32, sums.data(), to, row, width);
        }
      });
    });
  }

 private:
  int rows_;
  mx::Dtype dtype_;
};

class Embedding : public Op {  // table, ids -> rows
 public:
  explicit Embedding(mx::Dtype dtype) : dtype_(dtype) {}
  const char* name() const override { return "lmxlab::Embedding"; }
  bool same(const Op& other) const override {
    return dtype_ == static_cast<const Embedding&>(other).dtype_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto shape = in[1].shape();
    shape.push_back(in[0].shape(1));
    return {shape};
  }
  Arrays plain(const Arrays& in) const override {
    return {mx::astype(mx::take(in[0], in[1], 0), dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    task([table = Dense(in[0]), ids = Dense(in[1]), rows = int64_t{in[0].shape(0)},
          width = int64_t{in[0].shape(1)}, count = static_cast<int64_t>(in[1].size()),
          from = type_of(in[0].dtype()), to = type_of(dtype_), y = out[0].data<char>()] {
      const auto* const data = static_cast<const char*>(table.read());
      const auto* const id = static_cast<const int32_t*>(ids.read());
      const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, width));
      parallel_for(count, grain, [=](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          char* const target = y + i * width * size_of(to);
          if (const int64_t row = row_of(id[i], rows); row >= 0) {
            convert(from, data + row * width * size_of(from), to, target, width);
          } else {
            const std::vector<float> none(static_cast<size_t>(width),
                                          std::numeric_limits<float>::quiet_NaN());
            convert(Type::f32, none.data(), to, target, width);
          }
        }
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays out;
    for (const int i : argnums) {
      if (i == 0) {
        const auto& table = primals[0];
        out.push_back(output_like(table,
                                  std::make_shared<EmbeddingGrad>(table.shape(0), table.dtype()),
                                  {primals[1], cotangents[0]}));
      } else {
        out.push_back(mx::zeros_like(primals[i]));
      }
    }
    return out;
  }
  // Linear in the table; the ordinary op refuses a tangent of ids, even of zeros.
  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override {
    if (argnums[0] == 0) return {embedding(tangents[0], primals[1], dtype_)};
    return {mx::zeros(output_shapes(primals)[0], dtype_)};
  }

 private:
  mx::Dtype dtype_;
};

}  // namespace

array embedding(const array& table, const array& ids, mx::Dtype dtype) {
  if (table.ndim() != 2 || !mx::issubdtype(ids.dtype(), mx::integer)) {
    throw Error(Kind::usage, "[embedding] expected a table [V, D] and integer ids, got " +
                                 std::to_string(table.ndim()) + " axes.");
  }
  auto op = std::make_shared<Embedding>(dtype);
  if (!fused(table.dtype()) || !has_type(dtype)) return op->plain({table, ids})[0];
  const Arrays in{table, mx::astype(ids, mx::int32)};
  return array(op->output_shapes(in)[0], dtype, op, in);
}

}  // namespace lmxlab::kernels
#endif
