// Objectives beside TRL's own code, and what must hold of all: parts add up to the batch, and what
// is ignored is not seen.
#include "lmxlab/training/objectives/distill.h"
#include "lmxlab/training/objectives/grpo.h"
#include "lmxlab/training/objectives/preference.h"
#include "tests/training/objectives_golden.h"

namespace lmxlab::objectives {
namespace {

float number(const Json& options, const char* name, float otherwise) {
  return options.contains(name) ? static_cast<float>(options.at(name).as_number()) : otherwise;
}
template <class E>
E named(const Json& options, const char* name, E otherwise) {
  if (!options.contains(name)) return otherwise;
  const auto e = enum_value<E>(options.at(name).as_string());
  if (!e) throw Error(Kind::bad_data, options.at(name).as_string());
  return *e;
}

DpoOptions dpo_options(const Json& o) {
  return {.loss_type = named(o, "loss_type", DpoLoss::sigmoid),
          .beta = number(o, "beta", 0.1f),
          .label_smoothing = number(o, "label_smoothing", 0)};
}

GrpoOptions grpo_options(const Json& o) {
  GrpoOptions out;
  // One part: the tokens of the part are those of the batch.
  const bool bnpo = o.at("loss_type").as_string() == "bnpo";
  out.loss_type = bnpo ? GrpoLossType::dapo : named(o, "loss_type", GrpoLossType::dapo);
  out.importance_sampling_level = named(o, "importance_sampling_level", ImportanceSampling::token);
  out.epsilon = number(o, "epsilon", 0.2f);
  if (o.contains("epsilon_high")) out.epsilon_high = number(o, "epsilon_high", 0);
  out.beta = number(o, "beta", 0);
  out.max_completion_length = static_cast<int>(number(o, "max_completion_length", 0));
  return out;
}

GrpoLoss grpo_of(const Json& o, const mx::array& logprobs, int first, int last) {
  const auto& g = golden();
  const auto part = [&](const char* name) {
    return rows(g(std::string("grpo.") + name), first, last);
  };
  std::optional<mx::array> old;
  if (!o.contains("old")) old = part("old_logps");
  return grpo(logprobs, part("advantages"), part("mask"), old, part("ref_logps"), grpo_options(o));
}

/// The loss of a case, of the arrays that it has gradients by; distillation `at` rows at a time.
mx::array loss_of(const std::string& name, const std::string& function, const Json& o,
                  const Arrays& in, int at) {
  const auto& g = golden();
  const int last = g.length() - 1;
  if (function == "token_logprobs")
    return mx::sum(token_logprobs({columns(in[0], 0, last)}, g.labels(), g.mask()));
  if (function == "reward") {
    std::optional<mx::array> margin;
    if (o.at("margin").as_bool()) margin = g("margin");
    return reward(halves(in[0], 0), halves(in[0], 1), margin, number(o, "center_coefficient", 0))
        .value();
  }
  if (function == "grpo") return grpo_of(o, in[0], 0, in[0].shape(0)).loss.value();
  if (function == "distill_heads") {
    const Logits student{
        in[0],
        in[1],
        in[2],
        {.scale = number(o, "student_scale", 1), .softcap = number(o, "student_softcap", 0)}};
    const Logits teacher{g("teacher_hidden"), g("teacher_weight")};
    const auto mask = rows(g("completion_mask"), 0, in[0].shape(0));
    return distill(student, teacher, mask,
                   {.beta = number(o, "beta", 0),
                    .temperature = number(o, "temperature", 1),
                    .rows = at})
        .value();
  }
  const auto z = columns(in[0], 0, last), t = columns(g("teacher_logits"), 0, last);
  if (function == "distill") {
    return distill({z}, {t}, g.mask(),
                   {.beta = number(o, "beta", 0),
                    .temperature = number(o, "temperature", 1),
                    .rows = at})
        .value();
  }
  if (function == "distill_top_k") {
    const float temperature = number(o, "temperature", 1);
    const auto kept = teacher_top_k({t}, static_cast<int>(number(o, "k", 1)), temperature, at);
    return distill_top_k(
               {z}, kept, g.mask(),
               {.rest = named(o, "rest", Rest::bucket), .temperature = temperature, .rows = at})
        .value();
  }
  if (function == "orpo") {
    const auto s = g.responses(in[0], columns(g("attention_mask"), 1, g.length()));
    const auto loss = orpo(half(s, 0), half(s, 1), number(o, "lambda", 0));
    return mx::add(loss.nll.value(), loss.odds.value());
  }
  const auto s = g.responses(in[0]);
  if (function == "dpo") {
    return dpo(half(s, 0), half(s, 1), halves(g.ref(), 0), halves(g.ref(), 1), dpo_options(o))
        .loss.value();
  }
  if (function == "simpo") {
    return simpo(half(s, 0), half(s, 1),
                 {.beta = number(o, "beta", 0),
                  .gamma = number(o, "gamma", 0),
                  .label_smoothing = number(o, "label_smoothing", 0)})
        .loss.value();
  }
  if (function == "kto") {
    const auto ref = g(name + ".ref_mismatched");
    const auto kl = kto_kl({g(name + ".mismatched"), mx::ones_like(ref)}, ref).value();
    return kto(s, g.ref(), g("desirable"), kl,
               {.beta = number(o, "beta", 0),
                .desirable_weight = number(o, "desirable_weight", 0),
                .undesirable_weight = number(o, "undesirable_weight", 0)})
        .loss.value();
  }
  throw Error(Kind::bad_data, "no function " + function);
}

std::vector<std::string> leaves_of(const std::string& function) {
  if (function == "reward") return {"rewards"};
  if (function == "grpo") return {"logps"};
  if (function == "distill_heads") return {"student_hidden", "student_weight", "student_bias"};
  return {"logits"};
}

void compare(const Json& c, int at) {
  const auto& g = golden();
  const auto name = c.at("name").as_string(), function = c.at("function").as_string();
  SCOPED_TRACE(name + ", " + std::to_string(at) + " rows at a time");
  Arrays in;
  std::vector<int> all;
  for (const auto& leaf : leaves_of(function)) {
    all.push_back(static_cast<int>(in.size()));
    in.push_back(g(function == "grpo" ? "grpo." + leaf : leaf));
  }
  const auto f = [&](const Arrays& v) { return loss_of(name, function, c.at("options"), v, at); };
  const auto [loss, grads] = mx::value_and_grad(Function(f), all)(in);
  EXPECT_LT(off(loss, g(name + ".loss")), 1e-5f);
  for (size_t i = 0; i < in.size(); ++i)
    EXPECT_LT(off(grads[i], g(name + ".grad." + leaves_of(function)[i])), 1e-5f) << i;
}

TEST(Objectives, AreTrls) {
  for (const auto& c : golden().cases.as_array()) compare(c, 1000);
}

TEST(Objectives, OfDistillationSomeRowsAtATimeAreTrlsToo) {
  for (const auto& c : golden().cases.as_array()) {
    if (c.at("function").as_string().starts_with("distill"))
      for (const int at : {1, 5, 16}) compare(c, at);
  }
}

TEST(Objectives, AdvantagesAreTrls) {
  const auto& g = golden();
  for (const auto& [scale, name] : EnumNames<AdvantageScale>::table) {
    const auto a = group_advantages(g("group_rewards"), 4, scale);
    EXPECT_LT(off(a, g(std::string("advantages.") + name)), 1e-5f) << name;
    const auto v = values(a);
    for (size_t i = 4; i < 8; ++i) EXPECT_EQ(v[i], 0) << name;  // a group of equal rewards
  }
  EXPECT_EQ(values(group_advantages(mx::array({1.0f, 3.0f}), 1)), (std::vector<float>{0, 0}));
  for (int n = 2; n < 20; ++n) {  // sums of equal rewards are rounded, too
    for (const float x : values(group_advantages(mx::full({n}, 0.7f), n))) EXPECT_EQ(x, 0) << n;
  }
}

// Accumulation: the sums of parts, by the sum of the counts.

struct Part {
  Mean mean;
  Arrays grads;
};
using Objective = std::function<Mean(const mx::array& in, int first, int last)>;

Part part_of(const Objective& f, const mx::array& in, int first, int last) {
  std::optional<mx::array> count;
  const auto sum = [&](const Arrays& v) {
    const auto mean = f(rows(v[0], first, last), first, last);
    count = mean.count;
    return mean.sum;
  };
  const auto [value, grads] = mx::value_and_grad(Function(sum), std::vector<int>{0})({in});
  return {{value, *count}, grads};
}

void accumulates(const Objective& f, const mx::array& in) {
  const int n = in.shape(0);
  const auto whole = part_of(f, in, 0, n);
  const auto a = part_of(f, in, 0, 1), b = part_of(f, in, 1, n);
  const auto count = mx::add(a.mean.count, b.mean.count);
  EXPECT_EQ(value(count), value(whole.mean.count));
  EXPECT_GT(value(count), 0);
  EXPECT_LT(off(mx::divide(mx::add(a.mean.sum, b.mean.sum), count), whole.mean.value()), 1e-6f);
  EXPECT_LT(off(mx::divide(mx::add(a.grads[0], b.grads[0]), count),
                mx::divide(whole.grads[0], whole.mean.count)),
            1e-6f);
}

/// Chosen and rejected side by side, [B, 2, L, V], so that a row is a pair.
mx::array paired(const mx::array& a) {
  return mx::stack({halves(a, 0), halves(a, 1)}, 1);
}
mx::array one_of(const mx::array& pairs, int which) {
  return mx::take(pairs, which, 1);
}

Sequences of_pairs(const mx::array& logits, int which, int first, int last) {
  const auto& g = golden();
  const auto at = [&](const mx::array& a) { return rows(halves(a, which), first, last); };
  const auto z = columns(one_of(logits, which), 0, g.length() - 1);
  return sequence_logprobs(token_logprobs({z}, at(g.labels()), at(g.mask())), at(g.mask()));
}

TEST(Objectives, OfPartsAddUpToThatOfTheBatch) {
  const auto& g = golden();
  const auto pairs = paired(g("logits"));
  const auto refs = [&](int which, int first, int last) {
    return rows(halves(g.ref(), which), first, last);
  };
  for (const auto& [type, name] : EnumNames<DpoLoss>::table) {
    SCOPED_TRACE(name);
    accumulates(
        [&, t = type](const mx::array& z, int i, int j) {
          return dpo(of_pairs(z, 0, i, j), of_pairs(z, 1, i, j), refs(0, i, j), refs(1, i, j),
                     {.loss_type = t})
              .loss;
        },
        pairs);
  }
  for (const bool odds : {false, true}) {
    accumulates(
        [&](const mx::array& z, int i, int j) {
          const auto loss = orpo(of_pairs(z, 0, i, j), of_pairs(z, 1, i, j));
          return odds ? loss.odds : loss.nll;
        },
        pairs);
  }
  accumulates([&](const mx::array& z, int i,
                  int j) { return simpo(of_pairs(z, 0, i, j), of_pairs(z, 1, i, j)).loss; },
              pairs);
  const auto cut = [&](const mx::array& a, int i, int j) { return rows(a, i, j); };
  accumulates(
      [&](const mx::array& z, int i, int j) {
        const auto mask = cut(g.mask(), i, j);
        const auto lp = token_logprobs({columns(z, 0, g.length() - 1)}, cut(g.labels(), i, j));
        return kto(sequence_logprobs(lp, mask), cut(g.ref(), i, j), cut(g("desirable"), i, j),
                   mx::array(0.2f))
            .loss;
      },
      g("logits"));
  for (const auto* name : {"grpo", "dapo", "dr_grpo"}) {
    SCOPED_TRACE(name);
    const Json o = Json::parse(std::string(R"({"loss_type": ")") + name +
                               R"(", "beta": 0.1, "max_completion_length": 8})");
    accumulates([&](const mx::array& p, int i, int j) { return grpo_of(o, p, i, j).loss; },
                g("grpo.logps"));
  }
  const auto teacher = g("teacher_logits");
  accumulates(
      [&](const mx::array& z, int i, int j) {
        return distill({z}, {cut(teacher, i, j)}, cut(g("completion_mask"), i, j), {.beta = 0.5f});
      },
      g("logits"));
  accumulates(
      [&](const mx::array& z, int i, int j) {
        const auto kept = teacher_top_k({cut(teacher, i, j)}, 3);
        return distill_top_k({z}, kept, cut(g("completion_mask"), i, j));
      },
      g("logits"));
}

// Tokens that do not count.

/// `a` [B, L, ...] with `x` where the mask [B, L] is 0.
mx::array spoiled(const mx::array& a, const mx::array& mask, float x) {
  auto shape = mask.shape();
  shape.resize(a.ndim(), 1);
  return mx::where(mx::astype(mx::reshape(mask, shape), mx::bool_), a, mx::array(x));
}

void same_bits(const Function& f, const mx::array& in, const mx::array& mask,
               const std::vector<float>& instead) {
  const auto run = [&](const mx::array& x) {
    return mx::value_and_grad(f, std::vector<int>{0})({x});
  };
  const auto [loss, grads] = run(in);
  const auto v = values(grads[0]);
  EXPECT_TRUE(std::any_of(v.begin(), v.end(), [](float x) { return x != 0; }));
  for (const float x : instead) {
    const auto [other, others] = run(spoiled(in, mask, x));
    EXPECT_EQ(values(other), values(loss)) << x;
    EXPECT_EQ(values(others[0]), v) << x;
  }
}

TEST(Objectives, DoNotSeeIgnoredTokens) {
  const auto& g = golden();
  // A mask of tokens says which logits count: those before them.
  const auto of_logits = [&](const char* mask) {
    return mx::pad(columns(g(mask), 1, g.length()), std::vector<int>{1}, mx::Shape{0}, mx::Shape{1},
                   mx::array(0));
  };
  for (const auto& c : g.cases.as_array()) {
    const auto name = c.at("name").as_string(), function = c.at("function").as_string();
    SCOPED_TRACE(name);
    const auto f = [&](const Arrays& v) { return loss_of(name, function, c.at("options"), v, 8); };
    const bool any = function.starts_with("distill");  // of other logits only finite ones
    if (function == "grpo") {
      same_bits(f, g("grpo.logps"), g("grpo.mask"), {7, kNaN});
    } else if (leaves_of(function) == std::vector<std::string>{"logits"}) {
      same_bits(f, g("logits"),
                of_logits(function == "orpo" ? "attention_mask" : "completion_mask"),
                any ? std::vector<float>{7, kNaN} : std::vector<float>{7, -1e4f});
    }
  }
  // Nor what the others say of them.
  const auto grpo_with = [&](float x) {
    const auto bad = [&](const char* n) { return spoiled(g(n), g("grpo.mask"), x); };
    return value(grpo(g("grpo.logps"), g("grpo.advantages"), g("grpo.mask"), bad("grpo.old_logps"),
                      bad("grpo.ref_logps"), {.beta = 0.1f})
                     .loss.value());
  };
  EXPECT_EQ(grpo_with(3), grpo_with(kNaN));
  const auto distill_with = [&](float x) {
    const auto t = spoiled(g("teacher_logits"), g("completion_mask"), x);
    return value(
        mx::add(distill({g("logits")}, {t}, g("completion_mask")).value(),
                distill_top_k({g("logits")}, teacher_top_k({t}, 3), g("completion_mask")).value()));
  };
  EXPECT_EQ(distill_with(3), distill_with(kNaN));
  EXPECT_FALSE(std::isnan(distill_with(kNaN)));
}

TEST(Objectives, IgnoreLabelsLikeMasks) {
  const auto& g = golden();
  const auto z = columns(g("logits"), 0, g.length() - 1);
  const auto labels =
      mx::where(mx::astype(g.mask(), mx::bool_), g.labels(), mx::array(kIgnoreIndex));
  EXPECT_EQ(values(token_logprobs({z}, labels)), values(token_logprobs({z}, g.labels(), g.mask())));
  EXPECT_EQ(values(token_mask(labels)), values(g.mask()));
  const auto all = token_logprobs({z}, g.labels());
  EXPECT_EQ(values(sequence_logprobs(all, g.mask()).logprobs),
            values(g.responses(g("logits")).logprobs));
}

}  // namespace
}  // namespace lmxlab::objectives
