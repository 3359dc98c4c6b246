"""What `waypost check` runs: all problems of manifests, without starting anything."""

from collections.abc import Iterable
from pathlib import Path

from .compiler import Settings, compile_manifests
from .manifests import Problem, load


def check(paths: Iterable[Path], *, pools: tuple[str, ...] = ()) -> list[Problem]:
    """The problems of files and folders: those of reading, then those between objects. [] = all is well.

    A credential Secret that the operator would make is no problem. `pools`: those that exist; () = not checked.
    """
    manifests, problems = load(paths)
    compiled = compile_manifests(manifests, settings=Settings(pools=pools), hash_password=lambda _user, _password: "")
    return problems + compiled.problems
