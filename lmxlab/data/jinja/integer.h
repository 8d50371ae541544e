// Integers of any size, as Python's. Private.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data::jinja {

class Integer {
 public:
  /// Of results; larger ones are an Error(resource). Python prints no more than 4,300 digits.
  static constexpr size_t kMaxBits = 16'384;

  Integer(int64_t value = 0) : small_(value) {}
  /// Digits of the base (2 to 36) with an optional sign; none if there is anything else.
  static std::optional<Integer> parse(std::string_view digits, int base = 10);
  /// Towards zero; the value must be finite.
  static Integer truncate(double value);

  bool is_small() const { return !big_; }
  /// Only if is_small().
  int64_t small() const { return small_; }
  bool is_zero() const { return !big_ && small_ == 0; }
  bool negative() const { return big_ ? negative_ : small_ < 0; }
  /// Nearest double, ties to even; none if it is beyond the largest.
  std::optional<double> to_double() const;
  std::string to_string(int base = 10) const;
  size_t bits() const;
  size_t hash() const;

  Integer operator-() const;
  Integer abs() const { return negative() ? -*this : *this; }
  friend Integer operator+(const Integer& a, const Integer& b);
  friend Integer operator-(const Integer& a, const Integer& b) { return a + -b; }
  friend Integer operator*(const Integer& a, const Integer& b);
  friend std::strong_ordering operator<=>(const Integer& a, const Integer& b);
  friend bool operator==(const Integer& a, const Integer& b) { return (a <=> b) == 0; }

  struct Division;
  /// Rounded down, as // and %. The divisor must not be zero.
  static Division divide(const Integer& a, const Integer& b);
  /// a / b, rounded once; none if it is beyond the largest double.
  static std::optional<double> true_divide(const Integer& a, const Integer& b);
  /// The exponent must not be negative.
  static Integer power(Integer base, const Integer& exponent);

 private:
  using Words = std::vector<uint32_t>;  // the least significant first, no zero at the end
  static Integer make(Words words, bool negative);
  Words words() const;

  int64_t small_ = 0;
  bool negative_ = false;
  std::shared_ptr<const Words> big_;  // magnitude; only of what does not fit in small_
};

struct Integer::Division {
  Integer quotient, remainder;
};

}  // namespace lmxlab::data::jinja
