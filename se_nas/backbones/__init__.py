"""A network by name, fitted to the data: its classes, channels, image size and start weights.

Built in are small ResNets; the others come from timm, torchvision, pytorchcv, Hugging Face or the user's own code.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
