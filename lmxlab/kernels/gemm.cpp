#include "lmxlab/kernels/gemm.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

using panels::at;
using panels::Format;
using panels::Order;

// Packed blocks: a strip of b stays in the first cache while the rows pass by, a block of a in the
// second, all of the packed b in the last.
constexpr int64_t kDepth = 512;          // of a block of float32, in float32 products
constexpr int64_t kMostDepth = 2048;     // where the sums may not leave the registers in between
constexpr int64_t kAlone = 1 << 18;      // multiply-adds that keep all threads busy
constexpr int64_t kPackedB = 3 << 20;    // bytes
constexpr int64_t kColumns = 8;          // strips of b that a strip of a meets in a row
constexpr int64_t kPackedA = 256 << 10;  // bytes a thread

void multiply_block(const Format& f, MatrixView a, const char* b, int64_t m, int64_t n, int64_t k,
                    MatrixOut c, bool add, char* scratch) {
  // Rows of the packed type are read where they are.
  const bool as_is =
      f.bf16 ? panels::reads_rows_bf16(a, m, k) : a.type == Type::f32 && a.column == 1;
  char* tile = scratch;
  if (!as_is) {
    panels::pack_a(f, a, m, k, scratch);
    tile += round_up(f.a_bytes(m, k), 64);
  }
  const bool direct = c.type == Type::f32;
  const int64_t tile_ld = kColumns * f.nr;
  for (int64_t j = 0; j < n; j += tile_ld) {
    const int64_t columns = std::min(tile_ld, n - j);
    const char* const strips = b + j / f.nr * f.b_strip(k);
    for (int64_t i = 0; i < m; i += f.mr) {
      const int64_t rows = std::min<int64_t>(f.mr, m - i);
      const MatrixOut out = at(c, i, j);
      float* const to = direct ? static_cast<float*>(out.data) : reinterpret_cast<float*>(tile);
      const int64_t ld = direct ? c.ld : tile_ld;
      if (as_is && f.bf16) {
        panels::multiply_rows_bf16(at(a, i, 0), reinterpret_cast<const uint16_t*>(strips), rows,
                                   columns, k, to, ld, add && direct);
      } else if (as_is) {
        const panels::Strip strip{static_cast<const float*>(at(a, i, 0).data), a.row, 1};
        panels::multiply_f32(strip, reinterpret_cast<const float*>(strips), rows, columns, k, to,
                             ld, add && direct);
      } else {
        panels::multiply(f, scratch + i / f.mr * f.a_strip(k), strips, rows, columns, k, to, ld,
                         add && direct);
      }
      if (!direct) panels::write_tile(to, ld, rows, columns, out, add);
    }
  }
}

// Tasks of a product: blocks of rows, and of columns where the rows are too few for the threads.
struct Cut {
  int64_t rows, columns;  // of a task, multiples of mr and nr
};
Cut cut_for(const Format& f, int64_t m, int64_t n, int64_t k) {
  const int64_t most = std::max<int64_t>(f.mr, kPackedA / (f.element() * k) / f.mr * f.mr);
  const int64_t wanted = threads() == 1 ? 1 : 2 * threads();
  // Blocks of a large enough for b to be worth fetching, of equal size.
  const int64_t blocks =
      std::max((m + most - 1) / most, std::min<int64_t>(wanted, (m + 6 * f.mr - 1) / (6 * f.mr)));
  Cut cut{round_up((m + blocks - 1) / blocks, f.mr), round_up(n, f.nr)};
  const int64_t row_tasks = (m + cut.rows - 1) / cut.rows;
  if (row_tasks < wanted) {
    const int64_t column_tasks =
        std::min((wanted + row_tasks - 1) / row_tasks, (n + f.nr - 1) / f.nr);
    cut.columns = round_up((n + column_tasks - 1) / column_tasks, f.nr);
  }
  return cut;
}

// How a product is blocked, and the memory that takes.
struct Plan {
  Format f;
  int64_t kc, nc;  // depth and columns of a packed block of b
  Cut cut;
  int64_t b_bytes, scratch;  // of that block; of each thread

  int64_t bytes(int64_t threads_inside) const { return b_bytes + threads_inside * scratch; }
};
Plan plan_for(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, Type c) {
  const bool bf16 = a.type == Type::bf16 && b.type != Type::f16;
  Plan p{panels::format(bf16 ? Type::bf16 : Type::f32,
                        a.row == 1 && a.column != 1 ? Order::columns : Order::rows),
         0,
         0,
         {},
         0,
         0};
  const Format& f = p.f;
  const int64_t depth = c == Type::f32 ? std::min(k, f.bf16 ? 2 * kDepth : kDepth) : k;
  const int64_t pieces = (k + depth - 1) / depth;
  p.kc = round_up((k + pieces - 1) / pieces, f.kr);
  p.nc = std::min(round_up(n, f.nr), std::max<int64_t>(f.nr, kPackedB / f.b_strip(p.kc) * f.nr));
  p.cut = cut_for(f, m, p.nc, p.kc);
  p.b_bytes = round_up(f.b_bytes(p.nc, p.kc), 64);
  p.scratch = round_up(f.a_bytes(p.cut.rows, p.kc), 64) + f.mr * kColumns * f.nr * 4;
  return p;
}

// memory: plan.bytes of as many threads as run parts of this product.
void gemm_panels(const Plan& plan, int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b,
                 MatrixOut c, bool add, char* memory) {
  const Format& f = plan.f;
  const int64_t kc = plan.kc, nc = plan.nc;
  const Cut cut = plan.cut;
  const int64_t row_tasks = (m + cut.rows - 1) / cut.rows;
  const bool alone = in_part();
  for (int64_t j = 0; j < n; j += nc) {
    const int64_t columns = std::min(nc, n - j);
    for (int64_t p = 0; p < k; p += kc) {
      const int64_t deep = std::min(kc, k - p);
      const int64_t strips = (columns + f.nr - 1) / f.nr;
      const int64_t column_tasks = (columns + cut.columns - 1) / cut.columns;
      parallel_for(strips, std::max<int64_t>(1, 16384 / (f.nr * deep)),
                   [&](int64_t first, int64_t last) {
                     panels::pack_b(f, at(b, p, j + first * f.nr), deep,
                                    std::min(last * f.nr, columns) - first * f.nr,
                                    memory + first * f.b_strip(deep));
                   });
      parallel_for(row_tasks * column_tasks, 1, [&](int64_t first, int64_t last) {
        char* const mine = memory + plan.b_bytes + (alone ? 0 : slot()) * plan.scratch;
        for (int64_t t = first; t < last; t++) {
          const int64_t i = t / column_tasks * cut.rows;
          const int64_t l = t % column_tasks * cut.columns;
          multiply_block(f, at(a, i, p), memory + l / f.nr * f.b_strip(deep),
                         std::min(cut.rows, m - i), std::min(cut.columns, columns - l), deep,
                         at(c, i, j + l), add || p > 0, mine);
        }
      });
    }
  }
}

// Memory that a thread keeps, as much as its largest product took: some blocks, whatever the sizes.
class OwnRoom {
 public:
  static char* of(int64_t bytes) {
    static thread_local OwnRoom mine;
    if (mine.bytes_ < bytes) {
      mine.bytes_ = round_up(bytes, 4096);
      mine.data_.reset(static_cast<char*>(std::aligned_alloc(64, size_t(mine.bytes_))));
      if (!mine.data_) mine.bytes_ = 0, throw std::bad_alloc();
    }
    return mine.data_.get();
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
  int64_t bytes_ = 0;
};

void fill_zero(int64_t m, int64_t n, MatrixOut c) {
  for (int64_t i = 0; i < m; i++) {
    auto* const row = static_cast<char*>(at(c, i, 0).data);
    std::fill(row, row + n * size_of(c.type), char{0});
  }
}

}  // namespace

bool packs_bf16() {
  return panels::format_bf16().mr != 0;
}

void gemm(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, MatrixOut c, bool add,
          bool counted) {
  if (m <= 0 || n <= 0) return;
  if (n == 1 && m > 1 && c.ld == 1) {  // a matrix times a vector is a vector times its transpose
    return gemm(1, m, k, b.transposed(), a.transposed(), {c.data, c.type, m}, add, counted);
  }
  if (k <= 0) {
    if (!add) fill_zero(m, n, c);
    return;
  }
  if (panels::is_small(m, k, b)) return panels::gemm_small(m, n, k, a, b, c, add);
  const auto product = [&](MatrixOut to, bool more) {
    const Plan plan = plan_for(m, n, k, a, b, to.type);
    const int64_t bytes = plan.bytes(in_part() ? 1 : threads());
    if (!counted) return gemm_panels(plan, m, n, k, a, b, to, more, OwnRoom::of(bytes));
    const Scratch<char> memory(bytes);
    gemm_panels(plan, m, n, k, a, b, to, more, memory.get());
  };
  if (c.type == Type::f32 || k <= kMostDepth) return product(c, add);
  const Scratch<float> sums(m * n);  // too deep for one pass: the sums wait in float32
  float* const wide = sums.get();
  product({wide, Type::f32, n}, false);
  parallel_for(m, std::max<int64_t>(1, 8192 / n), [&](int64_t first, int64_t last) {
    panels::write_tile(wide + first * n, n, last - first, n, at(c, first, 0), add);
  });
}

size_t gemm_workspace(int64_t batch, int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b,
                      MatrixOut c) {
  if (batch <= 0 || m <= 0 || n <= 0 || k <= 0) return 0;
  if (n == 1 && m > 1 && c.ld == 1) {
    return gemm_workspace(batch, 1, m, k, b.transposed(), a.transposed(), {c.data, c.type, m});
  }
  if (panels::is_small(m, k, b)) return 0;
  const bool deep = c.type != Type::f32 && k > kMostDepth;
  using Bytes = Scratch<char>;
  const int64_t own = plan_for(m, n, k, a, b, deep ? Type::f32 : c.type).bytes(threads());
  const bool apart = n > 1 && !deep && !(batch < 2 * threads() && m * n * k >= kAlone);
  if (apart) return Bytes::bytes(threads() * plan_for(m, n, k, a, b, c.type).bytes(1));
  return Bytes::bytes(own) + (deep ? Scratch<float>::bytes(m * n) : 0);
}

void gemm_batched(int64_t batch, BatchStrides strides, int64_t m, int64_t n, int64_t k,
                  MatrixView a, MatrixView b, MatrixOut c, bool add) {
  if (batch <= 0 || m <= 0 || n <= 0) return;
  const auto moved = [](const MatrixView& v, int64_t by) {
    return MatrixView{static_cast<const char*>(v.data) + by * size_of(v.type), v.type, v.row,
                      v.column};
  };
  const auto out = [&](int64_t i) {
    return MatrixOut{static_cast<char*>(c.data) + strides.c * i * size_of(c.type), c.type, c.ld};
  };
  const bool packs =
      k > 0 && n > 1 && !panels::is_small(m, k, b) && (c.type == Type::f32 || k <= kMostDepth);
  // Large products are cut themselves; small ones are dealt out whole.
  if ((batch < 2 * threads() && m * n * k >= kAlone) || !packs) {
    for (int64_t i = 0; i < batch; i++) {
      gemm(m, n, k, moved(a, strides.a * i), moved(b, strides.b * i), out(i), add);
    }
    return;
  }
  const Plan plan = plan_for(m, n, k, a, b, c.type);
  const bool alone = in_part();
  const Scratch<char> memory((alone ? 1 : threads()) * plan.bytes(1));
  parallel_for(batch, std::max<int64_t>(1, kAlone / 2 / (m * n * k)),
               [&](int64_t first, int64_t last) {
                 char* const mine = memory.get() + (alone ? 0 : slot()) * plan.bytes(1);
                 for (int64_t i = first; i < last; i++) {
                   gemm_panels(plan, m, n, k, moved(a, strides.a * i), moved(b, strides.b * i),
                               out(i), add, mine);
                 }
               });
}

namespace panels {

Format format(Type type, Order order) {
  if (type == Type::bf16) {
    Format f = format_bf16();
    f.order = order;
    if (f.mr != 0) return f;
  }
  return format_f32(order);
}

void pack_a(const Format& f, MatrixView a, int64_t m, int64_t k, void* to) {
  if (f.bf16) return pack_a_bf16(f, a, m, k, static_cast<uint16_t*>(to));
  pack_a_f32(f, a, m, k, static_cast<float*>(to));
}

void pack_b(const Format& f, MatrixView b, int64_t k, int64_t n, void* to) {
  if (f.bf16) return pack_b_bf16(f, b, k, n, static_cast<uint16_t*>(to));
  pack_b_f32(f, b, k, n, static_cast<float*>(to));
}

void multiply(const Format& f, const void* a, const void* b, int64_t m, int64_t n, int64_t k,
              float* c, int64_t ld, bool add) {
  for (int64_t i = 0; i < m; i += f.mr) {
    const int64_t rows = std::min<int64_t>(f.mr, m - i);
    const char* const strip = static_cast<const char*>(a) + i / f.mr * f.a_strip(k);
    if (f.bf16) {
      multiply_bf16(f, reinterpret_cast<const uint16_t*>(strip), static_cast<const uint16_t*>(b),
                    rows, n, k, c + i * ld, ld, add);
    } else {
      const bool by_rows = f.order == Order::rows;
      const Strip packed{reinterpret_cast<const float*>(strip), by_rows ? k : 1,
                         by_rows ? 1 : f.mr};
      multiply_f32(packed, static_cast<const float*>(b), rows, n, k, c + i * ld, ld, add);
    }
  }
}

}  // namespace panels
}  // namespace lmxlab::kernels
