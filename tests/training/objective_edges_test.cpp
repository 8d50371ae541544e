// Objectives where numbers are extreme, absent or of another type, and what they refuse.
#include "lmxlab/training/objectives/distill.h"
#include "lmxlab/training/objectives/grpo.h"
#include "lmxlab/training/objectives/preference.h"
#include "tests/support/error_of.h"
#include "tests/training/objectives_golden.h"

#include <gmock/gmock.h>

#include <iostream>

namespace lmxlab::objectives {
namespace {

TEST(ObjectiveEdges, LogprobsOfAHeadAreThoseOfItsLogits) {
  const auto& g = golden();
  const auto h = g("student_hidden"), w = g("student_weight"), b = g("student_bias");
  const auto labels = rows(g("input_ids"), 0, h.shape(0));
  const auto z = mx::add(mx::matmul(h, mx::transpose(w)), b);
  const auto capped = mx::multiply(mx::tanh(mx::divide(z, mx::array(2.0f))), mx::array(2.0f));
  EXPECT_LT(off(token_logprobs({h, w, b, {.softcap = 2}}, labels, {}, 0.7f),
                token_logprobs({capped}, labels, {}, 0.7f)),
            1e-5f);
  EXPECT_LT(off(token_logprobs({z}, labels, {}, 0.5f),
                token_logprobs({mx::multiply(z, mx::array(2.0f))}, labels)),
            1e-6f);
}

TEST(ObjectiveEdges, OfNothingAreZero) {
  const auto& g = golden();
  const auto none = mx::zeros_like(g.mask());
  const auto zero = [&](const char* name, const mx::array& in,
                        const std::function<Mean(const mx::array&)>& f) {
    SCOPED_TRACE(name);
    const auto [loss, grads] = mx::value_and_grad(
        Function([&](const Arrays& v) { return f(v[0]).value(); }), std::vector<int>{0})({in});
    EXPECT_EQ(value(loss), 0);
    for (const float x : values(grads[0])) EXPECT_EQ(x, 0);
  };
  const auto refs = mx::zeros({3});
  for (const auto& [type, name] : EnumNames<DpoLoss>::table) {
    zero(name, g("logits"), [&, t = type](const mx::array& z) {
      const auto s = g.responses(z, none);
      return dpo(half(s, 0), half(s, 1), refs, refs, {.loss_type = t}).loss;
    });
  }
  const auto pair = [&](const mx::array& z, int which) {
    return half(g.responses(z, none), which);
  };
  zero("simpo", g("logits"), [&](auto& z) { return simpo(pair(z, 0), pair(z, 1)).loss; });
  zero("orpo", g("logits"), [&](auto& z) { return orpo(pair(z, 0), pair(z, 1)).odds; });
  zero("nll", g("logits"), [&](auto& z) { return orpo(pair(z, 0), pair(z, 1)).nll; });
  zero("kto", g("logits"), [&](auto& z) {
    return kto(g.responses(z, none), g.ref(), g("desirable"), mx::array(0.0f)).loss;
  });
  for (const auto& [type, name] : EnumNames<GrpoLossType>::table) {
    zero(name, g("grpo.logps"), [&, t = type](const mx::array& p) {
      return grpo(p, g("grpo.advantages"), mx::zeros_like(g("grpo.mask")), g("grpo.old_logps"),
                  g("grpo.ref_logps"), {.loss_type = t, .beta = 0.1f, .max_completion_length = 4})
          .loss;
    });
  }
  const auto nowhere = mx::zeros_like(g("completion_mask"));
  for (const float beta : {0.0f, 0.5f, 1.0f}) {
    zero("distill", g("logits"), [&](const mx::array& z) {
      return distill({z}, {g("teacher_logits")}, nowhere, {.beta = beta, .rows = 4});
    });
  }
  for (const auto& [rest, name] : EnumNames<Rest>::table) {
    zero(name, g("logits"), [&, r = rest](const mx::array& z) {
      return distill_top_k({z}, teacher_top_k({g("teacher_logits")}, 2), nowhere, {.rest = r});
    });
  }
}

TEST(ObjectiveEdges, OfOnePairThatTheReferenceSeesAlikeIsLog2) {
  const auto& g = golden();
  const auto s = g.responses(g("logits"));
  const auto row = [](const mx::array& a) { return rows(a, 0, 1); };
  const Sequences one{row(s.logprobs), row(s.tokens)};
  const auto loss = dpo(one, one, one.logprobs, one.logprobs);
  EXPECT_NEAR(value(loss.loss.value()), std::log(2.0f), 1e-6f);
  EXPECT_EQ(value(loss.chosen_rewards), 0);
  const auto r = mx::array({0.3f});
  EXPECT_NEAR(value(reward(r, r).value()), std::log(2.0f), 1e-6f);
}

TEST(ObjectiveEdges, OfACertainOrImpossibleResponseAreFinite) {
  const auto lp = mx::array({0.0f, -1e-8f, -300.0f}), tokens = mx::ones({3});
  const auto other = mx::array({-300.0f, 0.0f, -1e-8f});
  const auto [loss, grads] =
      mx::value_and_grad(Function([&](const Arrays& v) {
                           return orpo({v[0], tokens}, {other, tokens}).odds.value();
                         }),
                         std::vector<int>{0})({lp});
  EXPECT_TRUE(std::isfinite(value(loss)));
  for (const float x : values(grads[0])) EXPECT_TRUE(std::isfinite(x));
}

TEST(ObjectiveEdges, GrpoPullsTowardsTheReference) {
  const auto& g = golden();
  const auto mask = g("grpo.mask");
  const auto f = [&](const Arrays& v) {
    return grpo(v[0], mx::zeros({4}), mask, {}, g("grpo.ref_logps"), {.beta = 1}).loss.value();
  };
  const auto [loss, grads] =
      mx::value_and_grad(Function(f), std::vector<int>{0})({g("grpo.logps")});
  EXPECT_GT(value(loss), 0);
  const auto away = mx::subtract(g("grpo.logps"), g("grpo.ref_logps"));
  const auto slopes = values(grads[0]), d = values(away), m = values(mask);
  for (size_t i = 0; i < d.size(); ++i) {
    if (m[i] == 0) continue;
    EXPECT_GT(slopes[i] * d[i], 0) << i;
  }
}

TEST(ObjectiveEdges, GrpoTellsWhatItClipped) {
  const auto p = mx::array({0.5f, 0.0f, -0.5f, 0.5f, 0.0f, -0.5f}, {2, 3});
  const auto out = grpo(p, mx::array({1.0f, -1.0f}), mx::ones({2, 3}), mx::zeros({2, 3}), {});
  EXPECT_FLOAT_EQ(value(out.clip_high.value()), 1.0f / 6);
  EXPECT_FLOAT_EQ(value(out.clip_low.value()), 1.0f / 6);
}

TEST(ObjectiveEdges, OfDistillationOfOneselfAreZeroAndOthersAbove) {
  const auto& g = golden();
  const auto mask = g("completion_mask");
  for (const float beta : {0.0f, 0.3f, 1.0f}) {
    EXPECT_NEAR(value(distill({g("logits")}, {g("logits")}, mask, {.beta = beta}).value()), 0,
                1e-6);
    EXPECT_GT(value(distill({g("logits")}, {g("teacher_logits")}, mask, {.beta = beta}).value()),
              0);
  }
  // With every word kept, the rest is none.
  const auto all = teacher_top_k({g("teacher_logits")}, g("logits").shape(2));
  const auto whole = distill({g("logits")}, {g("teacher_logits")}, mask).value();
  for (const auto& [rest, name] : EnumNames<Rest>::table)
    EXPECT_LT(off(distill_top_k({g("logits")}, all, mask, {.rest = rest}).value(), whole), 1e-5f);
}

TEST(ObjectiveEdges, OfDistillationWithExcludedWordsAreFinite) {
  const auto& g = golden();
  const auto word =
      mx::reshape(mx::equal(mx::arange(g("logits").shape(2)), mx::array(2)), {1, 1, -1});
  const auto without = [&](const mx::array& z) {
    return mx::where(word, mx::array(-std::numeric_limits<float>::infinity()), z);
  };
  for (const float beta : {0.0f, 0.5f, 1.0f}) {
    const auto f = [&](const Arrays& v) {
      return distill({without(v[0])}, {without(g("teacher_logits"))}, g("completion_mask"),
                     {.beta = beta})
          .value();
    };
    const auto [loss, grads] = mx::value_and_grad(Function(f), std::vector<int>{0})({g("logits")});
    EXPECT_TRUE(std::isfinite(value(loss))) << beta;
    for (const float x : values(grads[0])) EXPECT_TRUE(std::isfinite(x)) << beta;
  }
}

TEST(ObjectiveEdges, OfDistillationNeverMakeAllLogits) {
  const int length = 512, words = 4096, dim = 16;
  const auto draw = [](mx::Shape shape, uint64_t seed) {
    auto a = mx::random::normal(shape, mx::float32, 0, 1, mx::random::key(seed));
    a.eval();
    return a;
  };
  const auto h = draw({1, length, dim}, 1), w = draw({words, dim}, 2),
             t = draw({1, length, dim}, 3);
  const auto mask = mx::ones({1, length}, mx::bool_);
  mx::eval(mask);
  const auto peak = [&](int at) {
    const auto f = [&](const Arrays& v) {
      return distill({v[0], v[1]}, {t, w}, mask, {.beta = 0.5f, .rows = at}).value();
    };
    mx::reset_peak_memory();
    const auto before = mx::get_active_memory();
    auto [loss, grads] = mx::value_and_grad(Function(f), std::vector<int>{0, 1})({h, w});
    grads.push_back(loss);
    mx::eval(grads);
    mx::synchronize();
    return static_cast<double>(mx::get_peak_memory() - before) / (4.0 * words);
  };
  const double few = peak(16), all = peak(length);  // in rows of words
  std::cout << "peak: " << few << " rows of words at 16 a time, " << all << " at once\n";
  EXPECT_LT(few, length);
  EXPECT_GT(all, 2 * length);
}

TEST(ObjectiveEdges, GiveTheOthersNoGradient) {
  const auto& g = golden();
  const auto none = [](const char* what, const mx::array& in,
                       const std::function<mx::array(const mx::array&)>& f) {
    SCOPED_TRACE(what);
    for (const float x : values(mx::grad(f)(in))) EXPECT_EQ(x, 0);
  };
  const auto s = g.responses(g("logits"));
  const auto good = half(s, 0), bad = half(s, 1);
  none("dpo", g.ref(), [&](const mx::array& ref) {
    return dpo(good, bad, halves(ref, 0), halves(ref, 1)).loss.value();
  });
  none("dpo's rewards", s.logprobs, [&](const mx::array& lp) {
    return mx::sum(dpo({halves(lp, 0), good.tokens}, bad, halves(g.ref(), 0), halves(g.ref(), 1))
                       .chosen_rewards);
  });
  none("kto", g.ref(), [&](const mx::array& ref) {
    return kto(s, ref, g("desirable"), kto_kl(s, ref).value()).loss.value();
  });
  none("kto's estimate", s.logprobs, [&](const mx::array& lp) {
    return kto(s, g.ref(), g("desirable"), kto_kl({lp, s.tokens}, g.ref()).value()).loss.value();
  });
  for (const auto* name : {"grpo.old_logps", "grpo.ref_logps"}) {
    none(name, g(name), [&](const mx::array& x) {
      const bool old = name == std::string("grpo.old_logps");
      return grpo(g("grpo.logps"), g("grpo.advantages"), g("grpo.mask"),
                  old ? x : g("grpo.old_logps"), old ? g("grpo.ref_logps") : x, {.beta = 0.1f})
          .loss.value();
    });
  }
  none("advantages", g("group_rewards"), [&](const mx::array& r) {
    return grpo(g("grpo.logps"), rows(group_advantages(r, 4), 0, 4), g("grpo.mask"), {}, {})
        .loss.value();
  });
  none("teacher", g("teacher_logits"), [&](const mx::array& t) {
    const auto mask = g("completion_mask");
    return mx::add(distill({g("logits")}, {t}, mask, {.beta = 0.5f}).value(),
                   distill_top_k({g("logits")}, teacher_top_k({t}, 2), mask).value());
  });
}

TEST(ObjectiveEdges, OfBfloat16AreThoseOfTheSameNumbersInFloat32) {
  const auto& g = golden();
  const auto half_width = [](const mx::array& a) { return mx::astype(a, mx::bfloat16); };
  const auto widened = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  const auto compare_types = [&](const mx::array& in,
                                 const std::function<mx::array(const mx::array&)>& f) {
    const auto x = half_width(in);
    const auto [a, da] = mx::value_and_grad(f)(x);
    const auto [b, db] = mx::value_and_grad(f)(widened(x));
    EXPECT_EQ(a.dtype(), mx::float32);
    EXPECT_EQ(da.dtype(), mx::bfloat16);
    EXPECT_LT(off(a, b), 1e-6f);
    EXPECT_LT(off(da, half_width(db)), 1e-2f);
  };
  const auto mask = g("completion_mask"), t = half_width(g("teacher_logits"));
  compare_types(g("logits"), [&](const mx::array& z) {
    return nll(sequence_logprobs(token_logprobs({z}, g("input_ids"), mask), mask)).value();
  });
  compare_types(g("logits"), [&](const mx::array& z) {
    return distill({z}, {t}, mask, {.beta = 0.5f, .temperature = 2, .rows = 5}).value();
  });
  compare_types(g("logits"), [&](const mx::array& z) {
    return distill_top_k({z}, teacher_top_k({t}, 3), mask, {.rows = 5}).value();
  });
}

TEST(ObjectiveEdges, RefuseWhatDoesNotFit) {
  using testing::HasSubstr;
  const auto refuses = [](const char* what, const std::function<void()>& f) {
    const auto e = test::error_of(f);
    EXPECT_EQ(e.kind(), Kind::usage) << what;
    EXPECT_THAT(e.what(), HasSubstr(what));
  };
  const auto a3 = mx::zeros({3}), a2 = mx::zeros({2}), m = mx::zeros({2, 4});
  const auto z = mx::zeros({2, 4, 5});
  const Sequences s3{a3, a3}, s2{a2, a2};
  refuses("[token_logprobs] logits: expected [2, 4, 5], got [2, 3, 5]", [&] {
    token_logprobs({mx::zeros({2, 3, 5})}, mx::zeros({2, 4}, mx::int32));
  });
  refuses("[token_mask] mask", [&] { token_mask(m, a2); });
  refuses("[sequence_logprobs] mask", [&] { sequence_logprobs(m, a2); });
  refuses("[dpo] rejected: expected [3], got [2]", [&] { dpo(s3, s2, a3, a3); });
  refuses("[dpo] ref_chosen: expected [3], got [2]", [&] { dpo(s3, s3, a2, a3); });
  refuses("[dpo] ref_rejected: expected [3], got [2]", [&] { dpo(s3, s3, a3, a2); });
  refuses("[dpo] beta", [&] { dpo(s3, s3, a3, a3, {.beta = 0}); });
  refuses("[dpo] label_smoothing", [&] { dpo(s3, s3, a3, a3, {.label_smoothing = 0.5f}); });
  refuses("label_smoothing: ipo has none",
          [&] { dpo(s3, s3, a3, a3, {.loss_type = DpoLoss::ipo, .label_smoothing = 0.1f}); });
  refuses("[simpo] rejected", [&] { simpo(s3, s2); });
  refuses("[orpo] rejected", [&] { orpo(s3, s2); });
  refuses("[kto] desirable", [&] { kto(s3, a3, a2, mx::array(0.0f)); });
  refuses("[kto] kl: expected [], got [3]", [&] { kto(s3, a3, a3, a3); });
  refuses("[kto_kl] ref_mismatched", [&] { kto_kl(s3, a2); });
  refuses("[reward] rejected", [&] { reward(a3, a2); });
  refuses("[reward] margin", [&] { reward(a3, a3, a2); });
  refuses("multiple of group_size 2, got 3", [&] { group_advantages(a3, 2); });
  refuses("[grpo] advantages: expected [2], got [3]", [&] { grpo(m, a3, m, {}, {}); });
  refuses("[grpo] mask", [&] { grpo(m, a2, a2, {}, {}); });
  refuses("[grpo] ref_logprobs: a beta needs them", [&] { grpo(m, a2, m, {}, {}, {.beta = 1}); });
  refuses("[grpo] max_completion_length",
          [&] { grpo(m, a2, m, {}, {}, {.loss_type = GrpoLossType::dr_grpo}); });
  refuses("[distill] mask: expected [2, 4], got [2]", [&] { distill({z}, {z}, a2); });
  refuses("[distill] vocabulary: the student has 5 words, the teacher 6", [&] {
    distill({z}, {mx::zeros({2, 4, 6})}, m);
  });
  refuses("[distill] weight: expected [7, 5], got [7, 3]", [&] {
    distill({z, mx::zeros({7, 3})}, {z}, m);
  });
  refuses("[distill] beta", [&] { distill({z}, {z}, m, {.beta = 2}); });
  refuses("[distill] rows", [&] { distill({z}, {z}, m, {.rows = 0}); });
  refuses("[teacher_top_k] k: expected 1 to 5, got 6", [&] { teacher_top_k({z}, 6); });
  refuses("[distill_top_k] logprobs", [&] {
    distill_top_k({z}, {mx::zeros({2, 4, 3}, mx::int32), m}, m);
  });
}

}  // namespace
}  // namespace lmxlab::objectives
