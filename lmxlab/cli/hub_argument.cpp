#include "lmxlab/cli/hub_argument.h"

#include "lmxlab/base/text.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/models/gguf_config.h"

#include <chrono>
#include <cstdlib>

namespace lmxlab::cli {
namespace {

std::string size_of(int64_t bytes) {
  return human_bytes(double(bytes));
}

// Of a model whose weights are elsewhere; nothing for a form that is not known here: other programs
// share the cache, and may know it.
std::optional<config::Model> config_of(const io::HubWeights& weights, Context quiet) {
  quiet.quiet = true;  // who opens it warns
  constexpr int64_t kFirst = int64_t{1} << 20, kMost = int64_t{64} << 20;
  for (int64_t bytes = kFirst; bytes <= kMost; bytes *= 4) {
    try {
      if (!weights.head) {
        if (weights.config.empty()) return std::nullopt;
        return read_config({weights.config.parent_path(), ""}, quiet);
      }
      const auto head = weights.head(bytes);
      if (!head) return std::nullopt;
      return read_gguf_config(*head).model;
    } catch (const Error& e) {
      if (e.kind() == Kind::canceled || e.kind() == Kind::resource) throw;
      if (e.kind() != Kind::bad_data || !weights.head) return std::nullopt;
    }
  }
  return std::nullopt;
}

void expect_fit(const io::HubName& name, const io::HubWeights& weights, const Context& context) {
  std::vector<OtherWeights> others;
  for (const auto& f : weights.ggufs)  // parts of a model, and what stands beside one, are none
    if (f.name.find("-of-") == f.name.npos && f.name.find("mmproj") == f.name.npos)
      others.push_back({name.repository + ":" + f.name, f.bytes});
  govern_pull(
      name.text(), weights.bytes, [&] { return config_of(weights, context); }, others);
}

}  // namespace

io::HubSettings hub_settings() {
  return io::hub_settings([](const std::string& name) -> std::optional<std::string> {
    const char* text = std::getenv(name.c_str());
    return text ? std::optional<std::string>(text) : std::nullopt;
  });
}

io::Pulled pull(const io::HubName& name, io::HubPart part, const Context& context, bool plan) {
  using Clock = std::chrono::steady_clock;
  Progress progress(context, 10, size_of);
  auto began = Clock::now();
  int64_t first = -1;
  io::HubEvents events;
  events.plan = [&](const io::HubPlan& p) {
    if (p.missing_bytes == 0) return;
    const bool all = p.missing_bytes == p.bytes;
    context.log("fetching " + name.text() + ": " + size_of(p.missing_bytes) +
                (all ? "" : " of " + size_of(p.bytes)) + ", " + std::to_string(p.files) +
                (p.files == 1 ? " file" : " files"));
  };
  if (plan) events.weights = [&](const io::HubWeights& w) { expect_fit(name, w, context); };
  events.progress = [&](int64_t done, int64_t total, const std::string& file) {
    if (first < 0) first = done, began = Clock::now();
    std::vector<std::string> facts;
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    if (seconds > 1 && done > first)
      facts.push_back(human_bytes(double(done - first) / seconds) + "/s");
    facts.push_back(file);
    progress.update(done, total, facts, facts.size() - 1);
  };
  events.note = [&](const std::string& text) {
    progress.clear();
    context.warn(text);
  };
  auto out = io::pull(name, part, hub_settings(), events, context.stop);
  progress.clear();
  return out;
}

std::string local_path(const std::string& argument, io::HubPart part, const Context& context) {
  std::error_code ignored;
  if (fs::exists(argument, ignored)) return argument;
  const auto name = io::hub_name(argument);
  // A run's name, or a file that is not there, is no reason to ask a server.
  if (!name || argument.starts_with("runs/") ||
      (name->file.empty() && (argument.ends_with(".gguf") || argument.ends_with(".json"))))
    return argument;
  const auto settings = hub_settings();
  const io::HubCache cache(settings.cache, name->repository);
  if (const auto kept = cache.find(*name, part)) return kept->string();
  try {
    return pull(*name, part, context).path.string();
  } catch (const Error& e) {
    if (e.kind() != Kind::not_found) throw;
    throw Error(e.kind(), std::string(e.what()) + " There is no folder " + argument + " either.");
  }
}

}  // namespace lmxlab::cli
