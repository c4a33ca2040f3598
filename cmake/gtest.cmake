# GoogleTest: the system's or, when cross-compiling, for which no distribution has it, built from the
# sources that Debian's and Ubuntu's libgtest-dev bring along.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  set(GDN_GTEST_SOURCE_DIR /usr/src/googletest CACHE PATH "Sources of GoogleTest")
  set(INSTALL_GTEST OFF)
  add_subdirectory(${GDN_GTEST_SOURCE_DIR} ${PROJECT_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
endif()
