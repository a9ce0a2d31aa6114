"""What the results mean: tables, model estimates, effects, comparisons with their noise, and the verdict.

Everything here is computed from trials; nothing is drawn, stored or trained.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
