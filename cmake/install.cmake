# What `cmake --install` puts where: headers, both libraries, the CMake package and pkg-config files.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Everything is of the component "library", beside which there is the command.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME library)

if(GDN_OPENMP)
  install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
else()
  install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          PATTERN openmp.h EXCLUDE)
endif()

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gdn)
install(TARGETS gdn_static gdn_shared EXPORT gdn-targets
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT gdn-targets NAMESPACE gdn:: DESTINATION ${config_dir} FILE gdnTargets.cmake)
if(GDN_OPENMP)
  # In a file of its own: a project without OpenMP can still use the rest.
  install(TARGETS gdn_openmp_static gdn_openmp_shared EXPORT gdn-openmp-targets
          INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT gdn-openmp-targets NAMESPACE gdn:: DESTINATION ${config_dir}
          FILE gdnOpenMPTargets.cmake)
endif()
if(BUILD_SHARED_LIBS)
  set(GDN_DEFAULT_KIND shared)
else()
  set(GDN_DEFAULT_KIND static)
endif()
configure_package_config_file(cmake/gdnConfig.cmake.in ${PROJECT_BINARY_DIR}/gdnConfig.cmake
                              INSTALL_DESTINATION ${config_dir})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/gdnConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gdnConfig.cmake ${PROJECT_BINARY_DIR}/gdnConfigVersion.cmake
        DESTINATION ${config_dir})

# The folders of a pkg-config file are relative to it, unless they were given as absolute ones, so
# that a prefix can be moved.
file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(GDN_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
else()
  set(GDN_PC_PREFIX "\${pcfiledir}/${up}")
endif()
foreach(dir LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
    set(GDN_PC_${dir} ${CMAKE_INSTALL_${dir}})
  else()
    set(GDN_PC_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
  endif()
endforeach()
set(pc_files gdn)
if(GDN_OPENMP)
  list(APPEND pc_files gdn-openmp)
endif()
foreach(name ${pc_files})
  configure_file(cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME Unspecified)
