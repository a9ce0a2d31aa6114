"""The commands of se-nas as functions, one file each: recipes that read from top to bottom.

`search` is the picture of the README as code; read it first.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
