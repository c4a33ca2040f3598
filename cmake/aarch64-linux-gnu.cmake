# Cross-compiles for AArch64 with Debian's g++-aarch64-linux-gnu; qemu-user runs what was built.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Where the cross compiler's packages put the C and C++ libraries.
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64-static;-L;/usr/aarch64-linux-gnu")

# Programs are the build machine's. Headers may be: Highway, CLI11 and nlohmann-json are headers
# alone. Libraries of the build machine's own architecture are not found, because they lie in a
# folder named after it.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
