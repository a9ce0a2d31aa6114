from .bundle import load as load
from .formats import FORMATS as FORMATS
from .proof import Proof as Proof
from .proof import prove as prove
