"""Checkpoints by the name they have on Hugging Face's hub, found in the cache that its own tools fill. Nothing is downloaded.

The cache's layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. A model's folder has `refs/NAME`, files that
hold a commit, and `snapshots/COMMIT/`, whose files are links to where the content is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import CheckpointError
from ..core.files import read_plain
from .layout import INDEX_NAME, PICKLE_SUFFIXES

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
# pathlib makes one slash of two.
_ADDRESS = re.compile(r"(?:(?:https?:/+)?(?:www\.)?(?:huggingface\.co|hf\.co)/+|hf:/+)(?:models/)?")
_NAME = re.compile(rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>[^@\s]{{1,200}})|/tree/(?P<tree>[^@\s]{{1,200}}))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST_LIST = 2**24
_LARGEST_REF = 200


@dataclass(frozen=True)
class HubName:
    """A model's name on the hub. revision: a branch, tag or commit; "main" is the newest. is_address: written as a link."""

    name: str
    revision: str = "main"
    is_address: bool = False

    @staticmethod
    def of(given: Path) -> HubName | None:
        """Return what is meant by NAME/NAME, with @REVISION where it is not the newest, or by a link; None for others."""
        text = given.as_posix()
        address = _ADDRESS.match(text)
        match = _NAME.fullmatch(text[address.end() :] if address else text)
        if match is None or "--" in match["name"] or ".." in match["name"]:
            return None
        return HubName(match["name"], match["revision"] or match["tree"] or "main", address is not None)

    @staticmethod
    def of_folder(folder: Path) -> HubName:
        """Return the name of a model whose folder in the cache is given, instead of a snapshot in it."""
        return HubName(folder.absolute().name.removeprefix("models--").replace("--", "/"))

    @property
    def download(self) -> str:
        """The command that brings the model into the cache."""
        revision = "" if self.revision == "main" else f" --revision {shlex.quote(self.revision)}"
        return f"hf download {self.name}{revision}"


def hub_cache() -> Path:
    """Return the folder that huggingface_hub keeps models in, by its own environment variables."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(variable):
            return _expanded(chosen)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def find_checkpoint(given: Path) -> Path:
    """Return the folder of a checkpoint: the path that is given, or where it is none, the cache's of that name on the hub.

    A model's folder in the cache stands for the newest of what it holds.

    What is not there, and is no name either, is returned as it is. Raises CheckpointError where the cache does not hold the
    model, or not all of it, with the command that brings it.
    """
    if (given / "snapshots").is_dir() and not (given / INDEX_NAME).exists():
        return _checked(given.absolute(), HubName.of_folder(given), f"{given}: ")
    if os.path.lexists(given) or (name := HubName.of(given)) is None:
        return given
    here = "" if name.is_address else f"{given}: no such folder. "
    return _checked(hub_cache() / f"models--{name.name.replace('/', '--')}", name, here)


def _checked(folder: Path, name: HubName, here: str) -> Path:
    """Return the snapshot in a model's folder of the cache. here: how an error begins. Raises CheckpointError."""
    snapshot = _snapshot(folder, name)
    if snapshot is None:
        raise CheckpointError(
            f"{here}{name.name} is not in Hugging Face's cache ({folder.parent}){_others(folder, name)}; edgereel downloads "
            f"nothing itself: if that is a model of the hub, bring it with: {name.download}"
        )
    if missing := _missing(snapshot):
        raise CheckpointError(
            f"{snapshot}: {missing} is missing, the download did not finish: run it again: {name.download}"
        )
    return snapshot


def origin_of(snapshot: Path) -> str | None:
    """Return where a folder comes from, as people can look it up, where it is a snapshot in a cache of the hub's."""
    folder = snapshot.parent.parent
    parts = folder.name.split("--")
    if snapshot.parent.name != "snapshots" or parts[0] != "models" or len(parts) != 3:
        return None
    return f"https://huggingface.co/{parts[1]}/{parts[2]}/tree/{snapshot.name}"


def _expanded(folder: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(folder)))


def _snapshot(folder: Path, name: HubName) -> Path | None:
    """Return a revision's folder, None where the cache has none."""
    revision = name.revision
    if ".." in revision.split("/") or revision.startswith("/"):
        return None
    with contextlib.suppress(OSError, ValueError):  # no branch or tag: a commit, perhaps
        revision = read_plain(folder / "refs" / revision, _LARGEST_REF).decode().strip()
    commits = _commits(folder)
    if revision not in commits and len(name.revision) >= 7:
        revision = next((commit for commit in commits if commit.startswith(name.revision)), "")
    return folder / "snapshots" / revision if revision in commits else None


def _commits(folder: Path) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(folder / "snapshots") if _COMMIT.fullmatch(entry))
    except OSError:
        return []


def _others(folder: Path, name: HubName) -> str:
    """Return what the cache has of the model otherwise, in words."""
    commits = _commits(folder)
    return f" at {name.revision}, only at {', '.join(commits[:5])} ({name.name}@{commits[0][:12]})" if commits else ""


def _missing(snapshot: Path) -> str | None:
    """Return what a snapshot lacks that it says it has, None for nothing: what was not downloaded, or was since deleted."""
    for root, _, files in os.walk(snapshot):
        for file in sorted(files):
            path = Path(root, file)
            if not path.exists():
                return str(path.relative_to(snapshot))
            if file.endswith(".safetensors.index.json"):
                for shard in sorted(set(_values(_object(path).get("weight_map")))):
                    if not (path.parent / shard).is_file():
                        return str((path.parent / shard).relative_to(snapshot))
    for component, kind in _object(snapshot / INDEX_NAME).items():
        is_one = isinstance(kind, list) and len(kind) == 2 and all(isinstance(part, str) for part in kind)
        if is_one and not (snapshot / component).is_dir():
            return f"{component}/"
        if is_one and (snapshot / component / "config.json").is_file() and not _has_weights(snapshot / component):
            return f"{component}/*.safetensors"
    return None


def _has_weights(folder: Path) -> bool:
    """Tell whether a component's folder has weights of any kind: those that are not read are refused for what they are."""
    return any(name.endswith((".safetensors", *PICKLE_SUFFIXES)) for name in os.listdir(folder))


def _object(path: Path) -> dict[str, object]:
    """Return a file's JSON object, an empty one where there is none: what is wrong with it is told when it is used."""
    try:
        found = json.loads(read_plain(path, _LARGEST_LIST, follow_links=True))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(mapping: object) -> list[str]:
    """Return the plain file names that a mapping leads to."""
    values = mapping.values() if isinstance(mapping, dict) else ()
    return [value for value in values if isinstance(value, str) and re.fullmatch(r"[\w.\-]{1,200}", value)]
