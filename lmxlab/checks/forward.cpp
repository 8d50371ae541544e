// Properties of the forward pass by itself, and of the same pass in pieces through a cache.
#include "lmxlab/base/random.h"
#include "lmxlab/checks/properties.h"
#include "lmxlab/checks/support.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/scan.h"

#include <algorithm>
#include <set>

namespace lmxlab::checks {
namespace {

// Of a failed comparison; a good one stays as it is.
Check because(Check c, const std::string& where, const std::string& hint) {
  if (c.ok) return c;
  if (!where.empty()) c.detail = where + ": " + c.detail;
  c.hint = hint;
  return c;
}

std::string list(const std::vector<int>& all) {
  std::string out;
  for (const int i : all) out += (out.empty() ? "" : ", ") + std::to_string(i);
  return out;
}

}  // namespace

Check causal(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 2, length, 11);
  const auto before = model.forward(tokens);
  const double bound = rounding_bound(model, before);
  Check result{"causal", true, ""};
  for (const int at : {length / 3, length - 2}) {
    const auto after = model.forward(with_other_token(model.config(), tokens, at));
    auto past = compare("causal", positions(before, 0, at), positions(after, 0, at), bound);
    if (!past.ok) {
      const auto seen = differences(positions(before, 0, at), positions(after, 0, at), bound);
      const int ahead = at - seen.first;
      return because(
          past, "the token at position " + std::to_string(at) + " was changed",
          "a position sees a later one: position " + std::to_string(seen.first) + " knows of " +
              std::to_string(at) +
              (ahead <= static_cast<int>(model.config().layers.size())
                   ? ". Likely cause: a mask that sees one token ahead in one layer or in several"
                   : ". Likely cause: a layer without its causal mask"));
    }
    result.detail = past.detail, result.worst = past.worst, result.bound = past.bound;
    const double moved = largest(
        mx::subtract(f32(positions(before, at, length)), f32(positions(after, at, length))));
    if (!(moved > bound))
      return {"causal", false, "a changed token changed nothing at or after its place",
              "logits do not depend on what is read. Likely cause: weights that are zero"};
  }
  return result;
}

Check cached_equals_full(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 2, length, 12);
  const auto full = model.forward(tokens);
  const double bound = rounding_bound(model, full);
  Check result{"cached = full", true, ""};
  HostRandom random(5);
  for (int trial = 0; trial < 4; ++trial) {
    Cache cache = cache_for(model, length);
    std::vector<mx::array> parts;
    for (int at = 0; at < length;) {
      // Trial 0 steps singly behind a prefix, the others take pieces of random size.
      const int n = std::min(length - at, trial == 0 ? (at == 0 ? length / 2 : 1)
                                                     : 1 + static_cast<int>(random.below(7)));
      parts.push_back(go_on(model, columns(tokens, at, at + n), cache));
      at += n;
    }
    const auto joined = mx::concatenate(parts, 1);
    result = compare("cached = full", joined, full, bound);
    if (result.ok) continue;
    const auto where = differences(joined, full, bound);
    return because(result, "through the cache position " + std::to_string(where.first) + " differs",
                   why_the_cache_differs(model, tokens, length / 2));
  }
  return result;
}

std::vector<int> boundaries(const config::Model& c) {
  std::set<int> all;
  const auto attention = [&](const config::Attention& a) {
    if (a.window) all.insert(*a.window);
  };
  for (const auto& s : c.shared_blocks) attention(s.attention);
  for (const auto& b : c.layers) {
    if (const auto* a = config::attention_in(b.mixer)) attention(*a);
    if (config::recurrent_size(b.mixer, c.dim)) all.insert(core::kScanChunk);
    if (const auto* l = std::get_if<config::Lightning>(&b.mixer);
        l && l->decays != config::Decays::exact)
      all.insert(l->block);
    if (const auto* m = std::get_if<config::Mla>(&b.mixer); m && m->indexer)
      all.insert(m->indexer->top_k);
    if (const auto* n = std::get_if<config::Nsa>(&b.mixer))
      all.insert({n->block, n->block + n->stride, n->selected_block,
                  n->selected_block * n->selected, n->window});
  }
  return {all.begin(), all.end()};
}

Check cached_at_boundaries(LanguageModel& model, int most) {
  const Enter enter(model.runtime());
  const auto& c = model.config();
  const auto all = boundaries(c);
  std::set<int> lengths;  // read before the steps
  std::vector<int> beyond, within;
  for (const int b : all) {
    if (b + 3 > most) {
      beyond.push_back(b);
      continue;
    }
    within.push_back(b);
    for (const int n : {b - 1, b, b + 1})
      if (n > 0) lengths.insert(n);
  }
  const auto rest =
      beyond.empty() ? ""
                     : "; beyond " + std::to_string(most) + " tokens, not tried: " + list(beyond);
  if (lengths.empty())
    return {"cached at boundaries", true,
            all.empty() ? "no window, chunk or block that a length could meet"
                        : "nothing within the length" + rest};
  constexpr int kSteps = 2;
  Check result{"cached at boundaries", true, ""};
  for (const int n : lengths) {
    const int length = n + kSteps;
    const auto tokens = some_tokens(c, 2, length, 18);
    const auto full = model.forward(tokens);
    const double bound = rounding_bound(model, full);
    // In one piece and then singly, and singly from before the boundary on.
    for (const int first : {n, std::max(1, n - 2)}) {
      Cache cache = cache_for(model, length);
      std::vector<mx::array> parts{go_on(model, columns(tokens, 0, first), cache)};
      for (int at = first; at < length; ++at)
        parts.push_back(go_on(model, columns(tokens, at, at + 1), cache));
      const auto joined = mx::concatenate(parts, 1);
      const auto now = compare("cached at boundaries", joined, full, bound);
      if (!now.ok)
        return because(now,
                       "with " + std::to_string(first) + " tokens read before, position " +
                           std::to_string(differences(joined, full, bound).first) + " differs",
                       "near a window, chunk or block of " + list(within) + ": " +
                           why_the_cache_differs(model, tokens, first));
      if (!result.worst || *now.worst * *result.bound > *result.worst * *now.bound) result = now;
    }
  }
  result.detail = "below, at and above " + list(within) + ": " + result.detail + rest;
  return result;
}

Check cache_operations(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 3, length, 13);
  const auto full = model.forward(tokens);
  const double bound = rounding_bound(model, full);
  const int half = length / 2;
  Cache cache = cache_for(model, length);
  go_on(model, columns(tokens, 0, half), cache);
  const Cache copy = cache;
  const auto rest = [&](Cache c, const mx::array& ids, int from) {
    return go_on(model, columns(ids, from, length), c);
  };
  const auto expected = positions(full, half, length);
  Check result{"cache operations", true, ""};
  const auto same = [&](const mx::array& got, const mx::array& want, const std::string& what,
                        const std::string& hint) {
    result = because(compare("cache operations", got, want, bound), what, hint);
    return result.ok;
  };
  if (!same(rest(std::move(cache), tokens, half), expected, "a second piece",
            "what the cache holds is wrong before anything was done to it: see cached = full"))
    return result;
  // The copy was not written to by what its original went on to see.
  if (!same(rest(copy, tokens, half), expected, "a copy",
            "a copy was written to by its original. Likely cause: a shared buffer, written in "
            "place"))
    return result;
  const int back = std::min(copy.trimmable(), 2);
  if (back > 0) {
    Cache trimmed = copy;
    trimmed.trim(back);
    if (!same(rest(std::move(trimmed), tokens, half - back), positions(full, half - back, length),
              "trim", "what was taken back is still seen, or too much was taken back"))
      return result;
  }
  Cache marked = copy;
  marked.mark();
  go_on(model, columns(tokens, half, half + 2), marked);
  if (marked.can_trim(2)) {
    marked.trim(2);
    if (!same(rest(std::move(marked), tokens, half), expected, "back to a mark",
              "a state that went back to a mark is not what it was"))
      return result;
  }
  Cache turned = copy;
  const mx::array order({2, 0}, mx::int32);
  turned.reorder(order);
  same(rest(std::move(turned), mx::take(tokens, order, 0), half), mx::take(expected, order, 0),
       "reorder",
       "a row continues as another one. Likely cause: a part of the cache that stays "
       "where it was");
  return result;
}

Check joined_equals_alone(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto& c = model.config();
  const char* name = "joined = alone";
  // Three rows that begin at different times, each a text of its own.
  const int starts[] = {0, 3, length / 2}, rows = 3, steps = 3;
  const auto tokens = some_tokens(c, rows, length, 19);
  const auto text_of = [&](int i) { return columns(row(tokens, i), starts[i], length); };
  const auto bound_of = [&](const mx::array& logits) { return rounding_bound(model, logits); };
  std::vector<mx::array> alone;
  for (int i = 0; i < rows; ++i) alone.push_back(whole(model, text_of(i), length));
  const int join_at = length - 2 * steps;  // columns before the first step together
  if (join_at <= starts[2])
    return {name, true, "not tried: a text of " + std::to_string(length) + " tokens is too short"};
  std::vector<Cache> apart;
  for (int i = 0; i < rows; ++i) {
    apart.push_back(cache_for(model, length));
    go_on(model, columns(text_of(i), 0, join_at - starts[i]), apart.back());
  }
  Cache batch = apart[0];
  batch.join(apart[1]);
  const auto agree = [&](const mx::array& logits, const std::vector<int>& of, int at,
                         const std::string& when) {
    Check worst{name, true, ""};
    for (size_t i = 0; i < of.size(); ++i) {
      const auto& want = alone[static_cast<size_t>(of[i])];
      const int from = at - starts[of[i]];
      auto now = compare(name, row(logits, static_cast<int>(i)),
                         positions(want, from, from + logits.shape(1)), bound_of(want));
      if (!now.ok)
        return because(now, "row " + std::to_string(of[i]) + ", " + when,
                       "a row of a running batch is not what it is alone. Likely cause: keys that "
                       "were moved by another number of columns than their padding says, or a part "
                       "of the cache that was not moved");
      if (!worst.worst || *now.worst > *worst.worst) worst = now;
    }
    return worst;
  };
  Check result{name, true, ""};
  std::vector<int> here{0, 1};
  for (int at = join_at; at < length; ++at) {
    std::string when = "after two rows joined";
    if (at == join_at + 1) {  // a third one comes, which began later and is as far in its text
      Cache late = apart[2];
      go_on(model, columns(row(tokens, 2), join_at, at), late);
      batch.join(late);
      here.push_back(2);
    }
    if (at == join_at + steps) {  // the longest one leaves, and its columns with it
      batch.keep({1, 2});
      here = {1, 2};
    }
    if (at > join_at) when = at < join_at + steps ? "after a third row came" : "after a row left";
    std::vector<mx::array> next;
    for (const int i : here) next.push_back(columns(row(tokens, i), at, at + 1));
    const auto now = agree(go_on(model, mx::concatenate(next, 0), batch), here, at, when);
    if (!now.ok) return now;
    if (!result.worst || *now.worst > *result.worst) result = now;
  }
  result.detail = "3 rows come and go: " + result.detail;
  return result;
}

Check batched_equals_single(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto tokens = some_tokens(model.config(), 3, length, 14);
  const auto full = model.forward(tokens);
  const double bound = rounding_bound(model, full);
  Check result{"batched = single", true, ""};
  for (int i = 0; i < 3; ++i) {
    result = compare("batched = single", model.forward(row(tokens, i)), row(full, i), bound);
    if (result.ok) continue;
    const int other = (i + 1) % 3;
    std::vector<mx::array> rows;
    for (int r = 0; r < 3; ++r)
      rows.push_back(r == other ? with_other_token(model.config(), row(tokens, r), 0)
                                : row(tokens, r));
    const bool seen =
        !compare("", row(model.forward(mx::concatenate(rows, 0)), i), row(full, i), bound).ok;
    return because(result, "row " + std::to_string(i),
                   seen ? "a row sees another row. Likely cause: an axis of the batch that is "
                          "mixed with that of the positions or heads"
                        : "a row alone gets other numbers than in a batch. Likely cause: a shape "
                          "that is wrong for one row, or for several");
  }
  return result;
}

Check padding_invariance(LanguageModel& model, int length) {
  const Enter enter(model.runtime());
  const auto& c = model.config();
  const int pads[] = {0, 3, length / 2};
  const auto tokens = some_tokens(c, 3, length, 15);
  const mx::array padding(pads, {3}, mx::int32);
  const auto cached_pass = [&](const mx::array& ids) {
    auto cache = cache_for(model, length, padding);
    std::vector<mx::array> parts;
    for (int at = 0; at < length;) {
      const int n = std::min(length - at, at == 0 ? length / 2 + 1 : 1);
      parts.push_back(go_on(model, columns(ids, at, at + n), cache));
      at += n;
    }
    return mx::concatenate(parts, 1);
  };
  const auto padded = whole(model, tokens, length, padding), cached = cached_pass(tokens);
  Check result{"padding invariance", true, ""};
  for (int i = 0; i < 3; ++i) {
    const auto alone = whole(model, columns(row(tokens, i), pads[i], length), length);
    const double bound = rounding_bound(model, alone);
    for (const bool through : {false, true}) {
      const auto& all = through ? cached : padded;
      const auto now =
          compare("padding invariance", positions(row(all, i), pads[i], length), alone, bound);
      if (now.ok) {
        if (!result.worst || *now.worst > *result.worst) result = now;
        continue;
      }
      // Other tokens in the padding: whoever looks at them moves.
      auto other = tokens;
      for (int at = 0; at < pads[i]; ++at) other = with_other_token(c, other, at);
      const auto again = through ? cached_pass(other) : whole(model, other, length, padding);
      const bool looked = pads[i] > 0 && !compare("", positions(row(again, i), pads[i], length),
                                                  positions(row(all, i), pads[i], length), bound)
                                              .ok;
      return because(
          now,
          "a row behind " + std::to_string(pads[i]) + " columns of padding, " +
              (through ? "through the cache" : "in one pass"),
          pads[i] == 0 ? "the row without padding differs: see cached = full and batched = single"
          : looked
              ? "padding is looked at. Likely cause: a mask without it, or a state that reads it"
              : "padding is not looked at, but moves what stands behind it. Likely cause: "
                "positions "
                "counted from the first column, not from the row's first token");
    }
  }
  return result;
}

}  // namespace lmxlab::checks
