# Every message of every check, over the library's objects.
add_executable(check_test
  check_allocation_test.cc
  check_causal_conv1d_test.cc
  check_delta_rule_test.cc
  check_elementwise_test.cc
  check_overlap_test.cc
  check_plan_test.cc
  check_replay_test.cc
  check_tokens_test.cc)
target_include_directories(check_test PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(check_test PRIVATE gdn_objects gdn_warnings GTest::gtest_main Threads::Threads)
add_test(NAME check_test COMMAND check_test)
add_test(NAME check_test_quick COMMAND check_test)
set_tests_properties(check_test_quick PROPERTIES LABELS quick)
add_dependencies(quick_tests check_test)
