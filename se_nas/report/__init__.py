"""What a person sees: the terminal, the page, figures and tables as files.

One HTML page without network access, drawn by plotly; figures for papers by matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
