"""Which error codes tests expect: read from their code, so that a code that nothing produces any more is noticed."""

import ast
from collections.abc import Iterator

MAKERS = {"ApiError", "AnswerFailed", "Failure", "PromptFailure", "RateLimited", "StakeRefused"}
"""Whoever calls these makes an error and expects none."""
CHECKS = ("assert_", "check_")


def expected(tree: ast.Module) -> set[str]:
    """Return the words that a test may expect: those of assertions, of checks, and of the tables that feed them.

    Tables are what a parametrized test or a loop goes through, and constants of the module. What an error is made with
    does not count.
    """
    places = [place for node in ast.walk(tree) for place in _places(node)]
    tables = [
        node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    ]
    return {word for place in [*places, *tables] for word in _words(place)}


def _places(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assert):
        yield node.test
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield node.iter
    elif isinstance(node, ast.Call):
        name = _name(node.func)
        if name == "parametrize" or name.startswith(CHECKS):
            yield from node.args
        elif name == "raises":
            yield from (keyword.value for keyword in node.keywords)


def _words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and _name(node.func) in MAKERS:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _words(child)


def compared(tree: ast.Module) -> set[str]:
    """Return the words that assertions hold against something that is a code: `error.code`, `body["error"]["code"]`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for one in ast.walk(node.test):
                if isinstance(one, ast.Compare):
                    for left, right in zip([one.left, *one.comparators[:-1]], one.comparators, strict=True):
                        found |= set(_held_against(left, right)) | set(_held_against(right, left))
    return found


def _held_against(code: ast.expr, word: ast.expr) -> Iterator[str]:
    if isinstance(code, ast.Tuple) and isinstance(word, ast.Tuple) and len(code.elts) == len(word.elts):
        for one, other in zip(code.elts, word.elts, strict=True):
            yield from _held_against(one, other)
    elif _is_code(code):
        parts = word.elts if isinstance(word, ast.Set | ast.List | ast.Tuple) else [word]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _is_code(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "code"
    return isinstance(node, ast.Attribute) and node.attr == "code"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
