"""The SE block, where it may sit in a network, and how it gets there.

A network is recorded in one forward pass; rules find its units and their sites; a block is put in by changing only
the call at its site, so that class, methods, keys and training mode of the network stay as they were.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
