// Distillation: how far a student's next-token distributions are from a teacher's.
// Vocabulary-wide arrays are made for `rows` positions at a time, forwards and backwards, and once
// more for the gradient: given hidden states and heads, no logits are ever whole; given logits,
// those and their gradient are. The teacher gets no gradient. All functions throw Error(usage) if
// shapes do not fit or an option is out of its range.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/training/objectives/logprobs.h"

namespace lmxlab::objectives {

struct DistillOptions {
  /// 0: KL(teacher || student), forward. 1: KL(student || teacher), reverse. Between: the
  /// generalized Jensen-Shannon divergence, beta KL(t || m) + (1 - beta) KL(s || m) with
  /// m = beta t + (1 - beta) s: arXiv:2306.13649 eq. 1. It goes to 0
  /// towards both ends, which are KL by convention.
  float beta = 0;
  /// Of both distributions. Gradients shrink with its square: to weigh this against a
  /// cross-entropy, multiply it by the square (arXiv:1503.02531 section 2.1). It is not done here.
  float temperature = 1;
  int rows = 128;  // positions at a time
};

/// @param student, teacher  of one B, L and V; hidden sizes may differ
/// @param mask  [B, L], true at positions that count: whose next token is one of the response
/// @return  nats, counted by tokens
/// @cost  the head's products, those for the teacher's logits again for the gradient, the student's
/// with their own two gradients; workspace about 7 rows V floats. The gradient of a 16-bit head is
/// rounded once a lot.
Mean distill(const Logits& student, const Logits& teacher, const mx::array& mask,
             const DistillOptions& options = {});

/// A teacher's largest log-probabilities, to be kept in place of its logits.
struct TopK {
  mx::array ids;       // int32 [B, L, K], in no order
  mx::array logprobs;  // float32 [B, L, K]: log p over the whole vocabulary, at a temperature
};

/// @param k  at most V;  @param rows  positions at a time
TopK teacher_top_k(const Logits& teacher, int k, float temperature = 1, int rows = 128);

/// What stands for the words that are not kept.
///   bucket       one more word, with the rest of the probability: a lower bound of the whole
///                divergence, 0 only if the student has the teacher's probability of each kept word
///   renormalize  nothing: both distributions are those of the kept words only. What the student
///                gives to other words is not seen.
enum class Rest { bucket, renormalize };

struct TopKOptions {
  Rest rest = Rest::bucket;
  float temperature = 1;  // of the student: the one at which the teacher's were made
  int rows = 128;
};

/// KL(teacher || student) over the kept words.
/// @return  nats, counted by tokens;  @cost  as distill, less the teacher
Mean distill_top_k(const Logits& student, const TopK& teacher, const mx::array& mask,
                   const TopKOptions& options = {});

}  // namespace lmxlab::objectives

template <>
struct lmxlab::EnumNames<lmxlab::objectives::Rest> {
  using E = objectives::Rest;
  static constexpr std::pair<E, const char*> table[] = {{E::bucket, "bucket"},
                                                        {E::renormalize, "renormalize"}};
};
