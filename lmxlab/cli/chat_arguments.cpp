#include "lmxlab/cli/chat_arguments.h"

#include <algorithm>
#include <chrono>
#include <ctime>

namespace lmxlab::cli {

std::optional<data::ChatTemplate> chat_template_of(const ModelPlace& place) {
  if (place.path.empty() || !data::ChatTemplate::present(place.path)) return std::nullopt;
  return data::ChatTemplate::load(place.path);
}

Json template_variables(const std::vector<std::string>& given, const std::string& command) {
  Json out = Json::object();
  for (const auto& text : given) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == text.npos)
      throw Error(Kind::usage, "[" + command + "] --var " + text + ": expected NAME=JSON");
    out[text.substr(0, equals)] = parse_value(text.substr(equals + 1));
  }
  return out;
}

data::LocalTime wall_clock() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm t{};
  localtime_r(&seconds, &t);
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch());
  return {t.tm_year + 1900,
          t.tm_mon + 1,
          t.tm_mday,
          t.tm_hour,
          t.tm_min,
          std::min(t.tm_sec, 59),
          static_cast<int>(since.count() % 1'000'000)};
}

}  // namespace lmxlab::cli
