// The error that a call must end with.
#pragma once

#include "lmxlab/base/error.h"

#include <gtest/gtest.h>

namespace lmxlab::test {

template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "expected an Error";
  return Error(Kind::internal, "none");
}

}  // namespace lmxlab::test
