// A quantized weight as ops keep it and as their tasks read it.
#pragma once

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/quantized.h"

namespace lmxlab::kernels {

// A weight whose numbers are there. It is no input of its op but a part of it: MLX looks at every
// input of every step, and of the inputs of a token nine in ten are weights.
struct Resident {
  Arrays arrays;
  QuantView view;
};

inline bool is_there(const mlx::core::array& a) {
  return !a.is_tracer() && a.is_available() && a.flags().row_contiguous;
}

// What an op keeps of a weight. Its arrays are inputs unless they are there already.
struct QuantSpec {
  QuantFormat format;
  int out, in, group, bits;
  bool interleaved, has_biases;
  std::shared_ptr<const Resident> resident = {};

  /// @param kernels  whether kernels of ours will read it, not ordinary ops.
  QuantSpec(const QuantizedWeight& w, bool kernels)
      : format(w.format),
        out(w.out),
        in(w.in),
        group(w.group),
        bits(w.bits),
        interleaved(w.interleaved),
        has_biases(w.biases.has_value()) {
    if (!kernels) return;
    if ((resident = w.resident)) return;
    Arrays all = arrays_of(w);
    if (!std::all_of(all.begin(), all.end(), is_there)) return;
    auto v = view();
    v.bytes = all[0].data<uint8_t>();
    if (format == QuantFormat::affine) {
      v.scale_type = type_of(all[1].dtype());
      v.scales = all[1].data<void>();
      if (has_biases) v.biases = all[2].data<void>();
    }
    resident = std::make_shared<const Resident>(Resident{std::move(all), v});
  }
  bool operator==(const QuantSpec& other) const {
    const auto shape = [](const QuantSpec& s) {
      return std::tie(s.format, s.out, s.in, s.group, s.bits, s.interleaved, s.has_biases);
    };
    if (shape(*this) != shape(other) || !resident != !other.resident) return false;
    if (!resident) return true;
    const auto memory = [](const QuantSpec& s) {
      const auto& v = s.resident->view;
      return std::tie(v.bytes, v.scales, v.biases);
    };
    return memory(*this) == memory(other);
  }
  /// The weight that is there.
  QuantizedWeight weight() const {
    const auto& a = resident->arrays;
    QuantizedWeight w{format, out, in, a[0]};
    if (format == QuantFormat::affine) w.scales = a[1];
    if (has_biases) w.biases = a[2];
    w.group = group, w.bits = bits, w.interleaved = interleaved;
    return w;
  }
  /// Without its memory.
  QuantView view() const {
    QuantView v{format, out, in, nullptr};
    v.bits = bits, v.group = group, v.interleaved = interleaved;
    return v;
  }
  size_t inputs() const {
    return resident ? 0 : 1 + size_t{format == QuantFormat::affine} + size_t{has_biases};
  }
  void append_to(Arrays& in_arrays, const QuantizedWeight& w) const {
    if (resident) return;
    const auto all = arrays_of(w);
    in_arrays.insert(in_arrays.end(), all.begin(), all.end());
  }
  /// Its arrays, of an op's inputs from `first` on.
  Arrays arrays(const Arrays& in_arrays, size_t first) const {
    if (resident) return resident->arrays;
    const auto from = in_arrays.begin() + static_cast<int64_t>(first);
    return {from, from + static_cast<int64_t>(inputs())};
  }
  static Arrays arrays_of(const QuantizedWeight& w) {
    Arrays all{w.packed};
    if (w.scales) all.push_back(*w.scales);
    if (w.biases) all.push_back(*w.biases);
    return all;
  }
};

// A weight for a task, which holds what is no input.
class Operand {
 public:
  Operand(const QuantSpec& spec, const Arrays& in, size_t first)
      : view_(spec.view()), resident_(spec.resident) {
    if (resident_) return;
    for (size_t i = 0; i < spec.inputs(); i++) parts_.emplace_back(in[first + i]);
    if (parts_.size() > 1) view_.scale_type = type_of(in[first + 1].dtype());
  }
  /// Once, in the task.
  QuantView view() const {
    if (resident_) return resident_->view;
    auto v = view_;
    v.bytes = static_cast<const uint8_t*>(parts_[0].read());
    if (parts_.size() > 1) v.scales = parts_[1].read();
    if (parts_.size() > 2) v.biases = parts_[2].read();
    return v;
  }

 private:
  QuantView view_;
  std::shared_ptr<const Resident> resident_;
  std::vector<Dense> parts_;
};

}  // namespace lmxlab::kernels
