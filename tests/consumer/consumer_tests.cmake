# The library as its users get it.
set(consumer_dir ${CMAKE_CURRENT_LIST_DIR})
set(consumer_environment "CMAKE=${CMAKE_COMMAND};CC=${CMAKE_C_COMPILER};CXX=${CMAKE_CXX_COMPILER}"
                         "GENERATOR=${CMAKE_GENERATOR}")
function(gdn_consumer_test name)
  add_test(NAME consumer_${name} COMMAND ${consumer_dir}/consumer_test ${name} ${ARGN})
  set_tests_properties(consumer_${name} PROPERTIES ENVIRONMENT "${consumer_environment}")
endfunction()

if(GDN_INSTALL AND NOT CMAKE_CROSSCOMPILING)
  gdn_consumer_test(cmake ${PROJECT_BINARY_DIR})
  find_program(GDN_PKG_CONFIG NAMES pkg-config)
  if(GDN_PKG_CONFIG)
    gdn_consumer_test(pkg-config ${PROJECT_BINARY_DIR})
  endif()
endif()
if(NOT CMAKE_CROSSCOMPILING)
  gdn_consumer_test(folder ${PROJECT_SOURCE_DIR})
endif()

if(GDN_INSTALL)
  file(GLOB public_headers ${PROJECT_SOURCE_DIR}/include/*.h ${PROJECT_SOURCE_DIR}/include/gdn/*.h)
  list(FILTER public_headers EXCLUDE REGEX "/(openmp|export)\\.h$")
  add_test(NAME exports_gdn COMMAND ${consumer_dir}/exports_test ${CMAKE_NM}
                                    $<TARGET_FILE:gdn_shared> ${public_headers})
  if(GDN_OPENMP)
    add_test(NAME exports_openmp
             COMMAND ${consumer_dir}/exports_test ${CMAKE_NM} $<TARGET_FILE:gdn_openmp_shared>
                     ${PROJECT_SOURCE_DIR}/include/gdn/openmp.h)
  endif()
endif()
