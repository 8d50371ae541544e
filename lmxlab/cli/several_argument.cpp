#include "lmxlab/cli/several_argument.h"

#include "lmxlab/cli/sampling_arguments.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/inference/reward_model.h"
#include "lmxlab/inference/samples.h"

#include <algorithm>

namespace lmxlab::cli {

namespace {

void expect_same_tokens(const OpenModel& m, const OpenModel& judge) {
  const int ours = m.model.config().vocab, theirs = judge.model.config().vocab;
  if (ours != theirs)
    throw Error(Kind::mismatch, "[generate] --judge: without tokenizers expected a vocabulary of " +
                                    std::to_string(ours) + " tokens, got " +
                                    std::to_string(theirs));
}

}  // namespace

void SeveralArgument::declare(Options& o) {
  o.option("--n", "N", &n, "samples of a prompt, which is read once; sample i draws with seed + i")
      .range(1, 4096)
      .otherwise("1");
  o.option("--best-of", "N", &best_of,
           "of N samples the one with the highest mean log-probability of a token")
      .range(1, 4096)
      .otherwise("none");
  o.option(
       "--judge", "MODEL", &judge,
       "another model says how probable the samples of --best-of are, or a reward model how good")
      .otherwise("the model itself");
  o.flag("--vote", &vote, "of --n samples the first that gives the answer which most of them give");
  o.option("--answer", "REGEX", &answer,
           "what the answer in a text is: its last match, or the first group of that")
      .otherwise("the last \\boxed{...}, else the last number");
  o.option("--beams", "N", &beams, "beam search with N beams in the place of draws")
      .range(1, 4096)
      .otherwise("none");
  o.option("--length-penalty", "X", &length_penalty,
           "scores of beams are divided by their length to this power: above 0 favours long ones")
      .otherwise("1");
}

void SeveralArgument::check(const GenerateOptions& options, bool file) const {
  const auto refuse = [](const std::string& what) {
    throw Error(Kind::usage, "[generate] " + what);
  };
  if (n && best_of) refuse("--n and --best-of exclude each other: both say how many samples");
  if (judge && !best_of) refuse("--judge needs --best-of N");
  if (vote && !n) refuse("--vote needs --n N");
  if (answer && !vote && !file) refuse("--answer needs --vote, or answers in --prompts-file");
  if (length_penalty && !beams) refuse("--length-penalty needs --beams N");
  if (beams && (n || best_of || file || options.draft || !options.stop_strings.empty()))
    refuse("--beams goes with none of --n, --best-of, --prompts-file, --draft and --stop");
  if (rows() > 1 && options.draft) refuse("--draft is for one text: leave out --n and --best-of");
  if (rows() > 1 && options.sampling.temperature == 0)
    refuse("at temperature 0 all samples are equal: expected --temperature above 0");
}

void SeveralArgument::open(uint64_t seed, const Context& context) {
  if (answer) finder_ = AnswerFinder(*answer);
  if (judge) judge_.emplace(open_model(*judge, seed, std::nullopt, context));
}

std::vector<double> SeveralArgument::judged(const OpenModel& m, std::span<const int> prompt,
                                            const std::vector<Generation>& samples,
                                            const Context& context) {
  auto& j = *judge_;
  if (j.model.config().score) return scored(m, prompt, samples);
  std::vector<int> ids(prompt.begin(), prompt.end());
  std::vector<std::vector<int>> texts;
  if (m.tokenizer && j.tokenizer) {
    ids = j.tokenizer->encode_ids(m.tokenizer->decode(prompt, true),
                                  {.special = true, .add_special = true});
    for (const auto& g : samples) texts.push_back(j.tokenizer->encode_ids(g.text));
  } else {
    expect_same_tokens(m, j);
    for (const auto& g : samples) texts.push_back(g.tokens);
  }
  size_t longest = 1;
  for (const auto& t : texts) longest = std::max(longest, t.size());
  SamplingArguments reading{static_cast<int>(longest)};
  GenerateOptions options{.max_tokens = reading.max_tokens};
  reading.govern(j, 1, int(ids.size() + longest), options, context);
  return lmxlab::judge(j.model, ids, texts);
}

std::vector<double> SeveralArgument::scored(const OpenModel& m, std::span<const int> prompt,
                                            const std::vector<Generation>& samples) {
  auto& j = *judge_;
  std::vector<std::vector<int>> texts;
  if (m.tokenizer && j.tokenizer) {
    const data::SampleTokenizer tokenize(*j.tokenizer);
    const auto bos = m.tokenizer->bos_id();  // the judge has one of its own
    const auto asked = prompt.subspan(bos && !prompt.empty() && prompt[0] == *bos ? 1 : 0);
    data::Sample answer;
    answer.kind = data::SampleKind::unpaired;
    answer.prompt = Json(m.tokenizer->decode(asked));
    std::vector<data::Sample> answers;
    for (const auto& g : samples) {
      answer.response = Json(g.text);
      answers.push_back(answer);
    }
    texts = answer_ids(tokenize, answers);
  } else {
    expect_same_tokens(m, j);
    for (const auto& g : samples) {
      texts.emplace_back(prompt.begin(), prompt.end());
      texts.back().insert(texts.back().end(), g.tokens.begin(), g.tokens.end());
    }
  }
  size_t longest = 1;
  for (const auto& t : texts) longest = std::max(longest, t.size());
  Subject subject = subject_of(j);
  subject.pass = [&](const LanguageModel& model, const plan::Settings& s) {
    score_pass(model, static_cast<int>(texts.size()), s.context);
  };
  govern_pass(subject, j.model.parameter_bytes(), 1, static_cast<int>(longest),
              "scoring texts of " + std::to_string(longest) + " tokens",
              {"shorter texts", "--max-tokens", "answers end earlier"}, {budget_beside(j, &m)});
  return scores(j.model, texts);
}

Choice SeveralArgument::choose(const OpenModel& m, std::span<const int> prompt,
                               const std::vector<Generation>& samples, bool answers,
                               const Context& context) {
  Choice out;
  if (best_of) {
    if (judge_)
      out.scores = judged(m, prompt, samples, context);
    else
      for (const auto& g : samples) out.scores.push_back(mean_logprob(g));
    out.index = static_cast<size_t>(std::max_element(out.scores.begin(), out.scores.end()) -
                                    out.scores.begin());
  }
  if (vote || answers) {
    for (const auto& g : samples) out.answers.push_back(finder_(g.text));
    out.vote = majority(out.answers);
  }
  if (vote && out.vote) out.index = out.vote->first;
  return out;
}

BeamOptions SeveralArgument::beam_options(const GenerateOptions& o) const {
  return {.beams = *beams,
          .length_penalty = float(length_penalty.value_or(1)),
          .max_tokens = o.max_tokens,
          .stop_tokens = o.stop_tokens,
          .ignore_eos = o.ignore_eos,
          .prefill_chunk = o.prefill_chunk,
          .kv_bits = o.kv_bits,
          .max_kv = o.max_kv,
          .stop = o.stop};
}

}  // namespace lmxlab::cli
