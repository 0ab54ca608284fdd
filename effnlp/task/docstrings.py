"""The documentation of the installed Python, by theme: a real text task that needs no download.

Texts are the paragraphs of the docstrings of the standard library (with its tests and IDLE) and of the topics
of ``pydoc``; the class of a text is the theme of the module that it comes from. The sources are parsed, never
imported. Texts stay as they are, so names of modules may occur in them. A linear model on TF-IDF reaches an
accuracy of about 0.72.
"""

import ast
import contextlib
import gc
import hashlib
import platform
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from effnlp.task.splits import build_task, hash_fraction
from effnlp.task.task import SPLITS, Task

HELD_OUT = 0.17
"""Share of the docstrings whose paragraphs are the validation split, and of those of the test split."""

MIN_TEXTS = 1_200
MIN_TEXTS_PER_THEME = 20

# By hand and for all versions, so that a module has one theme whichever Python it is in. The themes are about
# as the chapters of the library reference. A name without dot: the first part of a module's path.
THEMES: dict[str, str] = {
    "text and data formats": """
        _compression _markupbase aifc base64 binascii binhex bz2 chunk codecs compression configparser csv
        difflib email encodings gettext gzip html imghdr json lzma mailbox mailcap mimetypes pickle
        pickletools plistlib pprint quopri re reprlib sndhdr sre_compile sre_constants sre_parse string
        stringprep struct sunau tarfile textwrap tomllib uu wave xdrlib xml zipfile
    """,
    "networking": """
        asynchat asyncore cgi ftplib hashlib hmac http imaplib ipaddress netrc nntplib nturl2path poplib
        secrets smtpd smtplib socket socketserver ssl telnetlib urllib uuid webbrowser wsgiref xmlrpc
    """,
    "concurrency and processes": """
        _dummy_thread _threading_local asyncio concurrent contextvars dummy_threading multiprocessing pipes
        pty queue sched selectors signal subprocess threading
    """,
    "graphical interfaces": "colorsys curses idlelib tkinter turtle turtledemo",
    "testing and debugging": """
        _py_warnings bdb cProfile cgitb cmd doctest faulthandler logging pdb profile profiling pstats test
        timeit trace traceback tracemalloc unittest warnings
    """,
    "language and imports": """
        __future__ _ast_unparse _bootlocale _collections_abc _opcode_metadata _py_abc _sitebuiltins
        _weakrefset abc annotationlib ast code codeop collections compileall contextlib copy copyreg
        dataclasses dis enum functools imp importlib inspect keyword lib2to3 modulefinder opcode operator
        pkgutil py_compile pyclbr pydoc pydoc_data rlcompleter runpy symtable tabnanny token tokenize types
        typing weakref zipimport
    """,
    "files and system": """
        _aix_support _android_support _apple_support _bootsubprocess _colorize _ios_support _osx_support
        _pyio _pyrepl argparse crypt ctypes dbm distutils ensurepip filecmp fileinput fnmatch genericpath
        getopt getpass glob io linecache locale ntpath optparse os pathlib platform posixpath shelve shlex
        shutil site sqlite3 stat sysconfig tempfile tty venv zipapp
    """,
    "numbers and dates": """
        _pydatetime _pydecimal _pylong _strptime bisect calendar datetime decimal fractions graphlib heapq
        numbers random statistics zoneinfo
    """,
}

_THEME_OF_MODULE = {module: theme for theme, modules in THEMES.items() for module in modules.split()}
_TOPICS = Path("pydoc_data", "topics.py")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Paragraph(NamedTuple):
    """A paragraph, where it comes from, and the split that its whole docstring is in."""

    split: str
    theme: str
    text: str


def docstrings(
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
    min_words: int = 5,
    max_words: int = 200,
    library: str | None = None,
) -> Task:
    """Parse the library and make the task.

    A docstring is in one split with all its paragraphs: a fixed hash of its text says in which. A text that
    several docstrings share is kept once, in the first of the splits train, validation and test in which it
    would be; one that belongs to several themes is dropped.

    Args:
        train_size, validation_size, test_size: Rows to take by a fixed hash; None takes all.
        min_words: Shorter paragraphs are dropped.
        max_words: Longer paragraphs are cut.
        library: Folder of the library's sources; None: those of the running Python.

    Raises:
        FileNotFoundError: If there are no sources.
        ValueError: If there are fewer than MIN_TEXTS texts, or MIN_TEXTS_PER_THEME of a theme.
    """
    if not 1 <= min_words <= max_words:
        raise ValueError(f"min_words must be in [1, max_words], got {min_words} and max_words {max_words}")
    root = _root(library)
    found: list[Paragraph] = []
    total = unmapped = 0
    with _collection_paused():
        for module, docstring in _docstrings_below(root):
            texts = list(paragraphs(docstring, min_words, max_words))
            total += len(texts)
            theme = _THEME_OF_MODULE.get(module)
            if theme is None:
                unmapped += len(texts)
                continue
            split = split_of(docstring)
            found.extend(Paragraph(split, theme, text) for text in texts)
    kept, ambiguous = keep_once(found)
    _check_enough(kept, root)
    recipe = (
        f"paragraphs of {min_words} words or more, cut at {max_words}, of {{}} of the docstrings of the "
        f"Python library and of the pydoc topics by a fixed hash of the docstring; of {total} paragraphs "
        f"dropped: {unmapped} of modules without a theme, {ambiguous} of several themes, and all repetitions"
    )
    shares = {"train": 1 - 2 * HELD_OUT, "validation": HELD_OUT, "test": HELD_OUT}
    return build_task(
        name="docstrings",
        tables={split: _table([p for p in kept if p.split == split]) for split in SPLITS},
        recipe={split: recipe.format(f"{share:.0%}") for split, share in shares.items()},
        sizes={"train": train_size, "validation": validation_size, "test": test_size},
        labels=tuple(THEMES),
    )


def source_version(library: str | None = None, **_: object) -> str:
    """Version of Python, and a digest of the names and sizes of the sources.

    Takes the parameters of :func:`docstrings`.
    """
    root = _root(library)
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
    return f"python {platform.python_version()} {digest.hexdigest()}"


def paragraphs(docstring: str, min_words: int, max_words: int) -> Iterator[str]:
    """The paragraphs of prose, each with its white space made single spaces.

    A paragraph ends where a doctest begins. Drawings, tables and code (fewer than three quarters letters and
    spaces) are dropped.
    """
    for block in re.split(r"\n\s*\n", docstring):
        prose = re.split(r"^\s*>>>", block, maxsplit=1, flags=re.MULTILINE)[0]
        words = prose.split()
        text = " ".join(words[:max_words])
        if len(_WORD.findall(text)) < min_words:
            continue
        if sum(character.isalpha() or character == " " for character in text) >= 0.75 * len(text):
            yield text


def split_of(docstring: str) -> str:
    """The split of all paragraphs of a docstring: a function of its words alone."""
    place = hash_fraction(" ".join(docstring.split()), "docstring")
    if place < HELD_OUT:
        return "test"
    return "validation" if place < 2 * HELD_OUT else "train"


def keep_once(found: Iterable[Paragraph]) -> tuple[list[Paragraph], int]:
    """Keep each text (letter case aside) once, and those of several themes not at all.

    Returns:
        The paragraphs kept, sorted by text, and how many texts were of several themes. The order of ``found``
        does not matter.
    """
    by_text: dict[str, list[Paragraph]] = defaultdict(list)
    for paragraph in found:
        by_text[paragraph.text.casefold()].append(paragraph)
    clear = [same for same in by_text.values() if len({p.theme for p in same}) == 1]
    kept = [min(same, key=lambda p: (SPLITS.index(p.split), p.text)) for same in clear]
    return sorted(kept, key=lambda p: p.text), len(by_text) - len(clear)


def docstrings_of(source: bytes) -> Iterator[str]:
    """The docstrings of the module, its classes and its functions; none where it is not Python of today."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in old sources
            module = ast.parse(source)
    except (SyntaxError, ValueError):  # tests of the parser, and sources in strange encodings
        return
    # Docstrings are where statements are: to leave out expressions saves most of the walk.
    blocks: list[ast.AST] = [module]
    while blocks:
        node = blocks.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring
        for field in ("body", "orelse", "finalbody", "handlers"):
            children = getattr(node, field, ())
            if isinstance(children, list):
                blocks.extend(children)


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Parse a third faster: syntax trees have no cycles, but many objects that would be searched for some."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _docstrings_below(root: Path) -> Iterator[tuple[str, str]]:
    """First part of the module's name, and docstring."""
    for path in _sources(root):
        relative = path.relative_to(root)
        module = relative.parts[0].removesuffix(".py")
        source = path.read_bytes()
        for docstring in docstrings_of(source):
            yield module, docstring
        if relative == _TOPICS:
            for topic in _topics(source):
                yield module, topic


def _topics(source: bytes) -> Iterator[str]:
    """The texts of the dict literal ``topics``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).values()


def _sources(root: Path) -> list[Path]:
    everything = sorted(root.rglob("*.py"))
    return [p for p in everything if not {"site-packages", "dist-packages"} & set(p.relative_to(root).parts)]


def _root(library: str | None) -> Path:
    root = Path(library).expanduser() if library is not None else Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root} with the sources of the standard library; name one by task.library, "
            "or bring your own texts with task=files"
        )
    return root


def _check_enough(kept: list[Paragraph], root: Path) -> None:
    counts = Counter(p.theme for p in kept)
    scarce = [f"{theme!r} ({counts[theme]})" for theme in THEMES if counts[theme] < MIN_TEXTS_PER_THEME]
    if len(kept) >= MIN_TEXTS and not scarce:
        return
    absent = sorted(
        name for name in ("idlelib", "pydoc_data", "test", "tkinter") if not (root / name).is_dir()
    )
    raise ValueError(
        f"{root} gives {len(kept)} texts (at least {MIN_TEXTS} are needed)"
        + (f", and fewer than {MIN_TEXTS_PER_THEME} for {', '.join(scarce)}" if scarce else "")
        + (f"; it has no {', '.join(absent)}" if absent else "")
        + ". The distribution seems to have split the standard library: install its other packages (Debian "
        "and Ubuntu: idle-python3, python3-tk, libpython3-testsuite), use a Python from python.org, uv or "
        "pyenv, name another library by task.library, or bring your own texts with task=files"
    )


def _table(rows: list[Paragraph]) -> pd.DataFrame:
    table = pd.DataFrame({"text": [p.text for p in rows], "label": [p.theme for p in rows]}, dtype=object)
    return table.set_axis(pd.RangeIndex(1, len(table) + 1), axis=0)
