"""A search at work: one driver asks and tells, executors train, the Optuna storage is the one truth.

`problem` is a configuration with all that follows from it, `proposer` decides what is worth a training, `driver` keeps
the slots busy, `study` and `run_folder` keep what came of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
