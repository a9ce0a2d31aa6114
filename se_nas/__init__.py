"""se-nas: where to put Squeeze-and-Excitation blocks in a CNN, and what they cost.

What is listed in ``dir(se_nas)`` is the public face; it is imported when it is first used, since torch and Lightning
take seconds. The rooms behind it say in their own first lines what they are for; `se_nas.commands.search` is the place
to begin reading.
"""

import sys

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name not in __all__ or "IPython" not in sys.modules or "torch" in sys.modules:
        return _load(name)
    from se_nas.report.screens import while_loading  # light, but not needed outside of notebooks

    with while_loading():
        return _load(name)
