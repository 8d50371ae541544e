#include "lmxlab/data/jinja/integer.h"

#include "lmxlab/base/error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

namespace lmxlab::data::jinja {
namespace {

using Words = std::vector<uint32_t>;

void trim(Words& a) {
  while (!a.empty() && a.back() == 0) a.pop_back();
}

size_t bits_of(const Words& a) {
  return a.empty() ? 0 : 32 * (a.size() - 1) + static_cast<size_t>(std::bit_width(a.back()));
}

std::strong_ordering compare(const Words& a, const Words& b) {
  if (a.size() != b.size()) return a.size() <=> b.size();
  for (size_t i = a.size(); i-- > 0;)
    if (a[i] != b[i]) return a[i] <=> b[i];
  return std::strong_ordering::equal;
}

Words add(const Words& a, const Words& b) {
  Words out(std::max(a.size(), b.size()) + 1);
  uint64_t carry = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    carry += uint64_t{i < a.size() ? a[i] : 0} + (i < b.size() ? b[i] : 0);
    out[i] = static_cast<uint32_t>(carry);
    carry >>= 32;
  }
  trim(out);
  return out;
}

// a must not be less than b.
Words subtract(const Words& a, const Words& b) {
  Words out(a.size());
  int64_t borrow = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int64_t d = int64_t{a[i]} - (i < b.size() ? b[i] : 0) - borrow;
    borrow = d < 0;
    out[i] = static_cast<uint32_t>(d);
  }
  trim(out);
  return out;
}

Words multiply(const Words& a, const Words& b) {
  Words out(a.size() + b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      carry += uint64_t{a[i]} * b[j] + out[i + j];
      out[i + j] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    out[i + b.size()] = static_cast<uint32_t>(carry);
  }
  trim(out);
  return out;
}

Words shift_left(const Words& a, size_t bits) {
  if (a.empty()) return a;
  Words out(bits / 32, 0);
  const size_t by = bits % 32;
  uint64_t carry = 0;
  for (const uint32_t w : a) {
    carry |= uint64_t{w} << by;
    out.push_back(static_cast<uint32_t>(carry));
    carry >>= 32;
  }
  out.push_back(static_cast<uint32_t>(carry));
  trim(out);
  return out;
}

uint32_t divide_small(Words& a, uint32_t by) {
  uint64_t rest = 0;
  for (size_t i = a.size(); i-- > 0;) {
    rest = rest << 32 | a[i];
    a[i] = static_cast<uint32_t>(rest / by);
    rest %= by;
  }
  trim(a);
  return static_cast<uint32_t>(rest);
}

// Bit by bit: numbers here are short, and this is plainly right. The remainder replaces `a`.
Words divide(Words& a, const Words& b) {
  if (b.size() == 1) {
    Words quotient = a;
    const uint32_t rest = divide_small(quotient, b[0]);
    a = rest ? Words{rest} : Words{};
    return quotient;
  }
  if (compare(a, b) < 0) return {};
  const size_t steps = bits_of(a) - bits_of(b) + 1;
  Words quotient((steps + 31) / 32, 0);
  for (size_t k = steps; k-- > 0;) {
    const Words shifted = shift_left(b, k);
    if (compare(a, shifted) < 0) continue;
    a = subtract(a, shifted);
    quotient[k / 32] |= 1u << k % 32;
  }
  trim(quotient);
  return quotient;
}

// The nearest double of a magnitude whose last bit may stand for more that was cut off.
std::optional<double> nearest(const Words& a, int exponent) {
  const size_t bits = bits_of(a);
  if (bits <= 64) {
    uint64_t v = 0;
    for (size_t i = a.size(); i-- > 0;) v = v << 32 | a[i];
    const double d = std::ldexp(static_cast<double>(v), exponent);
    return std::isfinite(d) ? std::optional(d) : std::nullopt;
  }
  const size_t drop = bits - 64;
  uint64_t top = 0;
  for (size_t i = 0; i < 64; ++i) {
    const size_t at = drop + i;
    top |= uint64_t{a[at / 32] >> at % 32 & 1} << i;
  }
  bool rest = false;
  for (size_t at = 0; at < drop && !rest; ++at) rest = a[at / 32] >> at % 32 & 1;
  if (rest) top |= 1;
  const double d = std::ldexp(static_cast<double>(top), static_cast<int>(drop) + exponent);
  return std::isfinite(d) ? std::optional(d) : std::nullopt;
}

}  // namespace

Integer Integer::make(Words words, bool negative) {
  trim(words);
  if (bits_of(words) > kMaxBits)
    throw Error(Kind::resource, "an integer has more than " + std::to_string(kMaxBits) + " bits");
  if (words.size() <= 2) {
    uint64_t v = 0;
    for (size_t i = words.size(); i-- > 0;) v = v << 32 | words[i];
    if (v <= static_cast<uint64_t>(INT64_MAX))
      return Integer(negative ? -static_cast<int64_t>(v) : static_cast<int64_t>(v));
    if (negative && v == uint64_t{1} << 63) return Integer(INT64_MIN);
  }
  Integer out;
  out.negative_ = negative;
  out.big_ = std::make_shared<const Words>(std::move(words));
  return out;
}

Integer::Words Integer::words() const {
  if (big_) return *big_;
  const uint64_t v = small_ < 0 ? 0 - static_cast<uint64_t>(small_) : static_cast<uint64_t>(small_);
  Words out{static_cast<uint32_t>(v), static_cast<uint32_t>(v >> 32)};
  trim(out);
  return out;
}

std::optional<Integer> Integer::parse(std::string_view digits, int base) {
  bool negative = false;
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) {
    negative = digits[0] == '-';
    digits.remove_prefix(1);
  }
  if (digits.empty()) return std::nullopt;
  Words words;
  for (const char c : digits) {
    const int d = c >= '0' && c <= '9'   ? c - '0'
                  : c >= 'a' && c <= 'z' ? c - 'a' + 10
                  : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                         : 99;
    if (d >= base) return std::nullopt;
    uint64_t carry = static_cast<uint64_t>(d);
    for (uint32_t& w : words) {
      carry += uint64_t{w} * static_cast<uint32_t>(base);
      w = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    if (carry) words.push_back(static_cast<uint32_t>(carry));
    if (bits_of(words) > kMaxBits) break;  // make() refuses it
  }
  return make(std::move(words), negative);
}

Integer Integer::truncate(double value) {
  if (std::abs(value) < 9e18) return Integer(static_cast<int64_t>(value));
  int exponent = 0;
  const double fraction = std::frexp(std::abs(value), &exponent);
  const auto mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53));
  Words words{static_cast<uint32_t>(mantissa), static_cast<uint32_t>(mantissa >> 32)};
  return make(shift_left(words, static_cast<size_t>(exponent - 53)), value < 0);
}

std::optional<double> Integer::to_double() const {
  if (!big_) return static_cast<double>(small_);
  const auto d = nearest(*big_, 0);
  return d && negative_ ? -*d : d;
}

std::string Integer::to_string(int base) const {
  Words rest = words();
  if (rest.empty()) return "0";
  std::string out;
  while (!rest.empty()) out += "0123456789abcdef"[divide_small(rest, static_cast<uint32_t>(base))];
  if (negative()) out += '-';
  std::reverse(out.begin(), out.end());
  return out;
}

size_t Integer::bits() const {
  return bits_of(words());
}

size_t Integer::hash() const {
  if (!big_) return std::hash<int64_t>()(small_);
  size_t h = negative_;
  for (const uint32_t w : *big_) h = h * 1'000'003 + w;
  return h;
}

Integer Integer::operator-() const {
  if (!big_ && small_ != INT64_MIN) return Integer(-small_);
  return make(words(), !negative());
}

Integer operator+(const Integer& a, const Integer& b) {
  int64_t sum = 0;
  if (!a.big_ && !b.big_ && !__builtin_add_overflow(a.small_, b.small_, &sum)) return Integer(sum);
  const auto x = a.words(), y = b.words();
  if (a.negative() == b.negative()) return Integer::make(add(x, y), a.negative());
  const bool larger = compare(x, y) >= 0;
  return Integer::make(larger ? subtract(x, y) : subtract(y, x),
                       larger ? a.negative() : b.negative());
}

Integer operator*(const Integer& a, const Integer& b) {
  int64_t product = 0;
  if (!a.big_ && !b.big_ && !__builtin_mul_overflow(a.small_, b.small_, &product))
    return Integer(product);
  return Integer::make(multiply(a.words(), b.words()), a.negative() != b.negative());
}

std::strong_ordering operator<=>(const Integer& a, const Integer& b) {
  if (!a.big_ && !b.big_) return a.small_ <=> b.small_;
  if (a.negative() != b.negative())
    return a.negative() ? std::strong_ordering::less : std::strong_ordering::greater;
  return a.negative() ? compare(b.words(), a.words()) : compare(a.words(), b.words());
}

Integer::Division Integer::divide(const Integer& a, const Integer& b) {
  Words rest = a.words();
  const Words by = b.words();
  Words quotient = jinja::divide(rest, by);
  const bool opposite = a.negative() != b.negative();
  if (opposite && !rest.empty()) {
    quotient = add(quotient, {1});
    rest = subtract(by, rest);
  }
  return {make(std::move(quotient), opposite), make(std::move(rest), b.negative())};
}

std::optional<double> Integer::true_divide(const Integer& a, const Integer& b) {
  if (a.bits() <= 53 && b.bits() <= 53)
    return static_cast<double>(a.small_) / static_cast<double>(b.small_);
  const auto y = b.words();
  const size_t shift = a.bits() >= b.bits() + 66 ? 0 : b.bits() + 66 - a.bits();
  Words rest = shift_left(a.words(), shift);
  Words quotient = jinja::divide(rest, y);
  if (!rest.empty()) quotient[0] |= 1;
  const auto d = nearest(quotient, -static_cast<int>(shift));
  return d && a.negative() != b.negative() ? -*d : d;
}

Integer Integer::power(Integer base, const Integer& exponent) {
  const bool trivial = base.bits() <= 1;  // -1, 0, 1
  if (!trivial && (exponent.big_ || exponent.small_ > static_cast<int64_t>(kMaxBits)))
    throw Error(Kind::resource, "an integer has more than " + std::to_string(kMaxBits) + " bits");
  if (trivial) {
    const bool odd = exponent.words().empty() ? false : exponent.words()[0] & 1;
    if (exponent.is_zero()) return Integer(1);
    return base.negative() && !odd ? Integer(1) : base;
  }
  Integer out(1);
  for (int64_t e = exponent.small_; e > 0; e >>= 1) {
    if (e & 1) out = out * base;
    if (e > 1) base = base * base;
  }
  return out;
}

}  // namespace lmxlab::data::jinja
