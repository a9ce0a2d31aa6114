from .front import recommend_front as recommend_front
from .known_cost import KnownCostSampler as KnownCostSampler
from .pareto import hypervolume as hypervolume
from .pareto import non_dominated as non_dominated
from .posterior import Posterior as Posterior
from .posterior import fit as fit
