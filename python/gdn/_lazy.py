"""Modules of a package that are imported when someone asks for them: `import gdn` stays fast."""

import importlib


def lazy_modules(package, *names):
    """__getattr__ and __dir__ of the package with that namespace, for its modules of these
    names."""
    path = package["__name__"]

    def get(name):
        if name in names:
            return importlib.import_module(f"{path}.{name}")
        raise AttributeError(f"module {path!r} has no attribute {name!r}")

    def names_of_all():
        return sorted({*package, *names})

    return get, names_of_all
