"""One training: a placement in, a result out.

`evaluate` builds the candidate, trains it with Lightning and writes result and weights; beside it stand tasks, devices,
checkpoints, and trainings on several devices at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
