# Tests of examples/qwen35, where it is built. They link the example, and so the library, as a user
# of it does.
if(NOT TARGET qwen35)
  return()
endif()
add_executable(qwen35_tests qwen35_checkpoint.cc qwen35_command_test.cc qwen35_test.cc)
target_link_libraries(qwen35_tests PRIVATE qwen35_model gdn_warnings GTest::gtest_main
                                           nlohmann_json::nlohmann_json)
target_compile_definitions(qwen35_tests PRIVATE QWEN35_COMMAND="$<TARGET_FILE:qwen35>"
                                                QWEN35_TEST_ROOT="${PROJECT_SOURCE_DIR}")
add_dependencies(qwen35_tests qwen35)
add_test(NAME qwen35_tests COMMAND qwen35_tests)
