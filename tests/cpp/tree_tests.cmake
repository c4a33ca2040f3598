# Tests of the tree and of what the compiler made, not of the operators.
add_test(NAME readme_test
         COMMAND ${CMAKE_CURRENT_LIST_DIR}/readme_test ${PROJECT_SOURCE_DIR}/README.md
                 ${PROJECT_SOURCE_DIR}/examples/prefill_decode.cpp)

add_test(NAME wgmma_remarks_test
         COMMAND ${CMAKE_CURRENT_LIST_DIR}/wgmma_remarks_test
                 ${PROJECT_SOURCE_DIR}/cmake/fail_on_wgmma_remarks)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_test(NAME symbols_test
           COMMAND ${CMAKE_CURRENT_LIST_DIR}/symbols_test ${CMAKE_OBJDUMP} ${CMAKE_NM}
                   $<TARGET_OBJECTS:gdn_objects>
           COMMAND_EXPAND_LISTS)
endif()
