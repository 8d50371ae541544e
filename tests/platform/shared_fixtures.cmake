# Fixtures too large for the project lie in ../shared/fixtures. Somebody who cloned only the project has none of them, and the
# tests that want them say so; where CI is set they must be there.   cmake -DFOLDER=... -P
file(GLOB found "${FOLDER}/*")
if(found)
  list(LENGTH found count)
  message(STATUS "${count} kinds of fixtures in ${FOLDER}")
elseif(DEFINED ENV{CI} AND NOT "$ENV{CI}" MATCHES "^(|0|false)$")
  message(FATAL_ERROR "CI is set and ${FOLDER} is missing: the tests against shared fixtures would test nothing.")
else()
  message(STATUS "no shared fixtures in ${FOLDER}: the tests that want them have nothing to compare with")
endif()
