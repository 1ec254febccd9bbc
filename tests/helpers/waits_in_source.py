"""Calls in source that make a program wait for a GPU, as far as a reader without types can tell."""

import ast

READS = ("item", "cpu", "tolist", "numpy", "synchronize")  # methods that give values to the program
SHAPES = ("nonzero", "masked_select", "unique", "bincount")  # methods whose result has a shape by values
NUMBERS = ("float", "int", "bool", "print")  # functions that read a tensor, if they are given one
COPIES = ("new_tensor",)  # methods that copy numbers from main memory to a tensor's device
MAKERS = ("tensor", "as_tensor")  # torch's functions that copy from main memory to a device
TRUTHS = ("any", "all")  # methods that give a tensor, whose truth is asked for


def waits(tree):
    """Pairs (function, what) for each suspicious place: `A.f` of a class A, and `.item()`."""
    for name, function in functions(tree):
        masks = names_of_masks(function)
        for node in own_nodes(function):
            found = suspicious(node, masks)
            if found:
                yield name, found


def functions(tree, prefix=""):
    """All functions with their dotted names; those within functions, too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def own_nodes(function):
    """The nodes of a function's body without those of functions in it, which are seen by themselves."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def suspicious(node, masks=()):
    """The kind of wait that a node may be, or None."""
    if isinstance(node, ast.Call):
        return of_call(node)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        chosen = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(is_mask(one) or (isinstance(one, ast.Name) and one.id in masks) for one in chosen):
            return "[mask]"
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        asked = [one.func.attr for one in ast.walk(node.test) if is_method(one, TRUTHS)]
        if asked:
            return f"if .{asked[0]}()"
    return None


def of_call(call):
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if isinstance(call.func, ast.Attribute):
        name = call.func.attr
        if name in READS + SHAPES + COPIES:
            return f".{name}()"
        on_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        if on_torch and name == "where" and len(call.args) == 1:
            return ".where(mask)"
        if (
            on_torch
            and name in MAKERS
            and getattr(named.get("device"), "value", "") != "cpu"
            and "device" in named
        ):
            return f"{name}(device)"
        return None
    name = getattr(call.func, "id", "")
    if name in NUMBERS and not all(is_plain(one) for one in call.args):
        return f"{name}()"
    return None


def is_method(node, names):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names


def is_plain(node):
    """Whether a value cannot be a tensor: a constant, a text, or made of lengths and of such."""
    if isinstance(node, ast.BinOp):
        return is_plain(node.left) and is_plain(node.right)
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") in ("len", "round", "str")
    return isinstance(node, (ast.Constant, ast.JoinedStr))


def is_mask(node):
    return isinstance(node, ast.Compare) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert)
    )


def names_of_masks(function):
    """The names that are bound to comparisons of tensors, or to their complements, in a function."""
    bound = [node for node in own_nodes(function) if isinstance(node, ast.Assign) and is_mask(node.value)]
    return {target.id for node in bound for target in node.targets if isinstance(target, ast.Name)}
