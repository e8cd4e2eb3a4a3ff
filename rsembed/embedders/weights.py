"""Where a model's checkpoint is: found on this machine, or fetched; with its checksum. Needs no torch.

Looked for in this order: the user's folder (``RSEMBED_WEIGHTS_DIR``), the model hub's own
cache, our download cache, and last the network (never with ``RSEMBED_OFFLINE``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rsembed.core.card import ModelCard, WeightsFile
from rsembed.core.errors import WeightsError, WeightsUnreachableError
from rsembed.core.settings import Settings
from rsembed.embedders.checksums import checksum
from rsembed.embedders.downloads import fetch_once

logger = logging.getLogger(__name__)
Origin = Literal["folder", "hub_cache", "hub", "url_cache", "url"]


@dataclass(frozen=True)
class WeightsPin:
    """One entry of ``weights.lock``: exactly which file a run uses. ``revision``: a commit, if known."""

    repo: str | None
    file: str
    revision: str | None
    sha256: str

    def to_json(self) -> dict[str, str | None]:
        """Plain JSON of this pin."""
        return {"repo": self.repo, "file": self.file, "revision": self.revision, "sha256": self.sha256}

    @classmethod
    def from_json(cls, data: Mapping[str, str | None]) -> WeightsPin:
        """The pin that :meth:`to_json` wrote; raises WeightsError when fields are missing."""
        file, sha256 = data.get("file"), data.get("sha256")
        if not file or not sha256:
            raise WeightsError(f"an entry of weights.lock needs 'file' and 'sha256', got {dict(data)}")
        return cls(data.get("repo"), file, data.get("revision"), sha256)


WeightsLock = Mapping[str, WeightsPin]
"""Model label -> pin."""


@dataclass(frozen=True)
class WeightsHandle:
    """A checkpoint on this machine. ``origin``: where it was found or fetched."""

    path: Path
    sha256: str
    repo: str | None
    file: str
    revision: str | None
    origin: Origin

    @property
    def pin(self) -> WeightsPin:
        """What ``weights.lock`` keeps of it."""
        return WeightsPin(self.repo, self.file, self.revision, self.sha256)

    def to_json(self) -> dict[str, str | None]:
        """The pin as plain JSON: the same on every machine, so without path and origin."""
        return self.pin.to_json()


def resolve_weights(
    card: ModelCard, variant: str, settings: Settings, *, pin: WeightsPin | None = None, file: WeightsFile | None = None
) -> WeightsHandle | None:
    """The checkpoint of ``card``'s ``variant``, fetched if need be; None for a model without weights.

    ``file`` replaces the card's entry. ``pin`` (from ``weights.lock``) decides the revision, and
    its checksum must match. Raises WeightsError when the file is nowhere or is another one.
    """
    spec = file or card.weights.get(variant)
    if spec is None:
        if not card.weights:
            return None
        raise WeightsError(f"{card.id} has no weights for variant {variant!r}; known: {', '.join(card.weights)}")
    if pin is not None:
        spec = replace(spec, repo=pin.repo or spec.repo, file=pin.file, revision=pin.revision or spec.revision)
    handle = _find(card.id, spec, settings)
    if handle is None:
        if settings.offline:
            raise WeightsError(_missing(card.id, spec, settings, "RSEMBED_OFFLINE is set, so nothing was fetched"))
        handle = _fetch(card.id, spec, settings)
    if pin is not None and handle.sha256 != pin.sha256:
        raise WeightsError(
            f"{handle.path} is not the file of this run's weights.lock: sha256 {handle.sha256}, locked {pin.sha256}; "
            f"put the locked file there, or submit the run again to lock this one"
        )
    return handle if pin is None else replace(handle, revision=pin.revision)


def pull(card: ModelCard, variant: str, settings: Settings) -> WeightsHandle | None:
    """Make sure the checkpoint is on this machine; None for a model without weights.

    Any number of processes may ask at once: one fetches, the others wait for it.
    """
    return resolve_weights(card, variant, settings)


def _find(model: str, spec: WeightsFile, settings: Settings) -> WeightsHandle | None:
    """The file if it is already on this machine."""
    for file, path in _local_paths(model, spec, settings):
        if path.is_file():
            # Whatever the user put there: the revision is not known, the checksum is.
            return WeightsHandle(path, checksum(path, settings), spec.repo, file, None, "folder")
    if spec.url is None:
        found = None if spec.repo is None or _is_folder(spec.repo) else _hub_cached(spec)
        return None if found is None else _hub_handle(found, spec, settings, "hub_cache")
    path = _url_path(model, spec, settings)
    if path.is_file():
        return _checked_url_file(path, spec, settings, "url_cache")
    return None


def _local_paths(model: str, spec: WeightsFile, settings: Settings) -> list[tuple[str, Path]]:
    """Where a user may have put the file, by its names: a repo given as a folder, else the weights folder."""
    if spec.repo is not None and _is_folder(spec.repo):
        folder = Path(spec.repo).expanduser()
    elif settings.weights_dir is not None:
        folder = settings.weights_dir / (spec.repo if spec.url is None and spec.repo is not None else model)
    else:
        return []
    return [(file, folder / file) for file in (spec.file, *spec.other_files)]


def _is_folder(repo: str) -> bool:
    return repo.startswith(("/", "./", "../", "~"))


def _missing(model: str, spec: WeightsFile, settings: Settings, reason: str) -> str:
    looked = [str(path) for _, path in _local_paths(model, spec, settings)]
    if settings.weights_dir is None:
        looked.append("no weights folder (RSEMBED_WEIGHTS_DIR is not set)")
    folder = f"a folder that holds {spec.repo if spec.url is None and spec.repo else model}/{spec.file}"
    if spec.url is None and spec.repo is None:
        return (
            f"the weights file {spec.file} of {model} is missing, and it is not published: looked in "
            f"{'; '.join(looked)}. Set RSEMBED_WEIGHTS_DIR to {folder}"
        )
    looked.append(str(_url_path(model, spec, settings)) if spec.url else "the hub's cache")
    source = spec.url or f"{spec.repo} on the model hub"
    return (
        f"the weights file {spec.file} of {model} is missing: {reason}; looked in {'; '.join(looked)}. "
        f"Source: {source}. Run `rsembed weights pull {model}` where there is a network, or set RSEMBED_WEIGHTS_DIR "
        f"to {folder}"
    )


def _fetch(model: str, spec: WeightsFile, settings: Settings) -> WeightsHandle:
    if spec.url is not None:
        return _download(model, spec, settings)
    if spec.repo is None or _is_folder(spec.repo):
        raise WeightsError(_missing(model, spec, settings, "it has no address to fetch it from"))
    return _hub_handle(_hub_download(model, spec, settings), spec, settings, "hub")


# The model hub ------------------------------------------------------------------------------


def _hub_cached(spec: WeightsFile) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    assert spec.repo is not None
    try:
        found = try_to_load_from_cache(spec.repo, spec.file, revision=spec.revision)
    except ValueError as exc:  # the hub's word for a malformed repository name
        raise WeightsError(f"{spec.repo!r} is no repository of the model hub: {exc}") from exc
    return Path(found) if isinstance(found, str) else None


def _hub_download(model: str, spec: WeightsFile, settings: Settings) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as exc:
        raise WeightsError(
            _missing(model, spec, settings, "huggingface_hub is not installed (pip install 'rsembed[torch]')")
        ) from exc
    # The hub's HTTP library has changed its name between releases; its base error has stayed
    # the first base of the hub's own.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    assert spec.repo is not None
    try:
        return Path(hf_hub_download(spec.repo, spec.file, revision=spec.revision))
    except LocalEntryNotFoundError as exc:
        raise WeightsUnreachableError(_missing(model, spec, settings, "the model hub did not answer")) from exc
    except (HfHubHTTPError, EntryNotFoundError, ValueError) as exc:
        raise WeightsError(_missing(model, spec, settings, f"the model hub says: {exc}")) from exc
    except (OSError, transport_error) as exc:
        raise WeightsUnreachableError(_missing(model, spec, settings, f"the download broke off: {exc}")) from exc


def _hub_handle(path: Path, spec: WeightsFile, settings: Settings, origin: Origin) -> WeightsHandle:
    # The hub's cache keeps files under snapshots/<commit>/.
    parts = path.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts else spec.revision
    return WeightsHandle(path, checksum(path, settings), spec.repo, spec.file, commit, origin)


# Plain URLs ---------------------------------------------------------------------------------


def _url_path(model: str, spec: WeightsFile, settings: Settings) -> Path:
    return settings.cache_dir / "weights" / model / spec.file


def _checked_url_file(path: Path, spec: WeightsFile, settings: Settings, origin: Origin) -> WeightsHandle:
    digest = checksum(path, settings)
    if spec.sha256 is not None and digest != spec.sha256:
        raise WeightsError(
            f"{path} is not the published file: sha256 {digest}, expected {spec.sha256}; delete it and pull again"
        )
    return WeightsHandle(path, digest, spec.repo, spec.file, spec.revision, origin)


def _download(model: str, spec: WeightsFile, settings: Settings) -> WeightsHandle:
    assert spec.url is not None
    target = _url_path(model, spec, settings)
    fetched = fetch_once(
        spec.url, target, sha256=spec.sha256, explain=lambda reason: _missing(model, spec, settings, reason)
    )
    if fetched:
        logger.info("weights_downloaded", extra={"model": model, "file": spec.file, "url": spec.url})
    return _checked_url_file(target, spec, settings, "url")
