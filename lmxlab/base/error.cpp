#include "lmxlab/base/error.h"

#include <array>
#include <new>
#include <system_error>

namespace lmxlab {
namespace {

struct Row {
  Kind kind;
  std::string_view name;
  int exit;
};
constexpr std::array<Row, 8> kKinds{{{Kind::usage, "usage", 2},
                                     {Kind::not_found, "not_found", 3},
                                     {Kind::bad_data, "bad_data", 4},
                                     {Kind::mismatch, "mismatch", 5},
                                     {Kind::unsupported, "unsupported", 6},
                                     {Kind::resource, "resource", 7},
                                     {Kind::canceled, "canceled", 130},
                                     {Kind::internal, "internal", 70}}};

const Row& row(Kind kind) {
  return kKinds[static_cast<size_t>(kind)];
}

}  // namespace

std::string_view kind_name(Kind kind) {
  return row(kind).name;
}
int exit_code(Kind kind) {
  return row(kind).exit;
}

Error current_error(Kind fallback) {
  try {
    throw;
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return Error(Kind::resource, "[memory] out of memory");
  } catch (const std::system_error& e) {
    const bool absent = e.code() == std::errc::no_such_file_or_directory;
    return Error(absent ? Kind::not_found : Kind::resource, e.what());
  } catch (const std::exception& e) {
    // MLX hands on what was thrown on a stream's thread as a text.
    const bool memory = std::string_view(e.what()).starts_with("[memory] ");
    return Error(memory ? Kind::resource : fallback, e.what());
  } catch (...) {
    return Error(Kind::internal, "an exception of unknown type");
  }
}

void Problems::raise(Kind kind, const std::string& headline) const {
  if (list_.empty()) return;
  std::string text = headline;
  if (list_.size() == 1) throw Error(kind, text + ": " + list_[0]);
  text += " (" + std::to_string(list_.size()) + " problems):";
  constexpr size_t kMostShown = 50;
  for (size_t i = 0; i < list_.size() && i < kMostShown; ++i) text += "\n  " + list_[i];
  if (list_.size() > kMostShown) text += "\n  and so on";
  throw Error(kind, text);
}

}  // namespace lmxlab
