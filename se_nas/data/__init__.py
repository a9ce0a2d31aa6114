"""Images in, batches out.

A source is read once into the run folder, split, and described; trainings see train and validation set only. The
test set is sealed: it is opened by name, and each opening is noted.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
