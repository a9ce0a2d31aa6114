from .block import SEBlock as SEBlock
from .discover import find_units as find_units
from .gates import collect_gates as collect_gates
from .gates import fixed_gates as fixed_gates
from .gates import gate_statistics as gate_statistics
from .insert import build_candidate as build_candidate
from .insert import insert_choices as insert_choices
from .insert import remove_block as remove_block
