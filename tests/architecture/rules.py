"""One function for each rule of the architecture; `test_architecture.py` runs them.

A rule reads the syntax tree of one module, imports inside functions and under TYPE_CHECKING
included, and yields (line, what is wrong).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

# A module imports only from rooms to its left; rooms in one group do not see each other.
ORDER = (
    ("errors",),
    ("progress",),
    ("sources",),
    ("types",),
    ("tasks",),
    ("datasets",),
    ("tables",),
    ("config",),
    ("inputs",),
    ("store",),
    ("html",),
    ("endpoints",),
    ("encoder",),
    ("losses",),
    ("search",),
    ("integrations",),
    ("data",),
    ("inspection",),
    ("soup",),
    ("baselines",),
    ("mining",),
    ("synthesis",),
    ("training",),
    ("evaluation",),
    ("ablation",),
    ("quickstart",),
    ("server",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, group in enumerate(ORDER) for room in group}
INFERENCE_ROOMS = set("inputs store encoder search integrations server demo".split())

ARCHITECTURE = re.compile(r"qwen|llama|mistral|gemma|bert|siglip|internvl", re.IGNORECASE)
ARCHITECTURE_HOMES = {
    "mmembed.encoder.attention",
    "mmembed.encoder.backbone",
    "mmembed.encoder.scratch",  # writes a checkpoint in one architecture's published format
}
NAMED_AFTER_ONE = re.compile(r"qwen[-_]vl[-_]utils|sentence_bert_config|llama[-_]?index", re.I)
RECIPE = re.compile(r"rzen|qzhou|kalm|vlm2vec|qwen3[-_]?emb", re.IGNORECASE)
ADAPTER_WORDS = tuple(f"mmembed.{room}" for room in "types tasks datasets tables errors".split())

# The files of the public scorers are pickles; this module reads numbers and names out of them only.
UNPICKLER_HOME = "mmembed.evaluation.pickled_vectors"
NETWORK_HOMES = {"mmembed.inputs.fetch", "mmembed.endpoints.client", "mmembed.server.listening"}
NETWORK = (
    "requests httpx httpx2 aiohttp urllib3 urllib.request http.client http.server socket ftplib"
).split()
UNPICKLERS = "pickle cPickle dill cloudpickle shelve marshal joblib jsonpickle".split()
FORBIDDEN_CALLS = {
    "eval": "runs code",
    "exec": "runs code",
    "print": "the library logs; the command line has its console",
    "breakpoint": "debugging aid",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "torch.load": "unpickles; checkpoints are safetensors",
    "pickle.load": "runs code from files; a subclass of Unpickler says what it may find",
    "pickle.loads": "runs code from files; a subclass of Unpickler says what it may find",
    "yaml.load": "builds arbitrary objects; use yaml.safe_load",
    "os.putenv": "changes the environment of the caller's process",
    "os.unsetenv": "changes the environment of the caller's process",
}
FORBIDDEN_KEYWORDS = ("trust_remote_code", "shell", "allow_pickle")
IMPORT_TIME_EFFECTS = re.compile(
    r"warnings\.(filterwarnings|simplefilter)|logging\.(basicConfig|disable|captureWarnings)"
    r"|(.*\.)?(addHandler|setLevel)|(numpy\.)?random\.seed|signal\.signal|atexit\.register"
    r"|torch\.(manual_seed|set_\w+|use_deterministic_algorithms)|sys\.path\.\w+"
    r"|(torch\.)?multiprocessing\.set_\w+"
)
VAGUE_MODULE = re.compile(r"(utils?|helpers?|common|misc|base_.*|abs_.*)$")
# Rooms that are one function to everybody outside: their __init__ names it and does nothing else.
ONE_DOOR = {"mmembed.soup", "mmembed.cli"}
VAGUE_CLASS = re.compile(r"Abs[A-Z]|.*V\d+$")


@dataclass(frozen=True)
class Module:
    """One source file, parsed. `name` is dotted; a package is named without `__init__`."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def room(self) -> str:
        """`losses` for `mmembed.losses.masks`; empty for `mmembed` itself and other packages."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "mmembed" and len(parts) > 1 else ""

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """(line, target); `from a import b` is `a.b`; literals of import_module count."""
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = node.module or ""
                if node.level:
                    package = self.name.split(".")
                    keep = len(package) - node.level + self.is_package
                    origin = ".".join([*package[:keep], *([origin] if origin else [])])
                found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Call) and node.args:
                name, first = dotted(node.func), node.args[0]
                if name.endswith(("import_module", "__import__")) and isinstance(
                    first, ast.Constant
                ):
                    found.append((node.lineno, str(first.value)))
        return found

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Local name -> what it was imported as: `np` -> `numpy`, `environ` -> `os.environ`."""
        found = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {a.asname: a.name for a in node.names if a.asname}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        return found

    def resolve(self, node: ast.AST) -> str:
        head, dot, rest = dotted(node).partition(".")
        return self.aliases.get(head, head) + dot + rest

    @cached_property
    def identifiers(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = [(1, self.name)]
        for node in self.nodes:
            line = getattr(node, "lineno", 1)
            for field in ("id", "attr", "name", "arg", "asname", "module"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    found.append((line, value))
        return found

    @cached_property
    def strings(self) -> list[ast.Constant]:
        """String constants that are not docstrings."""
        documentation = {id(n.value) for n in self.nodes if isinstance(n, ast.Expr)}
        return [
            node
            for node in self.nodes
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
        ]


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes; `?.c` when it starts with something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def is_under(target: str, *packages: str) -> bool:
    return any(target == package or target.startswith(package + ".") for package in packages)


Violations = Iterator[tuple[int, str]]


def imports_only_from_the_left(module: Module) -> Violations:
    rank = RANK.get(module.room)
    if module.room and rank is None:
        yield 1, f"room {module.room!r} has no place in ORDER"
    for line, target in module.imports:
        parts = target.split(".")
        if parts[0] != "mmembed" or not module.room or rank is None:
            continue
        other = parts[1] if len(parts) > 1 else ""
        if other == "__version__" or other == module.room:
            continue
        if other not in RANK:
            yield line, f"imports {target}: import from the module that defines it"
        elif RANK[other] >= rank:
            yield line, f"{module.room} imports {target}, which is not to its left"


def fences_hold(module: Module) -> Violations:
    for line, target in module.imports:
        if module.room in INFERENCE_ROOMS and is_under(
            target, "mmembed.losses", "mmembed.training"
        ):
            yield line, f"{module.room} must stay free of training code: imports {target}"
        if module.room == "losses" and is_under(target, "mmembed", "data_adapters"):
            if not is_under(target, "mmembed.errors", "mmembed.losses"):
                yield line, f"a loss sees embeddings only: imports {target}"
        if module.room == "losses" and is_third_party(target) and not is_under(target, "torch"):
            yield line, f"losses need torch only: imports {target}"
        if module.name.startswith("mmembed") and is_under(target, "data_adapters"):
            yield line, f"adapters are named in configurations only: imports {target}"
        if module.name.startswith("data_adapters") and is_under(target, "mmembed"):
            if not is_under(target, *ADAPTER_WORDS):
                yield line, f"an adapter imports {', '.join(ADAPTER_WORDS)} only: imports {target}"
    if module.name.startswith("mmembed"):
        for node in module.strings:
            if re.match(r"data_adapters([.:/]|$)", node.value):
                yield node.lineno, f"names an adapter: {node.value!r}"


def is_third_party(target: str) -> bool:
    top = target.split(".")[0]
    return top not in sys.stdlib_module_names and top not in {"mmembed", "data_adapters"}


def communication_lives_in_one_file(module: Module) -> Violations:
    if module.name == "mmembed.training.distributed":
        return
    for line, target in module.imports:
        if is_under(target, "torch.distributed"):
            yield line, f"imports {target}; use mmembed.training.distributed"
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and module.resolve(node) == "torch.distributed":
            yield node.lineno, "uses torch.distributed; use mmembed.training.distributed"


def architecture_names_stay_in_the_backbone(module: Module) -> Violations:
    if module.name in ARCHITECTURE_HOMES:
        return
    # a string with a blank is a sentence for people; nothing can be decided by it
    values = [(node.lineno, node.value) for node in module.strings if " " not in node.value]
    words = module.identifiers + values
    for line, word in words:
        if match := ARCHITECTURE.search(NAMED_AFTER_ONE.sub("", word)):
            yield line, f"architecture name {match.group()!r} in {word[:60]!r}"


def recipes_are_data(module: Module) -> Violations:
    for line, word in module.identifiers:
        if RECIPE.search(word):
            yield line, f"recipe name in the identifier {word!r}"
    for node in module.nodes:
        deciding: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            deciding = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            deciding = [node.value]
        elif isinstance(node, ast.Dict):
            deciding = list(node.keys)
        elif isinstance(node, ast.Subscript):
            deciding = [node.slice]
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("with", ".get")):
            deciding = list(node.args)
        for part in deciding:
            for leaf in ast.walk(part) if part else ():
                if isinstance(leaf, ast.Constant) and RECIPE.search(str(leaf.value)):
                    yield leaf.lineno, f"decides by the recipe name {leaf.value!r}"


def nothing_unsafe(module: Module) -> Violations:
    for line, target in module.imports:
        if is_under(target, *UNPICKLERS) and module.name != UNPICKLER_HOME:
            yield line, f"imports {target}, which runs code from files"
        if is_under(target, *NETWORK) and module.name not in NETWORK_HOMES:
            yield line, f"imports {target}; only inputs.fetch and endpoints.client do"
        if target in FORBIDDEN_CALLS:
            yield line, f"imports {target}: {FORBIDDEN_CALLS[target]}"
    for node in module.nodes:
        if not isinstance(node, ast.Call):
            continue
        name = module.resolve(node.func)
        if name in FORBIDDEN_CALLS and not loads_safe_yaml(module, node):
            yield node.lineno, f"calls {name}: {FORBIDDEN_CALLS[name]}"
        if is_under(name, *NETWORK) and module.name not in NETWORK_HOMES:
            yield (
                node.lineno,
                f"calls {name}; only inputs.fetch and endpoints.client do",
            )
        for keyword in node.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in FORBIDDEN_KEYWORDS and not off:
                yield node.lineno, f"{keyword.arg}= must be False"


def loads_safe_yaml(module: Module, call: ast.Call) -> bool:
    """`yaml.load(text, Loader=X)` where X is SafeLoader or derived from it in this module."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    loaders = [module.resolve(keyword.value) for keyword in call.keywords]
    derived = {
        node.name
        for node in module.nodes
        if isinstance(node, ast.ClassDef) and safe & {module.resolve(base) for base in node.bases}
    }
    return module.resolve(call.func) == "yaml.load" and bool(set(loaders) & (safe | derived))


def errors_are_not_swallowed(module: Module) -> Violations:
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = dotted(node.type) if node.type else "everything"
        reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if node.type is None or (caught == "BaseException" and not reraises):
            yield node.lineno, f"catches {caught}, Ctrl-C included; name the exceptions"


def environment_is_left_alone(module: Module) -> Violations:
    for node in module.nodes:
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if module.resolve(node.value) == "os.environ":
                yield node.lineno, "writes os.environ"
        if isinstance(node, ast.Call) and re.fullmatch(
            r"os\.environ\.(setdefault|update|pop|popitem|clear|__setitem__)",
            module.resolve(node.func),
        ):
            yield node.lineno, "writes os.environ"


def import_has_no_effects(module: Module) -> Violations:
    todo: list[ast.AST] = list(module.tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        todo.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and IMPORT_TIME_EFFECTS.fullmatch(module.resolve(node.func)):
            yield node.lineno, f"importing it calls {module.resolve(node.func)}"


def modules_are_documented_and_named(module: Module) -> Violations:
    if not (ast.get_docstring(module.tree) or "").strip():
        yield 1, "no module docstring"
    if VAGUE_MODULE.match(module.name.rpartition(".")[2]):
        yield 1, "a module is a noun of the domain"
    for node in module.nodes:
        if isinstance(node, ast.ClassDef) and VAGUE_CLASS.match(node.name):
            yield node.lineno, f"class name {node.name}"
    body = module.tree.body
    for node in body[1:] if module.is_package and "." in module.name else ():
        if module.name not in ONE_DOOR:
            yield node.lineno, "the __init__ of a room is one docstring and imports nothing"
        elif not names_the_door(module, node):
            yield node.lineno, "this __init__ takes names from its own room and lists them, no more"


def names_the_door(module: Module, node: ast.AST) -> bool:
    """`from mmembed.room.x import y` in the room's __init__, or its __all__."""
    if isinstance(node, ast.ImportFrom):
        return is_under(node.module or "", module.name)
    return isinstance(node, ast.Assign) and [dotted(each) for each in node.targets] == ["__all__"]


def public_names_are_listed(module: Module) -> Violations:
    listed: list[str] | None = None
    defined = set(module.aliases)
    public: dict[str, int] = {}
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
            calls = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
            is_command = any(dotted(c).endswith((".command", ".callback")) for c in calls)
            if not node.name.startswith("_") and not is_command:
                public[node.name] = node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [name.id for target in targets if target for name in ast.walk(target)
                 if isinstance(name, ast.Name)]  # fmt: skip
        defined.update(names)
        if names == ["__all__"]:
            listed = list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    if listed is None:
        if public:
            yield 1, f"no __all__, but public names: {', '.join(public)}"
        return
    for name in sorted(set(listed) - defined):
        yield 1, f"__all__ lists {name}, which is not defined"
    for name in sorted(set(public) - set(listed)):
        yield public[name], f"{name} is neither in __all__ nor private"
