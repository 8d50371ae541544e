#include "lmxlab/plan/plan.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <cstdio>

namespace lmxlab::plan {
namespace {

// A change, cheapest first in the list of its mode. Nothing: it changes nothing here.
struct Change {
  std::string name, cost;
  std::function<std::vector<Settings>(const Settings&)> apply;  // mildest first
  std::function<std::string(const Settings&)> options;
  bool adds_up = true;  // with the changes before it
};

std::string number(int n) {
  return std::to_string(n);
}

std::vector<Settings> halved(const Settings& s, int Settings::*field, int least) {
  std::vector<Settings> out;
  for (int n = s.*field / 2; n >= least; n /= 2) out.push_back(s), out.back().*field = n;
  return out;
}

std::vector<Change> changes(Mode mode) {
  const bool generate = mode == Mode::generate;
  std::vector<Change> all;
  if (generate) {
    all.push_back({"a cache of 8 bits", "slightly other answers",
                   [](const Settings& s) -> std::vector<Settings> {
                     if (s.kv_bits && *s.kv_bits <= 8 && *s.kv_bits > 0) return {};
                     auto t = s;
                     t.kv_bits = 8;
                     return {t};
                   },
                   [](const Settings&) { return "--kv-bits 8"; }});
    all.push_back({"weights of 4 bits", "a few percent of perplexity",
                   [](const Settings& s) -> std::vector<Settings> {
                     if (s.bits && *s.bits <= 4) return {};
                     auto t = s;
                     t.bits = 4, t.group_size = 64, t.embedding_bits = 0;
                     return {t};
                   },
                   [](const Settings&) { return "quantize --bits 4, then its folder"; }});
  } else {
    all.push_back({"a smaller batch with accumulation", "the same updates, a little slower",
                   [](const Settings& s) {
                     auto some = halved(s, &Settings::batch, 1);
                     for (auto& t : some) t.accumulate = s.accumulate * (s.batch / t.batch);
                     std::erase_if(some, [&](const Settings& t) {
                       return t.batch * t.accumulate != s.batch * s.accumulate;
                     });
                     return some;
                   },
                   [](const Settings& s) {
                     return "--set run.batch=" + number(s.batch) +
                            " --set run.accumulate=" + number(s.accumulate);
                   }});
    all.push_back({"gradient checkpointing", "the same updates, a third more time",
                   [](const Settings& s) -> std::vector<Settings> {
                     if (s.checkpointing) return {};
                     auto t = s;
                     t.checkpointing = true;
                     return {t};
                   },
                   [](const Settings&) { return "--set run.gradient_checkpointing=true"; }});
    all.push_back({"optimizer state of 8 bits", "nearly the same updates",
                   [](const Settings& s) -> std::vector<Settings> {
                     if (s.state_bits == 8 || s.factored) return {};
                     auto t = s;
                     t.state_bits = 8;
                     return {t};
                   },
                   [](const Settings&) { return "--set optimizer.state_bits=8"; }});
    all.push_back({"Adafactor, whose state is factored", "other updates",
                   [](const Settings& s) -> std::vector<Settings> {
                     if (s.factored) return {};
                     auto t = s;
                     t.factored = true, t.state_bits = 32;
                     return {t};
                   },
                   [](const Settings&) { return "--set optimizer.name=adafactor"; }});
    if (mode == Mode::train)
      for (const auto to : {Mode::lora, Mode::qlora})
        all.push_back({to == Mode::lora ? "LoRA: adapters train" : "QLoRA: over weights of 4 bits",
                       "for a model that is trained already",
                       [to](const Settings& s) -> std::vector<Settings> {
                         auto t = s;
                         t.mode = to, t.factored = false, t.state_bits = 32;
                         return {t};
                       },
                       [](const Settings&) { return ""; }, false});
  }
  all.push_back({"a shorter context", "less is seen at a time",
                 [](const Settings& s) { return halved(s, &Settings::context, 16); },
                 [generate](const Settings& s) {
                   return generate ? "a prompt of " + number(s.context) + " tokens, or --max-kv"
                                   : "--set run.context=" + number(s.context);
                 }});
  if (generate)
    all.push_back({"fewer rows at a time", "more passes",
                   [](const Settings& s) { return halved(s, &Settings::batch, 1); },
                   [](const Settings& s) { return "--batch " + number(s.batch); }});
  return all;
}

std::string gigabytes(int64_t bytes) {
  return human_bytes(double(bytes));
}

}  // namespace

Plan make_plan(const Settings& settings, const Budget& budget, const Measure& measure,
               const Smaller& smaller) {
  Plan plan{settings, measure(settings), budget};
  if (plan.fits()) return plan;
  const auto fits = [&](Advice& a) {
    try {
      a.peak = measure(a.settings).peak();
    } catch (const Error&) {  // a change that cannot be: too few positions, say
      return false;
    }
    return a.peak <= budget.bytes;
  };
  const auto can_be = [&](const Settings& s) {
    try {
      measure(s);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  const auto try_all = [&](const Change& c, const Settings& from) -> std::optional<Advice> {
    for (const auto& s : c.apply(from)) {
      Advice a{c.name, c.options(s), c.cost, s};
      if (fits(a)) return a;
    }
    return std::nullopt;
  };
  for (const auto& c : changes(settings.mode))
    if (auto a = try_all(c, settings)) plan.advice.push_back(std::move(*a));
  if (plan.advice.empty()) {  // not one alone: one on top of another
    Advice sum{"", "", "", settings};
    for (const auto& c : changes(settings.mode)) {
      if (!c.adds_up) continue;
      const auto some = c.apply(sum.settings);
      if (some.empty()) continue;
      const auto join = [](std::string& to, const std::string& more, const char* between) {
        if (!more.empty()) to += (to.empty() ? "" : between) + more;
      };
      auto chosen = try_all(c, sum.settings);
      if (!chosen && !can_be(some.back())) continue;
      sum.settings = chosen ? chosen->settings : some.back();
      join(sum.change, c.name, ", "), join(sum.options, c.options(sum.settings), " ");
      join(sum.cost, c.cost, ", ");
      if (chosen) {
        sum.peak = chosen->peak;
        plan.advice.push_back(sum);
        break;
      }
    }
  }
  // What cannot be done yet comes last.
  const auto first = std::stable_partition(plan.advice.begin(), plan.advice.end(),
                                           [](const Advice& a) { return !a.options.empty(); });
  for (const auto& name : smaller) {
    Advice a{"a smaller model: " + name, name, "a smaller model", settings};
    a.settings.preset = name;
    if (!fits(a)) continue;
    plan.advice.insert(first, std::move(a));
    break;
  }
  return plan;
}

std::string report(const Plan& plan) {
  std::string out;
  char line[400];
  const auto row = [&](const char* name, int64_t bytes) {
    if (bytes == 0) return;
    std::snprintf(line, sizeof line, "%-14s %12s\n", name, gigabytes(bytes).c_str());
    out += line;
  };
  const auto& p = plan.parts;
  row("weights", p.weights), row("KV cache", p.kv_cache), row("gradients", p.gradients);
  row("optimizer", p.optimizer), row("activations", p.activations), row("workspace", p.workspace);
  std::snprintf(line, sizeof line, "%-14s %12s  of %s: %s\n", "peak", gigabytes(p.peak()).c_str(),
                gigabytes(plan.budget.bytes).c_str(), plan.budget.reason.c_str());
  out += line;
  out += plan.fits() ? "it fits\n" : "it does not fit\n";
  for (const auto& a : plan.advice) {
    std::snprintf(line, sizeof line, "%12s  %s (%s)%s%s\n", gigabytes(a.peak).c_str(),
                  a.change.c_str(), a.cost.c_str(), a.options.empty() ? "" : ": ",
                  a.options.c_str());
    out += line;
  }
  return out;
}

void require_fit(const Plan& plan, const std::string& what) {
  if (plan.fits()) return;
  std::string text = "[memory] " + what + " does not fit: it needs " +
                     gigabytes(plan.parts.peak()) + ", and there are " +
                     gigabytes(plan.budget.bytes) + " (" + plan.budget.reason + ").";
  if (plan.advice.empty()) text += " Nothing known here makes it fit. Choose a smaller model.";
  for (size_t i = 0; i < plan.advice.size(); i++) {
    const auto& a = plan.advice[i];
    text += i == 0 ? " What would fit: " : "; ";
    text += std::to_string(i + 1) + ") " + a.change + (a.options.empty() ? "" : ", " + a.options) +
            ": " + gigabytes(a.peak) + " (" + a.cost + ")";
  }
  throw Error(Kind::resource, text);
}

}  // namespace lmxlab::plan
