from .block import SEBlock as SEBlock
from .discover import find_units as find_units
from .insert import build_candidate as build_candidate
from .insert import insert_choices as insert_choices
from .insert import remove_block as remove_block
