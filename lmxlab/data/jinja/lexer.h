// Template text to tokens, with Jinja's white space rules (trim_blocks and lstrip_blocks on, the
// last newline dropped). Private.
#pragma once

#include "lmxlab/data/jinja/value.h"

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data::jinja {

struct Token {
  enum class Type {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Type type = Type::end;
  std::string text;  // of data and strings their content, of operators the sign
  int line = 1;
  Value value = {};  // of numbers
};

/// @throws Error(bad_data) "[chat template] line N: ...": syntax, or not UTF-8.
std::vector<Token> tokenize(std::string_view source);

/// What a message calls a token.
std::string describe(const Token& token);

[[noreturn]] void fail_syntax(int line, const std::string& message);

}  // namespace lmxlab::data::jinja
