"""A method as source that holds outside of its module and its class."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Mapping


def names_in(function: types.FunctionType, definition: ast.FunctionDef) -> set[str]:
    """The names of its module that a method uses."""
    names = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
    return names & set(function.__globals__) - set(function.__code__.co_varnames)


def method_source(
    function: types.FunctionType, definition: ast.FunctionDef, renamed: Mapping[str, str], *, parent: str
) -> str:
    """The source of a method, changed as its `definition` says.

    Parameters
    ----------
    renamed:
        Name in its module -> what it is called where the source goes.
    parent:
        The class that it stood in, for ``super()``, as it is called there; empty if the method does not use it.
    """
    definition = copy.deepcopy(definition)
    mangling = function.__qualname__.rpartition(".")[0].rpartition(".")[2].lstrip("_")
    _Outside(renamed, mangling, parent).visit(definition)
    return ast.unparse(ast.fix_missing_locations(definition))


class _Outside(ast.NodeTransformer):
    """Makes a method independent of where it stood: imported names, private names, ``super()``, annotations."""

    def __init__(self, renamed: Mapping[str, str], mangling: str, parent: str) -> None:
        self.renamed = renamed
        self.mangling = mangling
        self.parent = parent

    def visit_Name(self, node: ast.Name) -> ast.expr:
        new = self.renamed.get(node.id, node.id)
        if "." in new:
            return ast.copy_location(ast.parse(new, mode="eval").body, node)
        return ast.copy_location(ast.Name(new, node.ctx), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            node.attr = f"_{self.mangling}{node.attr}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        bare = isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args
        self.generic_visit(node)
        if bare and self.parent:
            node.args = [ast.parse(self.parent, mode="eval").body, ast.Name("self", ast.Load())]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        return node
