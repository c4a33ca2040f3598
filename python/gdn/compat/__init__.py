"""The operators under the names and signatures of other projects' modules."""

from .._lazy import lazy_modules

__getattr__, __dir__ = lazy_modules(globals(), "hpu_gdn_pytorch", "vllm")
