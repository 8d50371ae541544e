#include "lmxlab/inference/mtp_draft.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/start_step.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>

namespace lmxlab {
namespace {

constexpr int kPiece = 512;  // positions that are read at a time, and that wait at most

mx::array rows(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {1, to, x.shape(2)});
}
mx::array behind(const std::optional<mx::array>& a, const mx::array& b) {
  return a ? mx::concatenate({*a, b}, 1) : b;
}

}  // namespace

MtpDraft::MtpDraft(const LanguageModel& model, const std::optional<CacheOptions>& options)
    : model_(model), options_(options.value_or(CacheOptions{.kv_bits = model.kv_bits()})) {
  const auto n = model.config().mtp_heads.size();
  if (n == 0)
    throw Error(Kind::mismatch,
                "[speculative] the model has no heads for further tokens: expected one that was "
                "trained with objective mtp, or a checkpoint that has them. Take another draft.");
  heads_.resize(n);
  restart(0);
}

void MtpDraft::restart(int first) {
  const Enter enter(model_.runtime());
  first_ = seen_ = first;
  text_.clear(), told_.clear();
  for (size_t k = 0; k < heads_.size(); ++k) {
    std::vector<std::unique_ptr<core::LayerCache>> one;
    one.push_back(model_.transformer().mtp_heads[k].make_cache(options_));
    heads_[k] = Head{Cache(std::move(one), model_.runtime())};
    heads_[k].cache.max_kv = options_.max_kv;
  }
}

void MtpDraft::saw(std::span<const int> text, int first, const mx::array& hidden) {
  const Enter enter(model_.runtime());
  const bool goes_on =
      text.size() >= text_.size() && std::equal(text_.begin(), text_.end(), text.begin());
  if (!goes_on || first > seen_) restart(first);  // another text, or something was not told of
  text_.assign(text.begin(), text.end());
  const int last = std::min(static_cast<int>(text.size()), first + hidden.shape(1));
  if (seen_ >= last) return;
  told_.push_back(rows(hidden, seen_ - first, last - first));
  seen_ = last;
  if (seen_ - first_ - heads_[0].sure >= kPiece) read_text();
}

// As the step of the model: lazy. Behind what the head's cache has.
mx::array MtpDraft::read(int k, const mx::array& hidden, const mx::array& tokens) {
  auto& head = heads_[static_cast<size_t>(k)];
  auto pass = model_.make_pass(&head.cache);
  const kernels::WithActivations rounded(model_.prompt_activations(hidden.shape(1)));
  return model_.transformer().mtp(k, hidden, tokens, pass);
}

// Every head as far as the text has the tokens that it needs.
void MtpDraft::read_text() {
  const std::span<const int> text(text_);
  if (!told_.empty()) {
    auto& first = heads_[0].waiting;
    if (first) told_.insert(told_.begin(), *first);
    first = told_.size() == 1 ? told_[0] : mx::concatenate(told_, 1);
    told_.clear();
  }
  for (int k = 0; k < depth(); ++k) {
    auto& head = heads_[static_cast<size_t>(k)];
    if (head.cache.length() > head.sure && !head.cache.rewind(head.sure)) return restart(seen_);
    const int token = first_ + k + 1;  // that belongs to its first position
    while (head.waiting) {
      const int waiting = head.waiting->shape(1);
      const int n = std::min({waiting, kPiece, static_cast<int>(text.size()) - token - head.sure});
      if (n <= 0) break;
      const auto ids = text.subspan(static_cast<size_t>(token + head.sure), static_cast<size_t>(n));
      const auto made = read(k, rows(*head.waiting, 0, n), kernels::host_array(ids.data(), {1, n}));
      if (k + 1 < depth()) {
        auto& next = heads_[static_cast<size_t>(k + 1)];
        next.waiting = behind(next.waiting, made);
      }
      head.last = rows(made, n - 1, n);
      head.sure += n;
      if (n < waiting)
        head.waiting = rows(*head.waiting, n, waiting);
      else
        head.waiting.reset();
      if (n <= Pace::kMost) continue;
      // Of many rows each array is given up after its last use.
      auto all = head.cache.arrays();
      all.push_back(made);
      mx::eval(all);
    }
    head.cache.mark();
  }
}

std::vector<int> MtpDraft::draft(const DraftRequest& r) {
  const int length = static_cast<int>(r.text.size());
  const auto* learned = std::get_if<config::Learned>(&model_.config().position);
  const int most = learned ? std::min(r.most, learned->length - length + 1) : r.most;
  // What the model made of the last but one is what the first head begins with.
  if (most <= 0 || seen_ != length - 1 || seen_ <= first_) return {};
  const Enter enter(model_.runtime());
  try {
    text_.assign(r.text.begin(), r.text.end());
    read_text();
    if (seen_ <= first_) return {};
    auto sampler = sampler_behind(r.sampling, model_.config().vocab, r.text, {}, r.step, -1);
    std::vector<mx::array> drawn;
    const auto draw = [&](const mx::array& hidden) {  // of its last position
      const int n = hidden.shape(1);
      const auto logits = model_.transformer().head(rows(hidden, n - 1, n));
      drawn.push_back(sampler.draw(mx::squeeze(logits, 1)).tokens);
    };
    // What the head before made of positions behind its sure ones.
    std::optional<mx::array> made;
    draw(*heads_[0].last);
    mx::array last = *heads_[0].last;
    for (int k = 1; static_cast<int>(drawn.size()) < most; ++k) {
      const int head = std::min(k, depth() - 1);
      if (k < depth()) {
        // The one position that it could read if the next token were known, then those.
        auto& h = heads_[static_cast<size_t>(head)];
        auto in = h.waiting;
        if (made) in = in ? mx::concatenate({*in, *made}, 1) : *made;
        if (!in) break;  // the text is shorter than the heads look ahead
        const int n = in->shape(1);
        std::vector<mx::array> tokens(drawn.end() - n, drawn.end());
        made = read(head, *in, mx::reshape(mx::concatenate(tokens, 0), {1, n}));
        last = rows(*made, n - 1, n);
      } else {
        last = read(head, last, mx::reshape(drawn.back(), {1, 1}));
      }
      draw(last);
    }
    const auto tokens = mx::concatenate(drawn, 0);
    std::vector<mx::array> all{tokens};
    for (const auto& head : heads_) {
      for (auto& a : head.cache.arrays()) all.push_back(a);
      for (const auto* a : {&head.waiting, &head.last})
        if (*a) all.push_back(**a);
    }
    kernels::start_step(all);
    kernels::wait_for(tokens);
    std::vector<int> out(tokens.size());
    std::memcpy(out.data(), tokens.data<int32_t>(), tokens.nbytes());
    return out;
  } catch (...) {
    kernels::finish_steps();
    restart(seen_);
    throw;
  }
}

size_t MtpDraft::cache_bytes() const {
  size_t n = 0;
  for (const auto& head : heads_) n += head.cache.bytes();
  return n;
}

}  // namespace lmxlab
