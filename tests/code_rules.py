"""A static rule over source files: what could run code that data, weights or configurations bring along."""

import ast
from pathlib import Path

UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
YAML_LOADERS = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}


def dotted(node: ast.expr) -> str:
    """`torch.hub.load` of an attribute chain; "" of anything else."""
    if isinstance(node, ast.Attribute):
        return f"{base}.{node.attr}" if (base := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_literal(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def wrong_call(call: ast.Call, names: dict[str, str]) -> str | None:
    """What is wrong with one call, or None. names: what a local name stands for, from the imports."""
    first, _, rest = dotted(call.func).partition(".")
    name = f"{names.get(first, first)}.{rest}".rstrip(".")
    if name in ("eval", "exec", "compile", "__import__"):
        return f"{name}()"
    if name == "torch.load" and not is_literal(keyword(call, "weights_only"), True):
        return "torch.load without weights_only=True"
    if name.startswith("torch.hub."):
        return "torch.hub"
    if name in ("torch.serialization.add_safe_globals", "torch.serialization.safe_globals"):
        return "widened unpickling"
    if name.startswith("yaml.") and name.rpartition(".")[2] in YAML_LOADERS:
        return "yaml that builds objects"
    if name in ("numpy.load", "np.load") and (allow := keyword(call, "allow_pickle")) and not is_literal(allow, False):
        return "np.load with pickles"
    if name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
        return "a shell"
    if (shell := keyword(call, "shell")) and not is_literal(shell, False):
        return "shell=True"
    if (trust := keyword(call, "trust_remote_code")) and not is_literal(trust, False):
        return "trust_remote_code"
    return None


def violations(source: str) -> list[str]:
    """`line: what` of everything in a source file that the rule forbids."""
    found, names = [], {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {(a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0]) for a in node.names}
            found += [(node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            if node.module.split(".")[0] in UNPICKLERS or f"{node.module}.{node.names[0].name}" == "torch.hub":
                found.append((node.lineno, f"import {node.module}"))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (wrong := wrong_call(node, names)):
            found.append((node.lineno, wrong))
        elif isinstance(node, ast.Dict):
            keys = [k.value if isinstance(k, ast.Constant) else None for k in node.keys]
            values = dict(zip(keys, node.values, strict=True))
            if "trust_remote_code" in values and not is_literal(values["trust_remote_code"], False):
                found.append((node.lineno, "trust_remote_code"))
        elif isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Subscript) and is_text(t.slice, "trust_remote_code") for t in node.targets
        ):
            found += [] if is_literal(node.value, False) else [(node.lineno, "trust_remote_code")]
        elif isinstance(node, ast.Assign) and any(dotted(t).endswith("enforce_security") for t in node.targets):
            found += [] if is_literal(node.value, True) else [(node.lineno, "enforce_security switched off")]
    return [f"{line}: {what}" for line, what in sorted(found)]


def is_text(node: ast.expr, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def of_tree(folder: Path) -> dict[str, list[str]]:
    """Path in the folder → its violations, where there are some."""
    files = {str(path.relative_to(folder)): violations(path.read_text()) for path in sorted(folder.rglob("*.py"))}
    return {path: found for path, found in files.items() if found}
