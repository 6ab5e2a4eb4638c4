"""Load registered versions over one base model, after checking that their files are the registered ones."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from PIL import Image

from respect_core.acting.policy import Policy
from respect_core.errors import ExpectedError
from respect_core.log.lengths import Ruler
from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import Profile, of_version
from respect_core.scenario import Scenario, scenario
from respect_core.store.base import Store
from respect_core.store.images import load_images
from tasks.registry import registry
from tasks.support.files import write_whole
from tasks.support.workspace import Workspace


class VersionRejectedError(ExpectedError, ValueError):
    """A version that is not served: the message says why, and what to do."""


class EngineError(ExpectedError):
    """What writes replies is unreachable or not set up as it must be; the message says what to do."""


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """An immutable version, ready to act."""

    name: str  # 'respect.b-fft/3'
    adapter_hash: str
    base: str
    processor: Any
    scenario: Scenario


@dataclass(frozen=True, eq=False)
class LoadedVersion(ServedVersion):
    """A version with its weights in this process."""

    policy: Policy


Version = TypeVar("Version", bound=ServedVersion)


class LastGood:
    """The last version that acted for each variant, remembered across restarts. Its files stay in the cache."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.scratch / "serving"

    def keep(self, variant: str, served: ServedVersion) -> None:
        """Remember a version; a full disk is no reason to stop."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._file(variant), json.dumps({"version": served.name, "adapter_hash": served.adapter_hash}))

    def version(self, variant: str) -> ModelVersion | None:
        """Return the version, with what loading it needs from the registry; None if none is known to have acted."""
        try:
            record = json.loads(self._file(variant).read_bytes())
            name, _, number = record["version"].rpartition("/")
            return ModelVersion(name, number, 0, tags=[ModelVersionTag("adapter_hash", record["adapter_hash"])])
        except (OSError, ValueError, KeyError):
            return None

    def _file(self, variant: str) -> Path:
        return self._folder / f"{variant}.json"


class StoredImages(Mapping[str, Image.Image]):
    """Pictures from the store by id. `require` reads them; after that they are available without the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._images: dict[str, Image.Image] = {}

    def missing(self, images: Iterable[str]) -> list[str]:
        """Return the images that must be read first."""
        return [image for image in images if image not in self._images]

    def require(self, images: Iterable[str]) -> None:
        """Read images. Raises MissingKeyError for one that the store lacks, and StoreError as `load_images` does."""
        self._images |= load_images(self._store, self.missing(images))

    def __getitem__(self, image: str) -> Image.Image:
        return self._images[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


class Loader(ABC, Generic[Version]):
    """A loader of versions. A version in use is loaded once, for all variants that it serves."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._in_use: WeakValueDictionary[str, Version] = WeakValueDictionary()
        self._lock = Lock()

    def load(self, version: ModelVersion) -> Version:
        """Load a version, ready to act. Several threads may call this; they are served one at a time.

        Raises:
            VersionRejectedError: its files are not the registered ones, do not load, or are for another base model.
            EngineError: the engine cannot load it at the moment.
        """
        with self._lock:
            return self._load(version)

    def load_named(self, name: str) -> Version:
        """Load a version by a name such as 'respect.b-fft/3', which is not looked up if the version is in use."""
        return self._in_use.get(name) or self.load(registry.named(self._workspace, name))

    def _load(self, version: ModelVersion) -> Version:
        name, registered = f"{version.name}/{version.version}", str(version.tags["adapter_hash"])
        loaded = self._in_use.get(name)
        if loaded is not None and loaded.adapter_hash == registered:
            return loaded
        try:
            files = registry.adapter(self._workspace, version)
        except registry.AdapterMismatchError as error:
            raise VersionRejectedError(f"{name}: {error}; restore them in the registry, or roll back") from None
        try:
            profile = of_version(files)
            served = self._ready(name, registered, files, profile)
        except (VersionRejectedError, EngineError):
            raise
        except Exception as error:  # whatever peft, safetensors or torch raise on broken files
            raise VersionRejectedError(
                f"{name} does not load ({type(error).__name__}); register it again, or roll back"
            ) from error
        self._in_use[name] = served
        return served

    @abstractmethod
    def _ready(self, name: str, adapter_hash: str, files: Path, profile: Profile) -> Version:
        """Make a version whose files are good ready to act. Raises VersionRejectedError for another base model."""


class PolicyLoader(Loader[LoadedVersion]):
    """A loader of policies over one base model in this process.

    Args:
        temperature: sampling temperature.
        cache_bytes: keys and values of running games, for each version.
        most: games in one pass.
    """

    def __init__(
        self, workspace: Workspace, *, temperature: float = 1.0, cache_bytes: int = 1 << 30, most: int = 64
    ) -> None:
        super().__init__(workspace)
        self._temperature, self._cache_bytes, self._most = temperature, cache_bytes, most
        self.images = StoredImages(workspace.open())
        self.ruler: Ruler | None = None  # in tokens of the base model, once it is loaded
        self._base: tuple[Base, VisionFeatures] | None = None

    def _ready(self, name: str, adapter_hash: str, files: Path, profile: Profile) -> LoadedVersion:
        base, features = self._base_of(profile, name)
        policy = Policy(
            base,
            files,
            features,
            temperature=self._temperature,
            batch_size=self._most,
            cache_bytes=self._cache_bytes,
        )
        return LoadedVersion(name, adapter_hash, base.name, base.processor, base.scenario, policy)

    def _base_of(self, profile: Profile, name: str) -> tuple[Base, VisionFeatures]:
        """Return the server's base model, which is that of the first version."""
        if self._base is None:
            base = load_base(profile.base, scenario(profile.scenario), image_size=profile.image_size)
            vision = self._workspace.scratch / "vision"
            self._base = base, VisionFeatures(base, self.images, cache_dir=vision)
            self.ruler = Ruler(base.processor, base.scenario)
        elif self._base[0].name != profile.base:
            raise VersionRejectedError(
                f"{name} is over {profile.base}, and this server has loaded {self._base[0].name}: serve it by another"
            )
        return self._base
