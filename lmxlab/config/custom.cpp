#include "lmxlab/config/custom.h"

#include "lmxlab/base/text.h"

#include <map>
#include <mutex>
#include <utility>

namespace lmxlab::config {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, ParameterCount, std::less<>> parts[3];
};
Registry& registry() {
  static Registry* r =
      new Registry;  // never destroyed: threads may still count while the program ends
  return *r;
}

}  // namespace

std::string_view part_name(Part part) {
  constexpr std::string_view names[] = {"mixer", "ffn", "norm"};
  return names[static_cast<size_t>(part)];
}

void register_custom(Part part, std::string name, ParameterCount parameters) {
  if (name.empty()) throw Error(Kind::usage, "[custom] a registered part needs a name");
  if (!parameters)
    throw Error(Kind::usage,
                "[custom] " + name + ": expected a function that counts its parameters");
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  r.parts[static_cast<size_t>(part)].insert_or_assign(std::move(name), std::move(parameters));
}

bool is_registered(Part part, std::string_view name) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  return r.parts[static_cast<size_t>(part)].count(name) > 0;
}

std::vector<std::string> registered(Part part) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  std::vector<std::string> out;
  for (const auto& [name, _] : r.parts[static_cast<size_t>(part)]) out.push_back(name);
  return out;
}

int64_t custom_parameters(Part part, std::string_view name, const Json& values, int dim) {
  ParameterCount count;  // copied, so that the caller's function runs outside the lock
  {
    Registry& r = registry();
    const std::lock_guard lock(r.mutex);
    const auto& parts = r.parts[static_cast<size_t>(part)];
    if (const auto it = parts.find(name); it != parts.end()) count = it->second;
  }
  if (!count)
    throw Error(Kind::not_found, "[custom] no " + std::string(part_name(part)) +
                                     " is registered as \"" + std::string(name) + "\"; " +
                                     suggestion(name, registered(part)));
  return count(values, dim);
}

}  // namespace lmxlab::config
