"""se-nas: where to put Squeeze-and-Excitation blocks in a CNN, and what they cost.

What is listed in ``dir(se_nas)`` is the public face; it is imported when it is first used, since torch and Lightning
take seconds. The rooms behind it say in their own first lines what they are for; `se_nas.commands.search` is the place
to begin reading.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
