"""Where trainings run: in this process, one process for each core or GPU, or on the machines of a Ray cluster.

An executor carries requests to workers and their reports back; it knows nothing of studies.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
