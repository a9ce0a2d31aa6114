from .build import build_backbone as build_backbone
from .build import list_backbones as list_backbones
from .resnet import bagnet as bagnet
from .resnet import resnet as resnet
from .weights import fit_weights as fit_weights
from .weights import read_weights as read_weights
