#include "lmxlab/data/jinja/strftime.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/jinja/unicode.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace lmxlab::data {
namespace {

bool is_leap(int year) {
  return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}
int days_of(int year, int month) {
  constexpr int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return days[month - 1] + (month == 2 && is_leap(year));
}

}  // namespace

LocalTime LocalTime::parse(std::string_view iso8601) {
  const auto invalid = [&]() -> Error {
    return Error(Kind::usage, "[time] \"" + std::string(iso8601.substr(0, 60)) +
                                  "\" is no time: expected 2024-07-26 or 2024-07-26T13:05:09");
  };
  std::string_view rest = iso8601;
  const auto number = [&](size_t digits) {
    int v = 0;
    for (size_t i = 0; i < digits; ++i, rest.remove_prefix(1)) {
      if (rest.empty() || rest[0] < '0' || rest[0] > '9') throw invalid();
      v = v * 10 + (rest[0] - '0');
    }
    return v;
  };
  const auto sign = [&](std::string_view any) {
    if (rest.empty() || any.find(rest[0]) == any.npos) throw invalid();
    rest.remove_prefix(1);
  };
  LocalTime t;
  t.year = number(4);
  sign("-");
  t.month = number(2);
  sign("-");
  t.day = number(2);
  if (!rest.empty()) {
    sign("Tt ");
    t.hour = number(2);
    sign(":");
    t.minute = number(2);
    if (rest.starts_with(':')) {
      sign(":");
      t.second = number(2);
      if (rest.starts_with('.') || rest.starts_with(',')) {
        rest.remove_prefix(1);
        int digits = 0;
        for (; !rest.empty() && rest[0] >= '0' && rest[0] <= '9'; rest.remove_prefix(1), ++digits)
          if (digits < 6) t.microsecond = t.microsecond * 10 + (rest[0] - '0');
        if (digits == 0) throw invalid();
        for (; digits < 6; ++digits) t.microsecond *= 10;
      }
    }
    if (rest == "Z" || rest == "z") {
      rest = {};
    } else if (!rest.empty()) {
      sign("+-");
      number(2);
      if (rest.starts_with(':')) sign(":");
      if (!rest.empty()) number(2);
    }
  }
  if (!rest.empty() || t.year < 1 || t.month < 1 || t.month > 12 || t.day < 1 ||
      t.day > days_of(t.year, t.month) || t.hour > 23 || t.minute > 59 || t.second > 59)
    throw invalid();
  return t;
}

namespace jinja {
namespace {

constexpr const char* kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                 "Thursday", "Friday", "Saturday"};
constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                   "May",       "June",     "July",     "August",
                                   "September", "October",  "November", "December"};

struct Calendar {
  int weekday = 0, yearday = 0;  // from Sunday, from January 1st; both from 0
  int iso_year = 0, iso_week = 0;
};

int weekday_of(int year, int month, int day) {
  constexpr int shift[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
  if (month < 3) --year;
  return (year + year / 4 - year / 100 + year / 400 + shift[month - 1] + day) % 7;
}

Calendar calendar_of(const LocalTime& t) {
  Calendar c;
  c.weekday = weekday_of(t.year, t.month, t.day);
  for (int m = 1; m < t.month; ++m) c.yearday += days_of(t.year, m);
  c.yearday += t.day - 1;
  const int monday_based = (c.weekday + 6) % 7;
  c.iso_year = t.year;
  c.iso_week = (c.yearday - monday_based + 10) / 7;
  const auto weeks = [](int year) {
    const int first = weekday_of(year, 1, 1);
    return first == 4 || (first == 3 && is_leap(year)) ? 53 : 52;
  };
  if (c.iso_week < 1) {
    c.iso_week = weeks(--c.iso_year);
  } else if (c.iso_week > weeks(t.year)) {
    c.iso_week = 1;
    ++c.iso_year;
  }
  return c;
}

// One directive; false if there is none of this letter.
bool directive(const LocalTime& t, const Calendar& c, char letter, char flag, std::string& out) {
  const auto number = [&](int v, int width, char fill = '0') {
    char pad = flag == '_' ? ' ' : flag == '0' ? '0' : fill;
    std::string digits = std::to_string(v);
    if (flag != '-' && digits.size() < static_cast<size_t>(width))
      digits.insert(0, static_cast<size_t>(width) - digits.size(), pad);
    out += digits;
    return true;
  };
  const auto word = [&](std::string_view w) {
    out += flag == '^' ? upper(w) : flag == '#' ? swapcase(w) : std::string(w);
    return true;
  };
  const auto all = [&](std::string_view format) {
    const std::string text = strftime(t, format);
    out += flag == '^' ? upper(text) : text;
    return true;
  };
  const int hour12 = t.hour % 12 == 0 ? 12 : t.hour % 12;
  switch (letter) {
    case 'a': return word(std::string_view(kDays[c.weekday]).substr(0, 3));
    case 'A': return word(kDays[c.weekday]);
    case 'b':
    case 'h': return word(std::string_view(kMonths[t.month - 1]).substr(0, 3));
    case 'B': return word(kMonths[t.month - 1]);
    case 'c': return all("%a %b %e %H:%M:%S %Y");
    case 'C': return number(t.year / 100, 2);
    case 'd': return number(t.day, 2);
    case 'D':
    case 'x': return all("%m/%d/%y");
    case 'e': return number(t.day, 2, ' ');
    case 'f': return number(t.microsecond, 6);
    case 'F': return all("%Y-%m-%d");
    case 'g': return number(c.iso_year % 100, 2);
    case 'G': return number(c.iso_year, 1);
    case 'H': return number(t.hour, 2);
    case 'I': return number(hour12, 2);
    case 'j': return number(c.yearday + 1, 3);
    case 'k': return number(t.hour, 2, ' ');
    case 'l': return number(hour12, 2, ' ');
    case 'm': return number(t.month, 2);
    case 'M': return number(t.minute, 2);
    case 'n': return word("\n");
    case 'p': return word(flag == '#' ? (t.hour < 12 ? "AM" : "PM") : t.hour < 12 ? "AM" : "PM");
    case 'P': return word(t.hour < 12 ? "am" : "pm");
    case 'r': return all("%I:%M:%S %p");
    case 'R': return all("%H:%M");
    case 'S': return number(t.second, 2);
    case 't': return word("\t");
    case 'T':
    case 'X': return all("%H:%M:%S");
    case 'u': return number(c.weekday == 0 ? 7 : c.weekday, 1);
    case 'U': return number((c.yearday + 7 - c.weekday) / 7, 2);
    case 'V': return number(c.iso_week, 2);
    case 'w': return number(c.weekday, 1);
    case 'W': return number((c.yearday + 7 - (c.weekday + 6) % 7) / 7, 2);
    case 'y': return number(t.year % 100, 2);
    case 'Y': return number(t.year, 1);
    case 'z':
    case 'Z': return true;
    case '%': return word("%");
    default: return false;
  }
}

}  // namespace

std::string strftime(const LocalTime& time, std::string_view format) {
  const Calendar calendar = calendar_of(time);
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%' || at + 1 == format.size()) {
      out += format[at];
      continue;
    }
    size_t letter = at + 1;
    char flag = 0;
    while (letter + 1 < format.size() &&
           std::string_view("-_0^#").find(format[letter]) != format.npos)
      flag = format[letter++];
    if (directive(time, calendar, format[letter], flag, out))
      at = letter;
    else
      out += '%';
  }
  return out;
}

}  // namespace jinja
}  // namespace lmxlab::data
