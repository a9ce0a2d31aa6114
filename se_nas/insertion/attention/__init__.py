"""Blocks other than SE that may stand at its sites: channel attention, and attention with positions.

Each file has one, as its paper has it; `base` says what they share, `build` how one gets from a choice into a network,
and `se_nas.core.blocks` lists them all.
"""
