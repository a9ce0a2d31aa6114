"""What can be chosen, and what it costs: known exactly before anything is trained.

A space is plain data: parameters with levels, limits, a canonical key for each network. Exact costs are one trace of
the backbone and a closed form for each site; latency and memory are measured on few placements and predicted.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
