#include "lmxlab/plan/plan.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <cstdio>

namespace lmxlab::plan {
namespace {

// What a change changes, put back as it was. Of two changes of one part the later one counts.
using Restore = void (*)(Settings& to, const Settings& from);
void rows(Settings& to, const Settings& from) {
  to.batch = from.batch, to.accumulate = from.accumulate;
}
void context(Settings& to, const Settings& from) {
  to.context = from.context;
}
void checkpointing(Settings& to, const Settings& from) {
  to.checkpointing = from.checkpointing;
}
void optimizer(Settings& to, const Settings& from) {
  to.state_bits = from.state_bits, to.factored = from.factored;
}
void trained(Settings& to, const Settings& from) {
  to.mode = from.mode;
}
void weights(Settings& to, const Settings& from) {
  to.bits = from.bits, to.group_size = from.group_size, to.embedding_bits = from.embedding_bits;
}
void cache(Settings& to, const Settings& from) {
  to.kv_bits = from.kv_bits;
}

struct Change {
  std::string name, cost;
  Restore restore;
  std::function<std::vector<Settings>(const Settings&)> apply;  // mildest first; none: no change
};

std::vector<Settings> halved(const Settings& s, int Settings::*field, int least) {
  std::vector<Settings> out;
  for (int n = s.*field / 2; n >= least; n /= 2) out.push_back(s), out.back().*field = n;
  return out;
}

template <class F>
std::vector<Settings> changed(bool possible, Settings s, F&& change) {
  if (!possible) return {};
  change(s);
  return {std::move(s)};
}

// Cheapest first: the same results, nearly the same, others.
std::vector<Change> changes(Mode mode) {
  const auto shorter = [](const Settings& s) { return halved(s, &Settings::context, 16); };
  if (mode == Mode::generate)
    return {{"a cache of 8 bits", "slightly other answers", cache,
             [](const Settings& s) {
               return changed(!s.kv_bits || *s.kv_bits == 0 || *s.kv_bits > 8, s,
                              [](Settings& t) { t.kv_bits = 8; });
             }},
            {"weights of 4 bits", "a few percent of perplexity", weights,
             [](const Settings& s) {
               return changed(!s.bits || *s.bits > 4, s, [](Settings& t) {
                 t.bits = 4, t.group_size = 64, t.embedding_bits = 0;
               });
             }},
            {"a shorter context", "less is seen at a time", context, shorter},
            {"fewer rows at a time", "more passes", rows,
             [](const Settings& s) { return halved(s, &Settings::batch, 1); }}};
  return {
      {"a smaller batch with accumulation", "the same updates, a little slower", rows,
       [](const Settings& s) {
         auto some = halved(s, &Settings::batch, 1);
         for (auto& t : some) t.accumulate = s.accumulate * (s.batch / t.batch);
         std::erase_if(some, [&](const Settings& t) {
           return t.batch * t.accumulate != s.batch * s.accumulate;
         });
         return some;
       }},
      {"gradient checkpointing", "the same updates, a third more time", checkpointing,
       [](const Settings& s) {
         return changed(!s.checkpointing, s, [](Settings& t) { t.checkpointing = true; });
       }},
      {"optimizer state of 8 bits", "nearly the same updates", optimizer,
       [](const Settings& s) {
         return changed(s.state_bits != 8 && !s.factored, s, [](Settings& t) { t.state_bits = 8; });
       }},
      {"Adafactor's factored state", "other updates", optimizer,
       [](const Settings& s) {
         return changed(!s.factored, s, [](Settings& t) { t.factored = true, t.state_bits = 32; });
       }},
      {"LoRA", "an adapter learns, the weights stay", trained,
       [](const Settings& s) {
         return changed(s.mode == Mode::train, s, [](Settings& t) { t.mode = Mode::lora; });
       }},
      {"QLoRA", "an adapter learns, the weights are rounded to 4 bits", trained,
       [](const Settings& s) {
         return changed(s.mode != Mode::qlora, s, [](Settings& t) { t.mode = Mode::qlora; });
       }},
      {"a shorter context", "less is seen at a time", context, shorter}};
}

std::string gigabytes(int64_t bytes) {
  return human_bytes(double(bytes));
}

}  // namespace

Plan make_plan(const Settings& settings, const Budget& budget, const Measure& measure,
               const Words& words, const Smaller& smaller, const Measure& roughly) {
  Plan plan{settings, measure(settings), budget};
  if (plan.fits()) return plan;
  // None: it cannot be asked for, or cannot be; too few positions, say.
  std::vector<std::pair<Settings, std::optional<int64_t>>> known;
  const auto peak = [&](const Settings& s) -> std::optional<int64_t> {
    for (const auto& [t, n] : known)
      if (t == s) return n;
    std::optional<int64_t> n;
    try {
      if (words(settings, s)) {
        if (roughly) n = roughly(s).peak();
        if (!n || *n <= 2 * budget.bytes) n = measure(s).peak();
      }
    } catch (const Error& e) {
      if (e.kind() == Kind::canceled) throw;
      n.reset();
    }
    known.emplace_back(s, n);
    return n;
  };
  const auto first_that_fits = [&](const std::vector<Settings>& all) -> std::optional<Settings> {
    for (const auto& s : all)
      if (const auto n = peak(s); n && *n <= budget.bytes) return s;
    return std::nullopt;
  };
  using Taken = std::vector<const Change*>;
  const auto advise = [&](const Taken& taken, const Settings& s) {
    Advice a{"", *words(settings, s), "", s, *peak(s)};
    for (const auto* c : taken) {
      a.change += (a.change.empty() ? "" : ", ") + c->name;
      a.cost += (a.cost.empty() ? "" : "; ") + c->cost;
    }
    plan.advice.push_back(std::move(a));
  };
  const auto all = changes(settings.mode);
  for (const auto& c : all)
    if (const auto s = first_that_fits(c.apply(settings))) advise({&c}, *s);
  // Not one alone: one on top of another, and then what turns out to be too much is taken back.
  Taken taken;
  auto sum = settings;
  for (const auto& c : all) {
    if (!plan.advice.empty()) break;
    auto base = sum;
    c.restore(base, settings);
    const auto some = c.apply(base);
    const auto chosen = first_that_fits(some);
    if (!chosen && (some.empty() || !peak(some.back()))) continue;
    std::erase_if(taken, [&](const Change* t) { return t->restore == c.restore; });
    sum = chosen ? *chosen : some.back();
    if (chosen) {
      for (size_t i = taken.size(); i-- > 0;) {
        auto less = sum;
        taken[i]->restore(less, settings);
        auto milder = taken[i]->apply(less);
        milder.insert(milder.begin(), less);
        const auto enough = first_that_fits(milder);
        if (!enough) continue;
        sum = *enough;
        if (sum == less) taken.erase(taken.begin() + std::ptrdiff_t(i));
      }
    }
    taken.push_back(&c);
    if (chosen) advise(taken, sum);
  }
  for (const auto& name : smaller ? smaller() : std::vector<std::string>()) {
    auto s = settings;
    s.preset = name;
    if (!first_that_fits({s})) continue;
    plan.advice.push_back(
        {"a smaller model", *words(settings, s), "fewer parameters", s, *peak(s)});
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
    std::snprintf(line, sizeof line, "%12s  ", gigabytes(a.peak).c_str());
    out += line + a.change + " (" + a.cost + "): " + a.options + "\n";
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
    text += std::to_string(i + 1) + ") " + a.change + ", " + a.options + ": " + gigabytes(a.peak) +
            " (" + a.cost + ")";
  }
  throw Error(Kind::resource, text);
}

}  // namespace lmxlab::plan
