// Times as text, as C's strftime writes them in the C locale. Private.
#pragma once

#include "lmxlab/data/chat_template.h"

#include <string>
#include <string_view>

namespace lmxlab::data::jinja {

/// Directives of C, %f, and glibc's flags (%-d, %_d, %^a). The time knows no zone: %z and %Z are
/// empty. Unknown directives stay as they are.
std::string strftime(const LocalTime& time, std::string_view format);

}  // namespace lmxlab::data::jinja
