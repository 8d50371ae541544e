#include "lmxlab/data/tokenizer/pre_tokenizer.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"

#include <algorithm>
#include <cstdint>

namespace lmxlab::data {
namespace {

struct Part {
  size_t begin, end;
  bool match;
};

// What matches and what lies between, in order, over the whole of a text.
void parts_of(std::string_view text, const std::vector<Regex::Match>& matches,
              std::vector<Part>& out) {
  size_t done = 0;
  for (const auto& m : matches) {
    if (done != m.begin) out.push_back({done, m.begin, false});
    out.push_back({m.begin, m.end, true});
    done = m.end;
  }
  if (done != text.size()) out.push_back({done, text.size(), false});
}

void cut(const std::vector<Part>& parts, SplitBehavior behavior, size_t base,
         std::vector<Pieces::Span>& out) {
  const auto push = [&](size_t begin, size_t end) {
    if (begin < end) out.push_back({base + begin, base + end});
  };
  switch (behavior) {
    case SplitBehavior::removed:
      for (const auto& p : parts)
        if (!p.match) push(p.begin, p.end);
      return;
    case SplitBehavior::isolated:
      for (const auto& p : parts) push(p.begin, p.end);
      return;
    case SplitBehavior::contiguous:
      for (size_t i = 0, k = 0; i < parts.size(); i = k) {
        while (k < parts.size() && parts[k].match == parts[i].match) ++k;
        push(parts[i].begin, parts[k - 1].end);
      }
      return;
    case SplitBehavior::merged_with_previous:
      for (size_t i = 0; i < parts.size(); ++i) {
        const bool joined = !parts[i].match && i + 1 < parts.size() && parts[i + 1].match;
        push(parts[i].begin, parts[joined ? i + 1 : i].end);
        if (joined) ++i;
      }
      return;
    case SplitBehavior::merged_with_next:
      for (size_t i = 0; i < parts.size(); ++i) {
        const bool joined = parts[i].match && i + 1 < parts.size() && !parts[i + 1].match;
        push(parts[i].begin, parts[joined ? i + 1 : i].end);
        if (joined) ++i;
      }
      return;
  }
}

// Cuts every piece by what `find` (text, matches) finds in it.
template <class F>
void split(Pieces& p, SplitBehavior behavior, bool invert, F&& find) {
  std::vector<Pieces::Span> out;
  out.reserve(p.spans.size());
  std::vector<Regex::Match> matches;
  std::vector<Part> parts;
  for (const auto& span : p.spans) {
    const std::string_view text = p.text.substr(span.begin, span.end - span.begin);
    matches.clear(), parts.clear();
    find(text, matches);
    parts_of(text, matches, parts);
    if (invert)
      for (auto& part : parts) part.match = !part.match;
    cut(parts, behavior, span.begin, out);
  }
  p.spans = std::move(out);
}

template <class F>
void split_characters(Pieces& p, SplitBehavior behavior, F&& separates) {
  split(p, behavior, false, [&](std::string_view text, std::vector<Regex::Match>& out) {
    each_character(text, [&](char32_t c, size_t begin, size_t end) {
      if (separates(c)) out.push_back({begin, end});
    });
  });
}

void own(Pieces& p, std::string text) {
  p.owned = std::move(text);
  p.text = p.owned;
}

// The script of each character, 0 for any: the scripts of Unicode 10, as the library has them.
// Kana counts as Han, and so does the mark that prolongs a vowel; a space is of any script.
const std::vector<uint8_t>& scripts() {
  static const std::vector<uint8_t> table = [] {
    constexpr std::string_view names =
        "Han Hangul Latin Common Cyrillic Greek Arabic Hebrew Devanagari Inherited Thai Armenian "
        "Georgian Bengali Tamil Telugu Kannada Malayalam Gujarati Gurmukhi Oriya Sinhala Lao "
        "Tibetan Myanmar Khmer Mongolian Ethiopic Cherokee Canadian_Aboriginal Bopomofo Yi Syriac "
        "Thaana Nko Braille Coptic Runic Ogham Adlam Ahom Anatolian_Hieroglyphs Avestan Balinese "
        "Bamum Bassa_Vah Batak Bhaiksuki Brahmi Buginese Buhid Carian Caucasian_Albanian Chakma "
        "Cham Cuneiform Cypriot Deseret Duployan Egyptian_Hieroglyphs Elbasan Glagolitic Gothic "
        "Grantha Hanunoo Hatran Imperial_Aramaic Inscriptional_Pahlavi Inscriptional_Parthian "
        "Javanese Kaithi Kayah_Li Kharoshthi Khojki Khudawadi Lepcha Limbu Linear_A Linear_B Lisu "
        "Lycian Lydian Mahajani Mandaic Manichaean Marchen Meetei_Mayek Mende_Kikakui "
        "Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mro Multani Nabataean New_Tai_Lue Newa "
        "Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian "
        "Old_South_Arabian Old_Turkic Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa "
        "Phoenician Psalter_Pahlavi Rejang Samaritan Saurashtra Sharada Shavian Siddham "
        "SignWriting Sora_Sompeng Sundanese Syloti_Nagri Tagalog Tagbanwa Tai_Le Tai_Tham "
        "Tai_Viet Takri Tangut Tifinagh Tirhuta Ugaritic Vai Warang_Citi";
    std::vector<uint8_t> script(0x110000);
    // The regular expressions know the scripts. The great blocks of one script are left out.
    std::string all;
    for (char32_t c = 0; c < 0x2FA20; ++c) {
      const bool ideograph = (c >= 0x3400 && c < 0xA000) || (c >= 0x20000 && c < 0x2F800);
      if (ideograph) script[c] = 1;
      if (c >= 0xAC00 && c < 0xD7A4) script[c] = 2;
      if (!ideograph && script[c] == 0 && (c < 0xD800 || c >= 0xE000)) append_utf8(all, c);
    }
    uint8_t number = 0;
    for (size_t at = 0; at < names.size();) {
      const size_t end = std::min(names.find(' ', at), names.size());
      const std::string name(names.substr(at, end - at));
      ++number;
      std::vector<Regex::Match> found;
      Regex("[\\p{" + name + "}" + (number == 1 ? R"(\p{Hiragana}\p{Katakana})" : "") + "]+")
          .matches(all, found);
      for (const auto& m : found)
        each_character(std::string_view(all).substr(m.begin, m.end - m.begin),
                       [&](char32_t c, size_t, size_t) { script[c] = number; });
      at = end + 1;
    }
    for (char32_t c = 0xE0100; c < 0xE01F0; ++c) script[c] = script[0x300];  // Inherited
    for (char32_t c = 0xE0020; c < 0xE0080; ++c) script[c] = script['0'];    // Common
    script[0xE0001] = script['0'];
    script[0x30FC] = 1;
    script[' '] = 0;
    return script;
  }();
  return table;
}

}  // namespace

void SplitStep::apply(Pieces& p) const {
  split(p, behavior, invert,
        [&](std::string_view text, std::vector<Regex::Match>& out) { pattern.matches(text, out); });
}

void ByteLevel::apply(Pieces& p) const {
  std::string out, prefixed;
  out.reserve(p.text.size() + p.text.size() / 2);
  std::vector<Pieces::Span> spans;
  spans.reserve(p.spans.size());
  std::vector<size_t> ends;
  size_t origin = 0;
  for (const auto& span : p.spans) {
    std::string_view text = p.text.substr(span.begin, span.end - span.begin);
    if (add_prefix_space && !text.starts_with(' ')) {
      prefixed.assign(1, ' ').append(text);
      text = prefixed;
    }
    ends.clear();
    if (use_regex)
      gpt2_regex().cut(text, 0, ends);
    else
      ends.push_back(text.size());
    size_t begin = 0;
    for (const size_t end : ends) {
      const size_t from = out.size();
      append_letters(out, text.substr(begin, end - begin));
      spans.push_back({from, out.size()});
      begin = end;
      if (origin == 0 && span.begin < p.origin) origin = out.size();
    }
  }
  p.spans = std::move(spans);
  p.origin = origin;
  p.letters = true;
  own(p, std::move(out));
}

void Digits::apply(Pieces& p) const {
  split_characters(p, individual_digits ? SplitBehavior::isolated : SplitBehavior::contiguous,
                   is_numeric);
}

void Punctuation::apply(Pieces& p) const {
  split_characters(p, behavior, is_punctuation);
}

void Metaspace::apply(Pieces& p) const {
  std::string out;
  out.reserve(p.text.size() + p.text.size() / 2);
  std::vector<Pieces::Span> spans;
  size_t origin = 0;
  for (const auto& span : p.spans) {
    const std::string_view text = p.text.substr(span.begin, span.end - span.begin);
    const size_t from = out.size();
    const bool put = prepend_scheme == Prepend::always ||
                     (prepend_scheme == Prepend::first && span.begin < p.origin);
    if (put && !text.starts_with(' ') && !text.starts_with(replacement)) out += replacement;
    size_t piece = from;
    const auto end_piece = [&] {
      if (out.size() > piece) spans.push_back({piece, out.size()});
      piece = out.size();
    };
    each_character(text, [&](char32_t, size_t begin, size_t end) {
      const std::string_view c = text.substr(begin, end - begin);
      const bool space = c == " ";
      if (split && (space || c == replacement) && out.size() > piece) end_piece();
      out += space ? std::string_view(replacement) : c;
      if (span.begin + begin < p.origin) origin = out.size();
    });
    end_piece();
  }
  p.spans = std::move(spans);
  p.origin = origin;
  own(p, std::move(out));
}

void Whitespace::apply(Pieces& p) const {
  static const Regex words(
      R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}\s]+)");
  split(p, SplitBehavior::removed, true,
        [&](std::string_view text, std::vector<Regex::Match>& out) { words.matches(text, out); });
}

void WhitespaceSplit::apply(Pieces& p) const {
  split_characters(p, SplitBehavior::removed, is_white_space);
}

void CharDelimiterSplit::apply(Pieces& p) const {
  size_t length = 0;
  const char32_t c = code_point(delimiter, 0, length);
  split_characters(p, SplitBehavior::removed, [&](char32_t x) { return x == c; });
}

void BertPreTokenizer::apply(Pieces& p) const {
  split_characters(p, SplitBehavior::removed, is_white_space);
  split_characters(p, SplitBehavior::isolated, is_punctuation);
}

void UnicodeScripts::apply(Pieces& p) const {
  const auto& script = scripts();
  std::vector<Pieces::Span> out;
  for (const auto& span : p.spans) {
    uint8_t last = 0;
    bool any = false;  // what stands before the first script is lost, as in the library
    size_t begin = span.begin;
    each_character(p.text.substr(span.begin, span.end - span.begin),
                   [&](char32_t c, size_t from, size_t) {
                     if (script[c] == 0 || script[c] == last) return;
                     const size_t here = span.begin + from;
                     if (any) out.push_back({begin, here});
                     any = true;
                     begin = here;
                     last = script[c];
                   });
    if (any) out.push_back({begin, span.end});
  }
  p.spans = std::move(out);
}

void FixedLength::apply(Pieces& p) const {
  std::vector<Pieces::Span> out;
  for (const auto& span : p.spans) {
    size_t begin = span.begin, count = 0;
    each_character(p.text.substr(span.begin, span.end - span.begin),
                   [&](char32_t, size_t, size_t end) {
                     if (++count % length != 0) return;
                     out.push_back({begin, span.begin + end});
                     begin = span.begin + end;
                   });
    if (begin < span.end) out.push_back({begin, span.end});
  }
  p.spans = std::move(out);
}

}  // namespace lmxlab::data
