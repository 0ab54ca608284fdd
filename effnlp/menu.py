"""The menu: which choices each config group has, and what their modules say of themselves.

Everything is read as text: configs as YAML, modules as syntax trees. Nothing is imported, so that the menu,
tab completion and legality need no heavy package.
"""

import argparse
import ast
import difflib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Capabilities = dict[str, tuple[str, ...]]
"""A moment to names of capabilities."""

MOMENTS = ("build", "prepare", "during", "finish")
"""When a choice can act on the model, in order."""

CAPABILITIES = {
    "embeddings": "a table of token embeddings",
    "linear_layers": "an encoder with linear layers that are named by their role",
    "float_linear_layers": "their weights are floating-point numbers",
    "trainable_weights": "fine-tuning may update every weight",
    "biases": "layers with bias terms",
    "layer_outputs": "an encoder that can be run layer by layer",
    "learning_layers": "in every layer of the encoder something learns",
    "uninterrupted_training": "the whole model learns in one phase, from the first step to the last",
    "attention_heads": "tokens are mixed by attention heads",
    "all_heads": "none of which was removed",
    "softmax_attention": "and by a softmax over keys, before which others can be put",
    "token_sequence": "an encoder that reads one embedding for each token, before which others can be put",
    "both_directions": "a token may be mixed with those that follow it",
    "next_tokens": "no token sees one that follows it, so that the next one can be predicted",
    "continued_texts": "a language model, which reads on from what it keeps of a text",
    "classes": "the task is to tell classes apart, not to give a number",
    "single_task": "one task is learned, with one head",
    "pretrained_weights": "weights that were trained before it is fine-tuned",
    "own_tokenizer": "a tokenizer that is learned from texts, and not one that came with the weights",
    "own_head": "a head that reads one vector a text, and not the table of token embeddings",
    "token_head": "a head that scores tokens, trained with the weights",
}
"""What a model can have and a method can need or take away: the words of the constants of modules."""

HERE = "@_here_"
"""What ends the entry ``/peft@_here_: lora`` of a defaults list: the choice in the package of the config at hand."""

NOT_METHODS = ("run", "sweep", "hydra")


def conf_dir() -> Path:
    """Where the configs lie: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def config_folders(config_dir: Path | None) -> list[Path]:
    """Where configs are looked for, in this order: ours, then the user's own.

    Raises:
        ValueError: If the user's folder is none.
    """
    if config_dir is None:
        return [conf_dir()]
    if not config_dir.is_dir():
        raise ValueError(f"--config-dir {config_dir} is not a folder")
    return [conf_dir(), config_dir]


@dataclass(frozen=True)
class Choice:
    """One config of a group.

    Attributes:
        group: For instance ``compression/pruning``.
        name: For instance ``magnitude``.
        target: Dotted name of what the config makes; None for plain settings.
        summary: First line of its module's docstring (of the config's leading comment, if it has no module).
        source: What the docstring names as the paper, or empty.
        requires_unless: What is required further unless a setting has its neutral value, by key and value.
        keys: The settings that the config itself holds.
        parts: Groups that the choice owns, with their default: ``model/mixer`` to ``attention``, a stack's joined
            by ``+``.
        stands_for: Group and name of the choice that this one is, in another package; None if it is its own.
    """

    group: str
    name: str
    target: str | None = None
    summary: str = ""
    source: str = ""
    requires: Capabilities = field(default_factory=dict)
    provides: Capabilities = field(default_factory=dict)
    removes: Capabilities = field(default_factory=dict)
    requires_unless: dict[tuple[str, Any], Capabilities] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    stands_for: tuple[str, str] | None = None


def groups(folders: Sequence[Path]) -> list[str]:
    """All config groups below ``folders`` that hold a config, sorted."""
    found = {
        path.parent.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*.yaml")
        if path.parent != folder
    }
    return sorted(group for group in found if group.split("/")[0] not in NOT_METHODS)


def choice_names(group: str, folders: Sequence[Path]) -> list[str]:
    """Names of the choices of a group, the neutral one first."""
    names = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(names, key=lambda name: (name != "none", name))


def choices(group: str, folders: Sequence[Path]) -> list[Choice]:
    """The choices of a group, the neutral one first."""
    return [read_choice(group, name, folders) for name in choice_names(group, folders)]


def read_choice(group: str, name: str, folders: Sequence[Path]) -> Choice:
    """One choice with what its module says; one that stands for another has all of that one but the group.

    Raises:
        ValueError: If the group has no such choice; names near matches.
    """
    for folder in folders:
        # An advice reads some 100,000 times: pathlib is slow.
        path = os.path.join(folder, group, f"{name}.yaml")
        try:
            state = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found = _parse(_read(path, state.st_mtime_ns, state.st_size), group, name)
        if found.stands_for is None:
            return found
        whole = read_choice(*found.stands_for, folders)
        return replace(whole, group=group, name=name, stands_for=found.stands_for)
    raise ValueError(f"{group} has no choice {name!r}{suggest(name, choice_names(group, folders))}")


@functools.lru_cache(maxsize=4096)
def _read(path: str, _changed_ns: int, _size: int) -> str:
    """The text of a file, read again when it has changed."""
    return Path(path).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=4096)
def _parse(text: str, group: str, name: str) -> Choice:
    """The choice that a config's text makes."""
    content = _parse_yaml(text, f"{group}/{name}.yaml")
    target = content.get("_target_")
    keys = {key: value for key, value in content.items() if not key.startswith("_") and key != "defaults"}
    comment = next(
        (
            line.lstrip("# ")
            for line in text.splitlines()
            if line.startswith("#") and "@package" not in line and not line.startswith("# effnlp ")
        ),
        "",
    )
    entries = [entry for entry in content.get("defaults", ()) if isinstance(entry, dict)]
    defaults = {str(key): default for entry in entries for key, default in entry.items()}
    said = describe(target) if target else None
    own_module = target is not None and target.rsplit(".", 2)[-2] == name
    return Choice(
        group=group,
        name=name,
        target=target,
        summary=said.summary if said and (own_module or not comment) else comment,
        source=said.source if said and own_module else "",
        requires=said.constants.get("REQUIRES", {}) if said else {},
        provides=said.constants.get("PROVIDES", {}) if said else {},
        removes=said.constants.get("REMOVES", {}) if said else {},
        requires_unless=said.requires_unless if said else {},
        keys=keys,
        parts={
            f"{group}/{part}": "+".join(default) if isinstance(default, list) else str(default)
            for part, default in defaults.items()
            if not part.endswith(HERE)
        },
        stands_for=next(
            (
                (key.strip("/").removesuffix(HERE), str(it))
                for key, it in defaults.items()
                if key.endswith(HERE)
            ),
            None,
        ),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A config file as it is written: no defaults list followed, nothing interpolated.

    Raises:
        ValueError: If it is not YAML, or not a mapping.
    """
    return _parse_yaml(path.read_text(encoding="utf-8"), str(path))


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a mapping, got {type(content).__name__}")
    return content


def stacked_groups(folders: Sequence[Path]) -> list[str]:
    """Groups of which several choices can act one after another: each is in a package of its own name."""

    def stacked(path: Path, group: str) -> bool:
        with path.open(encoding="utf-8") as file:
            return file.readline().split() == ["#", "@package", f"{group.replace('/', '.')}.{path.stem}"]

    return [
        group
        for group in groups(folders)
        if any(stacked(path, group) for folder in folders for path in (folder / group).glob("*.yaml"))
    ]


@dataclass(frozen=True)
class ModuleText:
    """What a module says of itself, read without importing it."""

    summary: str
    source: str
    constants: dict[str, Capabilities]
    requires_unless: dict[tuple[str, Any], Capabilities]


@functools.cache
def describe(target: str) -> ModuleText:
    """Parse the module that defines ``target`` (``package.module.name``).

    Raises:
        ValueError: If there is no such module.
    """
    module = target.rpartition(".")[0]
    path = module_path(module)
    if path is None:
        raise ValueError(f"_target_ {target!r}: there is no module {module!r}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    source = re.search(r"^Sources?: (.+?)(?:\n\s*\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    constants: dict[str, Capabilities] = {}
    requires_unless: dict[tuple[str, Any], Capabilities] = {}
    for node in tree.body:
        names = (
            [n.id for n in node.targets if isinstance(n, ast.Name)]
            if isinstance(node, ast.Assign)
            else [node.target.id]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            else []
        )
        value = getattr(node, "value", None)
        for name in names:
            if name in ("REQUIRES", "PROVIDES", "REMOVES") and value is not None:
                constants[name] = _capabilities(value, f"{name} of {module}")
            if name == "REQUIRES_UNLESS" and value is not None:
                requires_unless = _capabilities_unless(value, f"{name} of {module}")
    return ModuleText(
        summary=docstring.partition("\n")[0],
        source=" ".join(source.group(1).split()) if source else "",
        constants=constants,
        requires_unless=requires_unless,
    )


def _capabilities_unless(node: ast.expr, where: str) -> dict[tuple[str, Any], Capabilities]:
    """The value of a constant: pairs of a key and its neutral value to moments to tuples of names, written out."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    found = {ast.literal_eval(key): _capabilities(value, where) for key, value in pairs if key is not None}
    if not found or not all(isinstance(key, tuple) and len(key) == 2 for key in found):
        raise ValueError(
            f"{where} must map a pair, a key and its neutral value, to what is required at which moment"
        )
    return found


def _capabilities(node: ast.expr, where: str) -> Capabilities:
    """The value of a constant: moments to tuples of names, written out."""
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{where} must be written out as a literal, since it is read unimported") from error
    if not isinstance(value, dict) or not set(value) <= set(MOMENTS):
        raise ValueError(f"{where} must map moments ({', '.join(MOMENTS)}) to names, got {value!r}")
    if not all(
        isinstance(names, tuple) and all(isinstance(n, str) for n in names) for names in value.values()
    ):
        raise ValueError(
            f"{where} must hold tuples of names (mind the comma after a single one), got {value!r}"
        )
    return value


def module_path(module: str) -> Path | None:
    """The file of a module, found without running it or a package that it is in; None if there is none."""
    root, *rest = module.split(".")
    if root == "effnlp":
        return _source(Path(__file__).parent, rest)
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        is_source = spec.origin is not None and spec.origin.endswith(".py") and not rest
        return Path(str(spec.origin)) if is_source else None
    found = (_source(Path(folder), rest) for folder in spec.submodule_search_locations)
    return next((path for path in found if path is not None), None)


def _source(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of the module ``names`` below a package's folder."""
    path = folder.joinpath(*names)
    candidates = (*([path.with_suffix(".py")] if names else []), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def suggest(word: str, known: Sequence[str]) -> str:
    """The end of an error message: near matches if there are any, else what there is."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(repr(name) for name in near) + "?"
    return f"; there is {', '.join(known)}" if known else ""


def main(arguments: list[str]) -> int:
    """``effnlp methods [group]``: print the menu."""
    parser = argparse.ArgumentParser(
        prog="effnlp methods",
        description="Every choice of every config group: what it does, its paper, what it needs and removes.",
        epilog="examples:\n  effnlp methods\n  effnlp methods peft\n  effnlp methods compression",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("group", nargs="?", help="only this group, or all groups below it")
    parser.add_argument("--config-dir", type=Path, help="a folder with configs of your own")
    options = parser.parse_args(arguments)
    try:
        return _print_menu(options.group, config_folders(options.config_dir))
    except ValueError as error:
        sys.stderr.write(f"effnlp methods: {error}\n")
        return 2


def _print_menu(group: str | None, folders: Sequence[Path]) -> int:
    every = groups(folders)
    wanted = [name for name in every if group is None or (name + "/").startswith(group.rstrip("/") + "/")]
    if group is not None and not wanted:
        raise ValueError(f"there is no group {group!r}{suggest(group, every)}")
    lines = list(menu_lines(wanted, folders))
    if group is None:
        width = max(map(len, CAPABILITIES))
        lines += ["what choices need, give and remove"]
        lines += [f"  {name:<{width}}  {sentence}" for name, sentence in CAPABILITIES.items()]
    sys.stdout.write("\n".join(lines).rstrip() + "\n")
    return 0


def menu_lines(wanted: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """The menu as text, a block a group."""
    for group in wanted:
        yield group
        found = choices(group, folders)
        width = max(len(choice.name) for choice in found)
        for choice in found:
            yield f"  {choice.name:<{width}}  {choice.summary}"
            indent = " " * (width + 4)
            if choice.source:
                yield f"{indent}{choice.source}"
            for label, capabilities in (
                ("needs", choice.requires),
                ("gives", choice.provides),
                ("removes", choice.removes),
            ):
                if capabilities:
                    yield f"{indent}{label} {_moments(capabilities)}"
            for (key, value), capabilities in choice.requires_unless.items():
                yield f"{indent}needs {_moments(capabilities)} unless {key}={value}"
        yield ""


def _moments(capabilities: Capabilities) -> str:
    return "; ".join(f"{', '.join(names)} ({moment})" for moment, names in capabilities.items())
