// Products with quantized weights in memory, cut over the pool.
#include <algorithm>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/quantized_parts.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

constexpr int64_t kMoreFloats = 8;         // read, not used, behind scales and sums
constexpr int64_t kBytesApart = 16 << 10;  // of weights, worth another thread
constexpr int64_t kPartsEach = 8;          // of a product, for a thread
constexpr int64_t kHiddenApart = 128;      // hidden values of a part: four blocks, a group at most
constexpr int64_t kRowsAtOnce = 4;         // of weights, in a kernel
constexpr int64_t kMostRows = 64;          // in a call of it
constexpr int64_t kRowsTogether = 512;     // rows of x that meet a panel
constexpr int64_t kDepth = 768;            // of a panel, at most
constexpr int64_t kColumns = 256;          // of a panel, at most

// x [m, in], quantized as a kernel wants it.
class QuantizedRows {
 public:
  QuantizedRows(const FewProduct& p, int64_t m)
      : layout_(p.kernel.layout), step_(step_of(p.w.format)), row_(p.w.in / kBlock) {
    padded_ = round_up(row_, layout_.group);
    q_bytes_ = m * padded_ * layout_.block_bytes();
    floats_ = m * padded_ * kBlock / step_;
  }
  int64_t bytes() const { return round_up(q_bytes_ + 4 * (2 * floats_ + kMoreFloats), 64); }
  bool same(const QuantizedRows& other) const {
    return layout_ == other.layout_ && step_ == other.step_;
  }
  void lie_at(char* room) {
    q_ = reinterpret_cast<int8_t*>(room);
    scale_ = reinterpret_cast<float*>(room + q_bytes_);
  }
  void fill(Type type, const void* x, int64_t m, char* room) {
    lie_at(room);
    parallel_for(m, std::max<int64_t>(1, 256 / row_), [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; i++) fill_row(type, x, i, 0, row_);
    });
  }
  /// Blocks [first, last) of row i; both on the limit of a group, or at the end.
  void fill_row(Type type, const void* x, int64_t i, int64_t first, int64_t last) const {
    const auto* from = static_cast<const char*>(x) + (i * row_ + first) * kBlock * size_of(type);
    const int64_t at = i * padded_ + first, s = at * kBlock / step_;
    quantize_blocks(type, from, last - first, step_, layout_, q_ + at * layout_.block_bytes(),
                    scale_ + s, scale_ + floats_ + s);
  }
  /// Row i from a block on.
  ActivationRow at(int64_t i, int64_t block) const {
    const int64_t from = i * padded_ + block, s = from * kBlock / step_;
    return {q_ + from * layout_.block_bytes(), scale_ + s, scale_ + floats_ + s};
  }

 private:
  Layout layout_;
  int step_;
  int64_t row_, padded_, q_bytes_, floats_;  // blocks of a row, in whole groups
  int8_t* q_ = nullptr;
  float* scale_ = nullptr;
};

// Columns [first, last) of y. Several rows of w go together, since kernels use a piece of x for
// four of them.
void multiply_rows(const FewProduct& product, const QuantizedRows& x, int64_t m, int64_t first,
                   int64_t last) {
  const auto& [w, kernel, y] = product;
  const bool unpacks = !kernel.own_scales || !kernel.in_place;
  const Unpacker unpack = unpacks ? unpacker(w) : Unpacker{};
  const int64_t row = w.in / kBlock, bytes = row_bytes(w);
  const int64_t wide = kernel.own_scales ? row : std::min(row, kChunkBlocks / kRowsAtOnce);
  const int64_t together =
      kernel.own_scales ? kMostRows
                        : std::min(kMostRows, kChunkBlocks / wide / kRowsAtOnce * kRowsAtOnce);
  Unpacked chunk;
  for (int64_t r = first; r < last; r += together) {
    const int64_t rows = std::min(together, last - r);
    float out[kFewRows][kMostRows];
    for (int64_t at = 0; at < row; at += wide) {
      const int64_t n = std::min(wide, row - at), block = r * row + at;
      WeightRows weights{w.bytes + block * bytes / row, bytes, chunk.scale, chunk.offset,
                         w.bytes + w.out * bytes,       &w,    block};
      const int64_t runs = n == row ? 1 : rows, run = n == row ? rows * n : n;
      for (int64_t i = 0; i < runs; i++) {
        const int64_t from = block + i * row, to = i * n * kBlock / step_of(w.format);
        if (!kernel.own_scales) {
          unpack.scales(w, from, run, chunk.scale + to, chunk.offset + to);
        }
        if (!kernel.in_place) unpack.values(w, from, run, chunk.q + i * n * kBlock);
      }
      if (!kernel.in_place) {
        weights.q = reinterpret_cast<const uint8_t*>(chunk.q), weights.stride = n * kBlock;
      }
      ActivationRow some[kFewRows];
      for (int64_t i = 0; i < m; i++) some[i] = x.at(i, at);
      kernel.dot(weights, rows, n, {some, m, out[0], kMostRows}, at > 0);
    }
    panels::write_tile(out[0], kMostRows, m, rows, panels::at(y, 0, r), false);
  }
}

// x as each of the products wants it; those that agree share it.
std::vector<QuantizedRows> quantize_for(const std::vector<FewProduct>& products, int64_t m,
                                        Type type, const void* x, char* room) {
  std::vector<QuantizedRows> rows;
  for (const auto& p : products) {
    rows.emplace_back(p, m);
    if (rows.size() > 1 && rows.back().same(rows.front())) {
      rows.back() = rows.front();
    } else {
      rows.back().fill(type, x, m, room);
      room += rows.back().bytes();
    }
  }
  return rows;
}

void multiply_all(const std::vector<FewProduct>& products, const std::vector<QuantizedRows>& rows,
                  int64_t m) {
  struct Part {
    size_t product;
    int64_t first, last;  // rows of w
  };
  int64_t all = 0;
  for (const auto& p : products) all += p.w.out * row_bytes(p.w);
  const int64_t share = std::max(kBytesApart, all / (kPartsEach * threads()));
  std::vector<Part> parts;
  for (size_t i = 0; i < products.size(); i++) {
    const auto& w = products[i].w;
    const int64_t together = w.interleaved ? kTileRows : kRowsAtOnce;
    const int64_t strips = (w.out + together - 1) / together;
    const int64_t n = std::clamp<int64_t>(w.out * row_bytes(w) / share, 1, strips);
    const auto cut = [&](int64_t j) { return std::min(w.out, strips * j / n * together); };
    for (int64_t j = 0; j < n; j++) parts.push_back({i, cut(j), cut(j + 1)});
  }
  parallel_parts(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const auto& part = parts[i];
    multiply_rows(products[part.product], rows[part.product], m, part.first, part.last);
  });
}

}  // namespace

void rows_to_numbers(const QuantView& w, int64_t first, int64_t last, int64_t begin, int64_t end,
                     Type type, void* to) {
  const Unpacker unpack = unpacker(w);
  Unpacked chunk;
  auto* at = static_cast<char*>(to);
  const int step = step_of(w.format);
  const int64_t row = w.in / kBlock, most = kChunkBlocks;
  for (int64_t r = first; r < last; r++) {
    for (int64_t b = begin / kBlock; b < end / kBlock; b += most) {
      const int64_t n = std::min(most, end / kBlock - b);
      unpack(w, r * row + b, n, chunk);
      to_numbers(chunk, n, step, type, at);
      at += n * kBlock * size_of(type);
    }
  }
}

int64_t few_room(const std::vector<FewProduct>& products, int64_t m) {
  int64_t bytes = 0;
  for (const auto& p : products) bytes += QuantizedRows(p, m).bytes();
  return bytes;
}

void multiply_few(const std::vector<FewProduct>& products, int64_t m, Type type, const void* x,
                  char* room) {
  multiply_all(products, quantize_for(products, m, type, x, room), m);
}

int64_t mlp_room(const FewMlp& mlp, int64_t m, Type type) {
  const auto hidden = static_cast<int64_t>(mlp.up.size()) * m * mlp.down.w.in * size_of(type);
  return few_room(mlp.up, m) + QuantizedRows(mlp.down, m).bytes() + round_up(hidden, 64);
}

void mlp_few(const FewMlp& mlp, int64_t m, Type type, const void* x, char* room) {
  const int64_t hidden = mlp.down.w.in, unit = kHiddenApart, bytes = size_of(type);
  QuantizedRows inner(mlp.down, m);
  inner.lie_at(room);
  room += inner.bytes();
  auto up = mlp.up;
  const auto rows = quantize_for(up, m, type, x, room);
  room += few_room(up, m);
  for (auto& p : up) {
    p.y = {room, type, hidden};
    room += m * hidden * bytes;
  }
  // A part makes its share of the hidden values ready for the second product.
  parallel_parts((hidden + unit - 1) / unit, [&](int64_t part) {
    const int64_t first = part * unit, last = std::min(hidden, first + unit);
    for (size_t i = 0; i < up.size(); i++) multiply_rows(up[i], rows[i], m, first, last);
    for (int64_t i = 0; i < m; i++) {
      const auto at = [&](const FewProduct& p) {
        return static_cast<char*>(p.y.data) + (i * hidden + first) * bytes;
      };
      activate_values(mlp.activation, type, at(up[0]), up.size() > 1 ? at(up[1]) : nullptr,
                      at(up[0]), last - first);
      inner.fill_row(type, up[0].y.data, i, first / kBlock, (last + kBlock - 1) / kBlock);
    }
  });
  multiply_all({mlp.down}, {inner}, m);
}

namespace {

// How a product of many rows is cut.
struct ManyCut {
  int64_t n, k, columns, depth, pieces, rows;
  Type element;
  MatrixView whole;  // x
  bool as_is;        // rows of bfloat16 are read where they are

  ManyCut(const QuantView& w, bool across, const panels::Format& format, int64_t m, Type type,
          const void* x)
      : n(across ? w.in : w.out),
        k(across ? w.out : w.in),
        rows(std::min(m, kRowsTogether)),
        element(format.bf16 ? Type::bf16 : Type::f32),
        whole{x, type, k, 1} {
    // Columns of a panel: as many for each thread, in whole strips and, along w's rows, whole
    // blocks.
    const int64_t unit =
        across ? std::max<int64_t>(format.nr, kBlock * blocks_together(w)) : format.nr;
    const int64_t shares = threads() * ((n + threads() * kColumns - 1) / (threads() * kColumns));
    columns = round_up((n + shares - 1) / shares, unit);
    pieces = (k + kDepth - 1) / kDepth;
    depth = round_up((k + pieces - 1) / pieces, kBlock * blocks_together(w));
    as_is = format.bf16 && panels::reads_rows_bf16(whole, m, k);
  }
  int64_t packed_bytes(const panels::Format& format) const {
    return as_is ? 0 : format.a_bytes(rows, pieces * depth);
  }
  int64_t numbers_bytes(int64_t width) const {
    return round_up(width * depth * size_of(element), 64);
  }
  int64_t part_bytes(const panels::Format& format) const {
    const int64_t width = std::min(n, columns);
    return round_up(numbers_bytes(width) + format.b_bytes(width, depth) + rows * width * 4, 64);
  }
};

}  // namespace

Type many_rows_type(Type x, Activations activations) {
  const bool coarse = activations == Activations::int8 || activations == Activations::bf16;
  return x == Type::bf16 || (coarse && !one_order()) ? Type::bf16 : Type::f32;
}

size_t many_room(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                 Type type) {
  const ManyCut cut(w, across, format, m, type, nullptr);
  return Scratch<char>::bytes(cut.packed_bytes(format)) +
         Scratch<char>::bytes(threads() * cut.part_bytes(format));
}

size_t many_room_in_part(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                         Type type) {
  const ManyCut cut(w, across, format, m, type, nullptr);
  return Scratch<char>::bytes(cut.packed_bytes(format)) +
         Scratch<char>::bytes(cut.part_bytes(format));
}

void multiply_many(const QuantView& w, bool across, const panels::Format& format, int64_t m,
                   Type type, const void* x, MatrixOut y) {
  const ManyCut cut(w, across, format, m, type, x);
  const auto [n, k, columns, depth, pieces, rows, element, whole, as_is] = cut;
  const Scratch<char> packed(cut.packed_bytes(format));
  const bool alone = in_part();
  const Scratch<char> rooms((alone ? 1 : threads()) * cut.part_bytes(format));
  for (int64_t i = 0; i < m; i += rows) {
    const int64_t height = std::min(rows, m - i);
    const auto strip = [&](int64_t p, int64_t r) {  // of x, from row r on
      return packed.get() + p / depth * format.a_bytes(height, depth) +
             r / format.mr * format.a_strip(std::min(depth, k - p));
    };
    if (!as_is) {
      const int64_t strips = (height + format.mr - 1) / format.mr;
      parallel_for(strips, 1, [&](int64_t first, int64_t last) {
        const int64_t from = first * format.mr, to = std::min(height, last * format.mr);
        for (int64_t p = 0; p < k; p += depth) {
          panels::pack_a(format, panels::at(whole, i + from, p), to - from, std::min(depth, k - p),
                         strip(p, from));
        }
      });
    }
    parallel_parts((n + columns - 1) / columns, [&](int64_t part) {
      const int64_t j = part * columns, width = std::min(columns, n - j);
      const int64_t numbers_bytes = cut.numbers_bytes(width);
      char *const numbers = rooms.get() + (alone ? 0 : slot()) * cut.part_bytes(format),
                  *const b = numbers + numbers_bytes;
      auto* const sums = reinterpret_cast<float*>(b + format.b_bytes(width, depth));
      for (int64_t p = 0; p < k; p += depth) {
        const int64_t deep = std::min(depth, k - p);
        if (across) {
          rows_to_numbers(w, p, p + deep, j, j + width, element, numbers);
          panels::pack_b(format, {numbers, element, width, 1}, deep, width, b);
        } else {
          rows_to_numbers(w, j, j + width, p, p + deep, element, numbers);
          panels::pack_b(format, {numbers, element, 1, deep}, deep, width, b);
        }
        if (!as_is) {
          panels::multiply(format, strip(p, 0), b, height, width, deep, sums, width, p > 0);
          continue;
        }
        for (int64_t r = 0; r < height; r += format.mr) {
          panels::multiply_rows_bf16(panels::at(whole, i + r, p),
                                     reinterpret_cast<const uint16_t*>(b),
                                     std::min<int64_t>(format.mr, height - r), width, deep,
                                     sums + r * width, width, p > 0);
        }
      }
      panels::write_tile(sums, width, height, width, panels::at(y, i, j), false);
    });
  }
}

}  // namespace lmxlab::kernels
