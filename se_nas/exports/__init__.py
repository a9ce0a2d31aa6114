"""What leaves the house: a trained network as weights, Python source, `.pt2` or ONNX.

Every file is proven equal to the trained network in a process of its own, and comes with a model card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
