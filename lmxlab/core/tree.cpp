#include "lmxlab/core/tree.h"

#include "lmxlab/base/text.h"

#include <mlx/dtype.h>
#include <mlx/utils.h>

#include <sstream>

namespace lmxlab::core {
namespace {

bool is_float(mx::Dtype t) {
  return mx::issubdtype(t, mx::floating);
}

std::string dtype_text(mx::Dtype t) {
  std::ostringstream out;
  out << t;
  return out.str();
}

std::string shape_text(const mx::Shape& shape) {
  std::vector<std::string> parts;
  for (auto d : shape) parts.push_back(std::to_string(d));
  return "[" + join(parts, ", ") + "]";
}

}  // namespace

int64_t count(std::span<const Entry> entries) {
  int64_t n = 0;
  for (const auto& e : entries) n += static_cast<int64_t>(e.param->value.size());
  return n;
}

int64_t bytes(std::span<const Entry> entries) {
  int64_t n = 0;
  for (const auto& e : entries) n += static_cast<int64_t>(e.param->value.nbytes());
  return n;
}

Arrays values(std::span<const Entry> entries) {
  Arrays out;
  out.reserve(entries.size());
  for (const auto& e : entries) out.push_back(e.param->value);
  return out;
}

std::string LoadReport::text() const {
  std::string out;
  const auto list = [&](const char* what, const std::vector<std::string>& items) {
    for (const auto& item : items) out += std::string("\n  ") + what + " " + item;
  };
  list("missing", missing), list("unused", unused), list("shape of", misshapen);
  list("type of", mistyped);
  return out;
}

LoadReport match(std::span<const Entry> entries, const Tensors& tensors) {
  LoadReport report;
  std::map<std::string_view, bool> used;
  for (const auto& [path, param] : entries) {
    const auto it = tensors.find(path);
    if (it == tensors.end()) {
      report.missing.push_back(path + " " + shape_text(param->value.shape()));
      continue;
    }
    used[it->first] = true;
    const auto &have = it->second, &want = param->value;
    if (have.shape() != want.shape())
      report.misshapen.push_back(path + ": expected " + shape_text(want.shape()) + ", got " +
                                 shape_text(have.shape()));
    else if (is_float(have.dtype()) != is_float(want.dtype()) ||
             (!is_float(want.dtype()) && have.dtype() != want.dtype()))
      report.mistyped.push_back(path + ": expected " + dtype_text(want.dtype()) + ", got " +
                                dtype_text(have.dtype()));
  }
  for (const auto& [name, array] : tensors)
    if (!used.count(name)) report.unused.push_back(name + " " + shape_text(array.shape()));
  return report;
}

void load(std::span<const Entry> entries, const Tensors& tensors, const std::string& name) {
  const auto report = match(entries, tensors);
  if (!report.ok())
    throw Error(Kind::mismatch, "[load] " + name + " does not fit the model:" + report.text());
  for (const auto& [path, param] : entries) param->value = tensors.at(path);
}

Lend::Lend(std::span<const Entry> to, std::span<const mx::array> with) : to_(to) {
  if (to.size() != with.size())
    throw Error(Kind::internal, "[tree] lent " + std::to_string(with.size()) + " arrays to " +
                                    std::to_string(to.size()) + " parameters");
  saved_.reserve(to.size());
  for (size_t i = 0; i < to.size(); ++i)
    saved_.push_back(std::exchange(to[i].param->value, with[i]));
}

Lend::~Lend() {
  for (size_t i = 0; i < saved_.size(); ++i) to_[i].param->value = std::move(saved_[i]);
}

}  // namespace lmxlab::core
