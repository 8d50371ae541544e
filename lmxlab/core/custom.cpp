#include "lmxlab/core/custom.h"

#include "lmxlab/base/text.h"
#include "lmxlab/config/custom.h"

#include <map>
#include <mutex>

namespace lmxlab::core {
namespace {

template <class Factory>
class Registry {
 public:
  explicit Registry(config::Part part) : part_(part) {}

  void add(const std::string& name, Factory factory) {
    const std::lock_guard lock(mutex_);
    if (!factories_.emplace(name, std::move(factory)).second)
      throw Error(Kind::usage, "[custom] the " + std::string(config::part_name(part_)) + " \"" +
                                   name + "\" is registered already");
  }
  Factory find(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    if (const auto it = factories_.find(name); it != factories_.end()) return it->second;
    std::vector<std::string> known;
    for (const auto& [n, _] : factories_) known.push_back(n);
    throw Error(Kind::not_found, "[custom] no " + std::string(config::part_name(part_)) + " \"" +
                                     name + "\" is registered; " +
                                     (known.empty() ? "none is" : suggestion(name, known)));
  }

 private:
  config::Part part_;
  mutable std::mutex mutex_;
  std::map<std::string, Factory> factories_;
};

Registry<MixerFactory>& mixers() {
  static Registry<MixerFactory> r(config::Part::mixer);
  return r;
}
Registry<FfnFactory>& ffns() {
  static Registry<FfnFactory> r(config::Part::ffn);
  return r;
}
Registry<NormFactory>& norms() {
  static Registry<NormFactory> r(config::Part::norm);
  return r;
}

// A part built for counting: its weights are lazy, so nothing is allocated.
template <class Part>
int64_t counted(std::unique_ptr<Part> part) {
  return count(collect(*part));
}

}  // namespace

void register_mixer(const std::string& name, MixerFactory factory) {
  mixers().add(name, factory);
  config::register_custom(config::Part::mixer, name, [factory](const Json& values, int dim) {
    Init init(0);
    return counted(factory(values, Build{dim, 0, 1, 0.02f, 0.02f, init}));
  });
}

void register_ffn(const std::string& name, FfnFactory factory) {
  ffns().add(name, factory);
  config::register_custom(config::Part::ffn, name, [factory](const Json& values, int dim) {
    Init init(0);
    return counted(factory(values, Build{dim, 0, 1, 0.02f, 0.02f, init}));
  });
}

void register_norm(const std::string& name, NormFactory factory) {
  norms().add(name, factory);
  config::register_custom(config::Part::norm, name, [factory](const Json& values, int dim) {
    return counted(factory(values, dim));
  });
}

std::unique_ptr<Mixer> make_custom_mixer(const config::Custom& c, const Build& build) {
  return with_context("custom mixer " + c.name,
                      [&] { return mixers().find(c.name)(c.values, build); });
}
std::unique_ptr<Ffn> make_custom_ffn(const config::Custom& c, const Build& build) {
  return with_context("custom ffn " + c.name, [&] { return ffns().find(c.name)(c.values, build); });
}
std::unique_ptr<CustomNorm> make_custom_norm(const config::Custom& c, int dim) {
  return with_context("custom norm " + c.name, [&] { return norms().find(c.name)(c.values, dim); });
}

}  // namespace lmxlab::core
