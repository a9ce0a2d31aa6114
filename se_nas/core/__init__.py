"""What every room speaks of: placements, trials, one configuration, errors, plug-in points, wording.

Values that travel are frozen records, valid once built, JSON in and out. Nothing here knows torch, Optuna or
Lightning, so that a command line can be read and answered at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
