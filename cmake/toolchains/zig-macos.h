// Included in front of every source that ziglang compiles for a Mac. Apple's <math.h> opens <float.h> for two macros only,
// and libc++'s guard then hides the rest of it from <cfloat>: here all of it comes first, and the guard is taken away.
#include <float.h>
#undef _LIBCPP_FLOAT_H
