// GDN_API marks what the shared library exports; everything else is hidden.
#pragma once

#if defined(GDN_STATIC)
#define GDN_API
#elif defined(_WIN32)
#if defined(GDN_BUILDING)
#define GDN_API __declspec(dllexport)
#else
#define GDN_API __declspec(dllimport)
#endif
#else
#define GDN_API __attribute__((visibility("default")))
#endif
