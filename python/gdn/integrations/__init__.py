"""gdn in other projects' models, a module for each."""

from .._lazy import lazy_modules

__getattr__, __dir__ = lazy_modules(globals(), "transformers")
