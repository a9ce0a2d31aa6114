from .driver import Driver as Driver
from .problem import Problem as Problem
from .problem import prepare as prepare
from .proposer import Proposer as Proposer
from .run_folder import RunFolder as RunFolder
from .study import Study as Study
