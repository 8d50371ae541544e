#include "lmxlab/cli/progress.h"

#include "lmxlab/base/text.h"
#include "lmxlab/kernels/memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace lmxlab::cli {
namespace {

constexpr double kRedraw = 0.1;  // seconds

std::string bar(double share, int width, bool blocks) {
  static const char* const kEighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int filled = int(share * width * 8);
  std::string out;
  for (int i = 0; i < width; ++i) {
    const int part = std::clamp(filled - 8 * i, 0, 8);
    out += part == 8 ? "█" : kEighths[part];
  }
  return blocks ? out
                : std::string(size_t(share * width), '#') +
                      std::string(size_t(width) - size_t(share * width), '.');
}

bool utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const char* v = std::getenv(name); v && *v) {
      const std::string text(v);
      return text.find("UTF-8") != std::string::npos || text.find("utf8") != std::string::npos;
    }
  return false;
}

}  // namespace

std::string of_planned(int64_t peak, int64_t planned) {
  auto text = human_bytes(double(peak));
  if (planned <= 0) return text;
  const auto whole = human_bytes(double(planned));
  const auto unit = whole.substr(whole.find(' '));
  if (text.ends_with(unit)) text.resize(text.size() - unit.size());
  return text + " of " + whole + " planned";
}

std::string held_text() {
  return human_bytes(double(kernels::active_bytes())) + " now, " +
         human_bytes(double(kernels::cache_bytes())) + " kept";
}

Progress::Progress(const Context& context, double interval, Show show)
    : context_(context), interval_(interval), show_(show), start_(Clock::now()), drawn_(start_) {}

Progress::~Progress() {
  clear();
}

void Progress::update(int64_t done, int64_t total, const std::vector<std::string>& facts,
                      size_t before_time) {
  before_time_ = std::min(before_time, facts.size());
  const auto now = Clock::now();
  if (first_ < 0) first_ = done - 1, start_ = now;  // how long the first one took is not known
  done_ = done, total_ = total, facts_ = facts, pending_ = true;
  const double since = std::chrono::duration<double>(now - drawn_).count();
  if (since >= (context_.terminal ? kRedraw : interval_)) draw();
}

std::string Progress::line(int columns) const {
  const auto shown = [&](int64_t n) { return show_ ? show_(n) : std::to_string(n); };
  const std::string total = shown(total_);
  std::string count = shown(done_);
  count.insert(0, total.size() - std::min(total.size(), count.size()), ' ');
  count += "/" + total;
  std::vector<std::string> facts = facts_;
  const int64_t here = done_ - first_ - 1;
  if (here > 0 && done_ < total_) {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    facts.insert(facts.begin() + ptrdiff_t(before_time_),
                 human_seconds(seconds / double(here) * double(total_ - done_)) + " left");
  }
  const bool terminal = context_.terminal;
  std::string text = count;
  int width = int(count.size());
  for (const auto& fact : facts) {
    const int more = int(fact.size()) + 2;
    if (terminal && width + more >= columns) break;
    text += "  " + fact, width += more;
  }
  constexpr int kLeast = 4, kMost = 16;
  const int room = std::min(kMost, columns - 2 - width);
  if (!terminal || columns < 60 || room < kLeast) return text;
  return bar(total_ > 0 ? double(done_) / double(total_) : 0, room, utf8_locale()) + " " + text;
}

void Progress::draw() {
  drawn_ = Clock::now(), pending_ = false;
  if (context_.quiet) return;
  const auto text = line(context_.columns());
  if (context_.terminal) {
    std::fprintf(stderr, "\r%s\x1b[K", text.c_str());
    std::fflush(stderr);
    on_screen_ = true;
  } else {
    context_.log(text);
  }
}

void Progress::clear() {
  if (!on_screen_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  on_screen_ = false;
}

void Progress::finish() {
  if (finished_ || first_ < 0) return;
  finished_ = true;
  if (pending_ || (context_.terminal && !on_screen_)) draw();
  if (on_screen_) std::fputc('\n', stderr);
  on_screen_ = false;
}

}  // namespace lmxlab::cli
