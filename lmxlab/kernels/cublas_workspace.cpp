#include "lmxlab/kernels/cublas_workspace.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <tuple>

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Side = CublasProduct::Side;

bool in_rows(const array& x) {
  return x.strides(-1) == 1 && x.strides(-2) == x.shape(-1);
}
bool in_columns(const array& x) {
  return x.strides(-2) == 1 && x.strides(-1) == x.shape(-2);
}
// What is copied lies in rows then.
Side side_of(const array& x) {
  const bool transposed = !in_rows(x) && in_columns(x);
  return {transposed, x.shape(transposed ? -2 : -1), 0};
}
// Strides of the axes before the last two.
std::vector<int64_t> batch_strides(const array& x, bool copied) {
  std::vector<int64_t> strides(x.strides().begin(), x.strides().end() - 2);
  if (!copied) return strides;
  int64_t next = int64_t(x.shape(-1)) * x.shape(-2);
  for (int i = int(x.ndim()) - 3; i >= 0; i--) strides[size_t(i)] = next, next *= x.shape(i);
  return strides;
}

struct Batches {
  std::vector<int64_t> shape;
  std::vector<std::vector<int64_t>> strides;  // of each side
};
// Axes that follow each other in all of them become one; MLX asks it of axes of length one too.
Batches collapse(const array& first, std::vector<std::vector<int64_t>> strides) {
  Batches some{{}, std::vector<std::vector<int64_t>>(strides.size())};
  bool open = false;
  for (size_t axis = 0; axis + 2 < first.ndim(); axis++) {
    const int64_t length = first.shape(int(axis));
    for (const auto& s : strides) open &= axis == 0 || s[axis] * length == s[axis - 1];
    if (length == 1) continue;
    if (open)
      some.shape.back() *= length;
    else
      some.shape.push_back(length);
    for (size_t i = 0; i < strides.size(); i++) {
      if (!open) some.strides[i].push_back(0);
      some.strides[i].back() = strides[i][axis];
    }
    open = true;
  }
  if (some.shape.empty()) {
    some.shape.push_back(1);
    for (auto& s : some.strides) s.push_back(0);
  }
  return some;
}

// The library's C interface by its numbers, which a major version keeps (cublasLt.h,
// library_types.h): its headers come with a toolkit that nobody needs to have.
enum : int { kRealFloat = 0, kRealDouble = 1, kRealHalf = 2, kRealBfloat = 14 };
enum : int { kCompute32 = 68, kCompute64 = 70, kComputeTf32 = 77 };
enum : int { kPointerMode = 2, kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBias = 8 };
enum : int { kBatchCount = 5, kBatchStride = 6, kBatchMode = 8 };
enum : int { kMostWorkspace = 1, kByPointers = 1, kAddRow = 4 };

std::atomic<bool> g_tf32{true};

using Handle = void*;
struct Choice {
  std::array<uint64_t, 8> algorithm;
  size_t workspace;
  int state;
  float waves;
  std::array<int, 4> reserved;
};

template <class F>
F named(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}
using SetAttribute = int (*)(Handle, int, const void*, size_t);
using Destroy = int (*)(Handle);

class Library {
 public:
  // Left open: it may be closed before the last of the program's own objects.
  static Library& get() {
    static auto& library = *new Library;
    return library;
  }

  size_t workspace(const CublasProduct& p) {
    if (!handle_) return 0;
    const std::lock_guard lock(mutex_);
    const auto [at, is_new] = known_.try_emplace(key(p), 0);
    if (is_new) at->second = ask(p);
    return at->second;
  }

 private:
  Library() {
    const auto create = named<int (*)(Handle*)>("cublasLtCreate");
    const auto create_preference = named<int (*)(Handle*)>("cublasLtMatmulPreferenceCreate");
    const auto set_preference = named<SetAttribute>("cublasLtMatmulPreferenceSetAttribute");
    const auto start = named<int (*)(unsigned)>("cuInit");
    const auto capability = named<int (*)(int*, int, int)>("cuDeviceGetAttribute");
    if (!create || !create_preference || !set_preference || !start || !capability || !describe_ ||
        !set_description_ || !destroy_description_ || !lay_out_ || !set_layout_ ||
        !destroy_layout_ || !choose_)
      return;
    constexpr int kMajor = 75;  // the compute capability
    int major = 0;
    Handle handle = nullptr;
    if (start(0) || capability(&major, kMajor, 0) || create(&handle) ||
        create_preference(&preference_))
      return;
    const uint64_t most = uint64_t(major >= 9 ? 32 : 4) << 20;  // MLX's own limits
    if (set_preference(preference_, kMostWorkspace, &most, sizeof most)) return;
    handle_ = handle;
  }

  using Key =
      std::tuple<int, std::array<uint64_t, 3>, std::array<int64_t, 9>, int32_t, bool, bool, bool>;
  static Key key(const CublasProduct& p) {
    const Side c = p.c.value_or(Side{});
    return {int(p.dtype.val()),
            {p.rows, p.columns, p.inner},
            {p.a.transposed, p.a.leading, p.a.batch_stride, p.b.transposed, p.b.leading,
             p.b.batch_stride, c.transposed, c.leading, c.batch_stride},
            p.batch,
            p.by_pointers,
            p.bias,
            p.c.has_value()};
  }

  // What is destroyed with the question.
  struct Owned {
    Handle handle = nullptr;
    Destroy destroy = nullptr;
    Owned(Destroy d) : destroy(d) {}
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
      if (handle) destroy(handle);
    }
  };

  bool lay_out(Owned& matrix, const CublasProduct& p, int type, uint64_t rows, uint64_t columns,
               Side side) {
    if (side.transposed) std::swap(rows, columns);
    if (lay_out_(&matrix.handle, type, rows, columns, side.leading)) return false;
    const auto set = [&](int attribute, auto value) {
      return set_layout_(matrix.handle, attribute, &value, sizeof value) == 0;
    };
    if (p.by_pointers) return set(kBatchMode, uint32_t(kByPointers)) && set(kBatchCount, p.batch);
    return p.batch == 1 || (set(kBatchCount, p.batch) && set(kBatchStride, side.batch_stride));
  }

  // In its columns where MLX has rows: the second matrix comes first.
  size_t ask(const CublasProduct& p) {
    int type = kRealFloat, compute = g_tf32 ? kComputeTf32 : kCompute32;
    if (p.dtype == mx::float16 || p.dtype == mx::bfloat16) {
      type = p.dtype == mx::float16 ? kRealHalf : kRealBfloat;
      compute = kCompute32;
    } else if (p.dtype == mx::float64) {
      type = kRealDouble, compute = kCompute64;
    } else if (p.dtype != mx::float32) {
      return 0;
    }
    Owned description(destroy_description_);
    if (describe_(&description.handle, compute, type == kRealDouble ? kRealDouble : kRealFloat))
      return 0;
    const auto set = [&](int attribute, auto value) {
      return set_description_(description.handle, attribute, &value, sizeof value) == 0;
    };
    if (!set(kTransposeA, int(p.b.transposed)) || !set(kTransposeB, int(p.a.transposed)) ||
        !set(kPointerMode, 0))
      return 0;
    // Any address: it is only known whether there is one.
    if (p.bias && (!set(kEpilogue, int(kAddRow)) || !set(kBias, static_cast<void*>(this))))
      return 0;
    Owned a(destroy_layout_), b(destroy_layout_), c(destroy_layout_), out(destroy_layout_);
    const Side whole{false, int64_t(p.columns), int64_t(p.rows * p.columns)};
    if (!lay_out(a, p, type, p.columns, p.inner, p.b) ||
        !lay_out(b, p, type, p.inner, p.rows, p.a) ||
        !lay_out(out, p, type, p.columns, p.rows, whole) ||
        (p.c && !lay_out(c, p, type, p.columns, p.rows, *p.c)))
      return 0;
    Choice choice{};
    int found = 0;
    if (choose_(handle_, description.handle, a.handle, b.handle, p.c ? c.handle : out.handle,
                out.handle, preference_, 1, &choice, &found) ||
        !found)
      return 0;
    return choice.workspace;
  }

  Handle handle_ = nullptr, preference_ = nullptr;
  std::mutex mutex_;
  std::map<Key, size_t> known_;

  int (*describe_)(Handle*, int, int) = named<decltype(describe_)>("cublasLtMatmulDescCreate");
  SetAttribute set_description_ = named<SetAttribute>("cublasLtMatmulDescSetAttribute");
  Destroy destroy_description_ = named<Destroy>("cublasLtMatmulDescDestroy");
  int (*lay_out_)(Handle*, int, uint64_t, uint64_t,
                  int64_t) = named<decltype(lay_out_)>("cublasLtMatrixLayoutCreate");
  SetAttribute set_layout_ = named<SetAttribute>("cublasLtMatrixLayoutSetAttribute");
  Destroy destroy_layout_ = named<Destroy>("cublasLtMatrixLayoutDestroy");
  int (*choose_)(Handle, Handle, Handle, Handle, Handle, Handle, Handle, int, Choice*,
                 int*) = named<decltype(choose_)>("cublasLtMatmulAlgoGetHeuristic");
};

}  // namespace

bool lies_as_matrix(const array& x) {
  return in_rows(x) || in_columns(x);
}

std::optional<CublasProduct> cublas_product(const std::vector<array>& inputs, const array& out) {
  const auto &a = inputs[0], &b = inputs[1];
  if (!out.size() || !a.size()) return std::nullopt;
  CublasProduct p;
  p.dtype = a.dtype();
  p.rows = uint64_t(a.shape(-2)), p.columns = uint64_t(b.shape(-1));
  p.inner = uint64_t(a.shape(-1));
  p.a = side_of(a), p.b = side_of(b);
  std::vector<std::vector<int64_t>> strides{batch_strides(a, !lies_as_matrix(a)),
                                            batch_strides(b, !lies_as_matrix(b))};
  if (inputs.size() == 3) {
    const auto& c = inputs[2];
    p.bias = c.strides(-1) == 1 && c.data_size() == size_t(out.shape(-1));
    if (!p.bias) {
      const int64_t rows = c.strides(-2);
      const bool as_it_is = c.strides(-1) == 1 && (rows == c.shape(-1) || rows == 0);
      p.c = Side{false, as_it_is ? rows : c.shape(-1), 0};
      strides.push_back(batch_strides(c, !as_it_is));
    }
  }
  const auto batches = collapse(a, strides);
  const int64_t count = int64_t(out.size() / (p.rows * p.columns));
  p.a.batch_stride = batches.strides[0].back(), p.b.batch_stride = batches.strides[1].back();
  if (p.c) p.c->batch_stride = batches.strides[2].back();
  const int64_t rows_of_a = lies_as_matrix(a) ? a.strides(-2) : a.shape(-1);
  const bool one = count > 1 && !p.a.transposed && batches.shape.size() == 1 &&
                   rows_of_a == int64_t(p.inner) && p.a.batch_stride == int64_t(p.rows * p.inner) &&
                   p.b.batch_stride == 0 &&
                   (!p.c || p.c->batch_stride == int64_t(p.rows) * p.c->leading);
  if (one) {  // rows that follow each other are rows of one product
    p.rows *= uint64_t(count);
    p.a.batch_stride = p.b.batch_stride = 0;
    if (p.c) p.c->batch_stride = 0;
  } else {
    p.by_pointers = batches.shape.size() > 1;
    p.batch = int32_t(p.by_pointers ? count : batches.shape.back());
  }
  const bool vector = (p.rows == 1 && p.b.transposed) || (p.columns == 1 && !p.a.transposed);
  if (inputs.size() == 2 && vector) return std::nullopt;
  return p;
}

void set_tf32(bool on) {
  g_tf32 = on;
}

size_t cublas_workspace(const CublasProduct& product) {
  return Library::get().workspace(product);
}

}  // namespace lmxlab::kernels
