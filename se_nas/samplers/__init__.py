"""The statistics of a search: what all trainings say together, and which placement is worth training next.

Usable in anybody's Optuna study: a sampler that knows the cost of every placement, the Bayesian linear model behind
it, Pareto fronts with their probabilities, and learning curves.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
