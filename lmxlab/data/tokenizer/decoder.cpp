#include "lmxlab/data/tokenizer/decoder.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace lmxlab::data {
namespace {

// A stage may make its text longer, and a chain of them without end: what each may give in all
// grows with what came into the first.
struct Allowance {
  static constexpr size_t kFirst = size_t{1} << 20, kPerByte = 64;
  size_t bytes = kFirst;
};

class Stage : public Sink {
 public:
  explicit Stage(Sink& next) : next_(next) {}
  void finish() override {
    given_ = 0;
    next_.finish();
  }
  void allow(const Allowance& allowance) { allowance_ = &allowance; }

 protected:
  void emit(std::string_view part, bool begins) {
    check_length(given_ += part.size(), allowance_->bytes);
    next_.push(part, begins);
  }

 private:
  Sink& next_;
  const Allowance* allowance_ = nullptr;
  size_t given_ = 0;
};

// For decoders that look at whole tokens. Parts of one (`fragments`) are gathered until the next
// one begins.
class EachToken : public Stage {
 public:
  EachToken(Sink& next, bool fragments) : Stage(next), fragments_(fragments) {}
  void push(std::string_view part, bool begins) final {
    if (!fragments_) return token(std::string(part));
    if (begins && open_) flush();
    open_ = true;
    gathered_ += part;
  }
  void finish() final {
    if (open_) flush();
    end();
    Stage::finish();
  }

 protected:
  virtual void token(std::string text) = 0;
  virtual void end() {}

 private:
  void flush() {
    open_ = false;
    std::string text;
    text.swap(gathered_);
    token(std::move(text));
  }
  bool fragments_, open_ = false;
  std::string gathered_;
};

// Bytes of all tokens, as one token of valid UTF-8.
class ByteLevelStage : public EachToken {
 public:
  using EachToken::EachToken;

 protected:
  void token(std::string text) override {
    // A token that is no string of letters (an added one with a space, say) stands for its own
    // text.
    if (!append_bytes(held_, text)) held_ += text;
    release(false);
  }
  void end() override {
    release(true);
    held_.clear();
    begun_ = false;
  }

 private:
  // What could still become a character stays unless `last`.
  void release(bool last) {
    std::string out;
    size_t at = 0;
    while (at < held_.size()) {
      bool valid = true, incomplete = false;
      const size_t length = utf8_length(held_, at, valid, incomplete);
      if (incomplete && !last) break;
      out += valid ? std::string_view(held_).substr(at, length) : kReplacement;
      at += length;
    }
    held_.erase(0, at);
    if (!out.empty() || !begun_) emit(out, !begun_);
    begun_ = true;
  }
  std::string held_;
  bool begun_ = false;
};

// A run of byte tokens is text if it is valid as a whole, else as many U+FFFD.
class ByteFallbackStage : public EachToken {
 public:
  using EachToken::EachToken;

 protected:
  void token(std::string text) override {
    if (const int byte = byte_of_token(text); byte >= 0) {
      run_ += static_cast<char>(byte);
      return;
    }
    end();
    emit(text, true);
  }
  void end() override {
    if (run_.empty()) return;
    if (invalid_utf8_at(run_) == std::string::npos)
      emit(run_, true);
    else
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacement, true);
    run_.clear();
  }

 private:
  std::string run_;
};

class FuseStage : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view part, bool) override {
    emit(part, !begun_);
    begun_ = true;
  }
  void finish() override {
    if (!begun_) emit({}, true);
    begun_ = false;
    Stage::finish();
  }

 private:
  bool begun_ = false;
};

class StripStage : public Stage {
 public:
  StripStage(Sink& next, const StripDecoder& d) : Stage(next), d_(d) {}
  void push(std::string_view part, bool begins) override {
    if (begins) {
      close();
      leading_ = d_.start;
      emit({}, true);
    }
    while (leading_ > 0 && !part.empty()) {
      if (!part.starts_with(d_.content)) {
        leading_ = 0;
        break;
      }
      part.remove_prefix(d_.content.size());
      --leading_;
    }
    if (part.empty()) return;
    // What may be the end of the token waits.
    const std::string text = std::string(held_) + std::string(part);
    size_t keep = text.size();
    for (size_t n = 0; n < d_.stop && keep >= d_.content.size() &&
                       std::string_view(text).substr(0, keep).ends_with(d_.content);
         ++n)
      keep -= d_.content.size();
    emit(std::string_view(text).substr(0, keep), false);
    held_ = text.substr(keep);
  }
  void finish() override {
    close();
    Stage::finish();
  }

 private:
  void close() { held_.clear(); }
  const StripDecoder& d_;
  size_t leading_ = 0;
  std::string held_;
};

class ReplaceStage : public EachToken {
 public:
  ReplaceStage(Sink& next, bool fragments, const Replace& r) : EachToken(next, fragments), r_(r) {}

 protected:
  void token(std::string text) override { emit(r_.replaced(text), true); }

 private:
  const Replace& r_;
};

class MetaspaceStage : public Stage {
 public:
  MetaspaceStage(Sink& next, const Metaspace& m) : Stage(next), m_(m) {}
  void push(std::string_view part, bool begins) override {
    if (begins) ++tokens_;
    std::string out;
    each_character(part, [&](char32_t, size_t begin, size_t end) {
      const std::string_view c = part.substr(begin, end - begin);
      if (c != m_.replacement)
        out += c;
      else if (tokens_ > 1 || m_.prepend_scheme == Metaspace::Prepend::never)
        out += ' ';
    });
    emit(out, begins);
  }
  void finish() override {
    tokens_ = 0;
    Stage::finish();
  }

 private:
  const Metaspace& m_;
  size_t tokens_ = 0;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  text = out.append(text, done);
}

// Spaces that English has not, taken out.
void clean_up(std::string& text) {
  static constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

class WordPieceStage : public EachToken {
 public:
  WordPieceStage(Sink& next, bool fragments, const WordPieceDecoder& d)
      : EachToken(next, fragments), d_(d) {}

 protected:
  void token(std::string text) override {
    if (!first_) {
      if (text.starts_with(d_.prefix))
        text.erase(0, d_.prefix.size());
      else
        text.insert(0, 1, ' ');
    }
    first_ = false;
    if (d_.cleanup) clean_up(text);
    emit(text, true);
  }
  void end() override { first_ = true; }

 private:
  const WordPieceDecoder& d_;
  bool first_ = true;
};

// The suffix is a space but in the last token, which therefore waits.
class BpeStage : public EachToken {
 public:
  BpeStage(Sink& next, bool fragments, const BpeDecoder& d) : EachToken(next, fragments), d_(d) {}

 protected:
  void token(std::string text) override {
    put(" ");
    held_ = std::move(text);
    holds_ = true;
  }
  void end() override { put(""); }

 private:
  void put(std::string_view end_of_word) {
    if (!holds_) return;
    if (d_.suffix.empty())
      each_gap(end_of_word);
    else
      replace_all(held_, d_.suffix, end_of_word);
    emit(held_, true);
    holds_ = false;
  }
  // An empty suffix stands between all characters.
  void each_gap(std::string_view filling) {
    std::string out(filling);
    each_character(held_, [&](char32_t, size_t begin, size_t end) {
      out.append(held_, begin, end - begin).append(filling);
    });
    held_ = std::move(out);
  }
  const BpeDecoder& d_;
  std::string held_;
  bool holds_ = false;
};

class CtcStage : public EachToken {
 public:
  CtcStage(Sink& next, bool fragments, const Ctc& d) : EachToken(next, fragments), d_(d) {}

 protected:
  void token(std::string text) override {
    if (any_ && text == last_) return;
    any_ = true;
    last_ = text;
    replace_all(text, d_.pad_token, "");
    if (d_.cleanup) {
      clean_up(text);
      replace_all(text, d_.word_delimiter_token, " ");
    }
    if (!text.empty()) emit(text, true);
  }
  void end() override { any_ = false; }

 private:
  const Ctc& d_;
  std::string last_;
  bool any_ = false;
};

class SentencePieceStage : public EachToken {
 public:
  SentencePieceStage(Sink& next, bool fragments, const SentencePieceDecoder& d)
      : EachToken(next, fragments), d_(d), controls_(d.controls.begin(), d.controls.end()) {}

 protected:
  void token(std::string text) override {
    if (const int byte = byte_of_token(text); byte >= 0) {
      bytes_ += static_cast<char>(byte);
      return release(false);
    }
    release(true);
    if (controls_.contains(text)) return emit(text, true);
    if (stripped_ || wrote_) at_begin_ = false;
    stripped_ = false;
    if (text == d_.unk_piece) {
      text = d_.unk_surface;
    } else {
      if (at_begin_ && (d_.strip_first || d_.strip_all) && text.starts_with(kMetaspace)) {
        text.erase(0, kMetaspace.size());
        stripped_ = !d_.strip_all;
      }
      replace_all(text, kMetaspace, " ");
    }
    put(text);
  }
  void end() override {
    release(true);
    at_begin_ = true, stripped_ = wrote_ = false;
  }

 private:
  void put(std::string_view text) {
    wrote_ = wrote_ || !text.empty();
    emit(text, true);
  }
  // Whole characters of the run of bytes; a byte that belongs to none is U+FFFD.
  void release(bool last) {
    size_t at = 0;
    while (at < bytes_.size()) {
      bool valid = true, incomplete = false;
      const size_t length = utf8_length(bytes_, at, valid, incomplete);
      if (incomplete && !last) break;
      put(valid ? std::string_view(bytes_).substr(at, length) : kReplacement);
      at += valid ? length : 1;
    }
    bytes_.erase(0, at);
  }
  const SentencePieceDecoder& d_;
  std::unordered_set<std::string_view> controls_;
  std::string bytes_;
  bool at_begin_ = true, stripped_ = false, wrote_ = false;
};

class SpacedStage : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view part, bool begins) override {
    if (begins && any_) emit(" ", true);
    any_ = true;
    emit(part, begins);
  }
  void finish() override {
    any_ = false;
    Stage::finish();
  }

 private:
  bool any_ = false;
};

// `fragments`: its tokens may come in parts, since a stage before it joins them.
std::unique_ptr<Stage> make_stage(const Decoder& decoder, Sink& next, bool fragments) {
  struct Make {
    Sink& next;
    bool fragments;
    using Made = std::unique_ptr<Stage>;
    Made operator()(const ByteLevel&) { return std::make_unique<ByteLevelStage>(next, fragments); }
    Made operator()(const ByteFallback&) {
      return std::make_unique<ByteFallbackStage>(next, fragments);
    }
    Made operator()(const Fuse&) { return std::make_unique<FuseStage>(next); }
    Made operator()(const StripDecoder& d) { return std::make_unique<StripStage>(next, d); }
    Made operator()(const Replace& d) { return std::make_unique<ReplaceStage>(next, fragments, d); }
    Made operator()(const Metaspace& d) { return std::make_unique<MetaspaceStage>(next, d); }
    Made operator()(const WordPieceDecoder& d) {
      return std::make_unique<WordPieceStage>(next, fragments, d);
    }
    Made operator()(const BpeDecoder& d) { return std::make_unique<BpeStage>(next, fragments, d); }
    Made operator()(const Ctc& d) { return std::make_unique<CtcStage>(next, fragments, d); }
    Made operator()(const SentencePieceDecoder& d) {
      return std::make_unique<SentencePieceStage>(next, fragments, d);
    }
    Made operator()(const Spaced&) { return std::make_unique<SpacedStage>(next); }
  };
  return std::visit(Make{next, fragments}, decoder);
}

}  // namespace

struct DecoderChain::End : Sink {
  std::string text;
  Allowance allowance;
  void push(std::string_view part, bool) override { text += part; }
  void finish() override { allowance = {}; }
};

DecoderChain::DecoderChain(const std::vector<Decoder>& decoders) : end_(std::make_unique<End>()) {
  std::vector<bool> fragments(decoders.size());
  for (size_t i = 1; i < decoders.size(); ++i)
    fragments[i] = fragments[i - 1] || std::holds_alternative<Fuse>(decoders[i - 1]) ||
                   std::holds_alternative<ByteLevel>(decoders[i - 1]) ||
                   std::holds_alternative<StripDecoder>(decoders[i - 1]);
  Sink* next = end_.get();
  for (size_t i = decoders.size(); i-- > 0;) {
    auto stage = make_stage(decoders[i], *next, fragments[i]);
    stage->allow(end_->allowance);
    stages_.push_back(std::move(stage));
    next = stages_.back().get();
  }
}

DecoderChain::~DecoderChain() = default;

void DecoderChain::push(std::string_view token) {
  end_->allowance.bytes += Allowance::kPerByte * (token.size() + 1);
  if (stages_.empty())
    end_->push(token, true);
  else
    stages_.back()->push(token, true);
}

void DecoderChain::finish() {
  if (!stages_.empty()) stages_.back()->finish();
}

std::string DecoderChain::take() {
  return std::exchange(end_->text, {});
}

}  // namespace lmxlab::data
