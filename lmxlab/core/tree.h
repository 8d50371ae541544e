// The parameter tree: layers are plain structs with one visit(), which is the only list of their
// parameters. Names, freezing, loading, counting, adapters and the flat view for gradients are
// walks over it. No copy of a parameter is registered anywhere: assigning to an mx::array rebinds
// it, and a copy would go stale.
#pragma once

#include "lmxlab/base/error.h"

#include <mlx/array.h>

#include <concepts>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;

namespace core {

using Arrays = std::vector<mx::array>;

/// A leaf of the tree.
struct Param {
  mx::array value;
  bool trainable = true;
};

class Linear;
struct Embedding;
struct ExpertLinear;

/// Walks fields in the order of their declaration and keeps the dotted path.
class Visitor {
 public:
  virtual ~Visitor() = default;
  virtual void leaf(const std::string& /*path*/, Param&) {}
  /// Hooks for what changes a layer as a whole: quantize, adapt, fuse.
  virtual void linear(const std::string& /*path*/, Linear&) {}
  virtual void embedding(const std::string& /*path*/, Embedding&) {}
  virtual void experts(const std::string& /*path*/, ExpertLinear&) {}

  /// A Param, a list (by index), an optional or pointer (where set), or a struct with visit().
  /// An empty name adds nothing to the path.
  template <class T>
  void operator()(std::string_view name, T& field) {
    const auto mark = path_.size();
    if (!name.empty()) {
      if (!path_.empty()) path_ += '.';
      path_ += name;
    }
    if constexpr (std::same_as<T, Param>) {
      leaf(path_, field);
    } else if constexpr (requires {
                           field.size();
                           field[0];
                         }) {
      for (size_t i = 0; i < field.size(); ++i) (*this)(std::to_string(i), field[i]);
    } else if constexpr (requires {
                           *field;
                           static_cast<bool>(field);
                         }) {
      if (field) (*this)("", *field);
    } else {
      if constexpr (std::same_as<T, Linear>) linear(path_, field);
      if constexpr (std::same_as<T, Embedding>) embedding(path_, field);
      if constexpr (std::same_as<T, ExpertLinear>) experts(path_, field);
      field.visit(*this);
    }
    path_.resize(mark);
  }

 private:
  std::string path_;
};

/// A parameter and its path. Short-lived: collect again after any change of the tree's structure.
struct Entry {
  std::string path;
  Param* param;
};

/// The flat view, in declaration order.
template <class M, class Keep>
std::vector<Entry> collect(M& model, Keep keep) {
  struct Collector : Visitor {
    Keep& keep;
    std::vector<Entry> out;
    explicit Collector(Keep& k) : keep(k) {}
    void leaf(const std::string& path, Param& p) override {
      if (keep(path, p)) out.push_back({path, &p});
    }
  } collector(keep);
  model.visit(collector);
  return std::move(collector.out);
}
template <class M>
std::vector<Entry> collect(M& model) {
  return collect(model, [](const std::string&, const Param&) { return true; });
}
template <class M>
std::vector<Entry> collect_trainable(M& model) {
  return collect(model, [](const std::string&, const Param& p) { return p.trainable; });
}

/// Elements of all parameters, frozen ones included. Nothing is evaluated.
int64_t count(std::span<const Entry> entries);
int64_t bytes(std::span<const Entry> entries);
Arrays values(std::span<const Entry> entries);

/// What a load found, all at once.
struct LoadReport {
  std::vector<std::string> missing, unused, misshapen, mistyped;
  bool ok() const {
    return missing.empty() && unused.empty() && misshapen.empty() && mistyped.empty();
  }
  std::string text() const;
};

using Tensors = std::map<std::string, mx::array>;

/// Matches tensors with entries by path; nothing is assigned unless everything fits.
/// A float parameter takes any float type; integer (packed) ones must agree exactly.
LoadReport match(std::span<const Entry> entries, const Tensors& tensors);
/// @throws Error(mismatch) with the whole report; the model is unchanged then.
void load(std::span<const Entry> entries, const Tensors& tensors, const std::string& name);

/// Puts arrays (tracers) into entries, and always takes them out again.
class Lend {
 public:
  /// @param with  one array an entry, shapes as they are.
  Lend(std::span<const Entry> to, std::span<const mx::array> with);
  ~Lend();
  Lend(const Lend&) = delete;
  Lend& operator=(const Lend&) = delete;

 private:
  std::span<const Entry> to_;
  Arrays saved_;
};

}  // namespace core
}  // namespace lmxlab
