"""What runs a network where it is deployed: runtimes to measure in, and benchmarks for other devices.

`table` has the runtimes by name. `bench` writes networks with a script that measures them on another device,
`latency_table` reads what that script wrote.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
