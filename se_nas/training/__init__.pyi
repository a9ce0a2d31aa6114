from .classification import Classification as Classification
from .own_module import OwnModule as OwnModule
from .rehearsal import rehearse as rehearse
from .trainer import train as train
