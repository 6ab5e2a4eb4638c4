"""Rows of the released dataset's configurations, from a folder of Parquet files or from the hub, types checked.

A folder is laid out as `datasets` does (``turn/train-00000-of-00001.parquet``) or flat (``turn.parquet``,
``turn-00000-of-00002.parquet``), at any depth and in any number of files. Memory holds a batch of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from respect_core.errors import ExpectedError
from respect_core.scenarios.multiref.importers.released_schema import SCHEMAS

REQUIRED = ("interaction", "turn")
BATCH = 1024  # rows
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ReleasedError(ExpectedError, ValueError):
    """The dataset cannot be read. The message names file, column and remedy."""


class Record(NamedTuple):
    """A row, and where it stands."""

    file: str
    number: int  # from 1
    row: dict[str, Any]

    @property
    def name(self) -> str:
        """For messages."""
        return f"row {self.number}"


@dataclass(frozen=True)
class ReleasedFiles:
    """A folder of the dataset's Parquet files."""

    root: Path
    paths: Mapping[str, Sequence[Path]] = field(repr=False)

    def has(self, configuration: str) -> bool:
        """Whether there are files of a configuration."""
        return bool(self.paths[configuration])

    def check(self, configuration: str) -> None:
        """Raise ReleasedError for a file that is no Parquet, or whose columns are not those of the configuration."""
        for path in self.paths[configuration]:
            try:
                schema = pq.read_schema(path)
            except (pa.ArrowException, OSError) as error:
                raise ReleasedError(f"{path}: {error}; download it again") from error
            check_columns(str(path.relative_to(self.root)), configuration, schema)

    def records(self, configuration: str, columns: Sequence[str]) -> Iterator[Record]:
        """The rows of all files of a configuration, these columns. Raises ReleasedError at a damaged file."""
        for path in self.paths[configuration]:
            name, number = str(path.relative_to(self.root)), 0
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(BATCH, columns=list(columns)):
                        for row in _cast(name, configuration, pa.Table.from_batches([batch])).to_pylist():
                            number += 1
                            yield Record(name, number, row)
            except (pa.ArrowException, OSError) as error:
                raise ReleasedError(f"{path}: {error}; download it again") from error


@dataclass(frozen=True)
class HubDataset:
    """The dataset on the hub, through `datasets`."""

    name: str
    configurations: Sequence[str]

    def has(self, configuration: str) -> bool:
        """Whether the dataset has a configuration."""
        return configuration in self.configurations

    def check(self, configuration: str) -> None:
        """Raise ReleasedError where it cannot be loaded, or its columns are not those of the configuration."""
        check_columns(f"{self.name}:{configuration}", configuration, self._load(configuration).features.arrow_schema)

    def records(self, configuration: str, columns: Sequence[str]) -> Iterator[Record]:
        """The rows of a configuration's split `train`, these columns. Raises ReleasedError where it is not loaded."""
        where, number = f"{self.name}:{configuration}", 0
        rows = self._load(configuration).select_columns(list(columns)).with_format("arrow")
        for table in rows.iter(batch_size=BATCH):
            for row in _cast(where, configuration, table).to_pylist():
                number += 1
                yield Record(where, number, row)

    def _load(self, configuration: str) -> Any:
        try:
            return _datasets().load_dataset(self.name, name=configuration, split="train")
        except ReleasedError:
            raise
        except Exception as error:  # the library's and the network's, of many kinds
            raise ReleasedError(_not_loaded(self.name, error)) from error


def find(source: str) -> ReleasedFiles | HubDataset:
    """The dataset in a folder, or by its name on the hub (owner/name), its columns checked.

    Raises:
        ReleasedError: neither a folder nor a name; no files of `interaction` or `turn`; a column that is absent or of
            another type; or `datasets` or the network is wanting.
    """
    root = Path(source)
    found: ReleasedFiles | HubDataset
    if root.is_dir():
        everything = sorted(root.rglob("*.parquet"))
        found = ReleasedFiles(root, {name: [p for p in everything if _is_of(p, root, name)] for name in SCHEMAS})
    elif _HUB_ID.fullmatch(source) and not root.exists():
        try:
            found = HubDataset(source, _datasets().get_dataset_config_names(source))
        except ReleasedError:
            raise
        except Exception as error:  # the library's and the network's, of many kinds
            raise ReleasedError(_not_loaded(source, error)) from error
    else:
        raise ReleasedError(
            f"{source}: no such folder; give the folder of the dataset's Parquet files, or its name on the hub"
        )
    for configuration in REQUIRED:
        if not found.has(configuration):
            raise ReleasedError(
                f"{source}: no files of the configuration {configuration!r}; expected e.g. "
                f"{configuration}/train-00000-of-00001.parquet"
            )
    for configuration in SCHEMAS:
        if found.has(configuration):
            found.check(configuration)
    return found


def check_columns(where: str, configuration: str, found: pa.Schema) -> None:
    """Raise ReleasedError unless every column of a configuration is there, with a type that fits; more may be."""
    for wanted in SCHEMAS[configuration]:
        if wanted.name not in found.names:
            raise ReleasedError(
                f"{where}: column {wanted.name!r} of {configuration!r} is absent; it has {', '.join(found.names)}; "
                "download the file again, or restore the column"
            )
        kind = found.field(wanted.name).type
        if not _fits(kind, wanted.type, wanted.name):
            raise ReleasedError(
                f"{where}: column {wanted.name!r} of {configuration!r} holds {kind}; expected {wanted.type}; "
                "download the file again, or convert the column"
            )


def _fits(found: pa.DataType, wanted: pa.DataType, name: str) -> bool:
    if kinds.is_null(found):
        return True
    if kinds.is_dictionary(found):
        return _fits(found.value_type, wanted, name)
    if kinds.is_list(wanted):
        return (kinds.is_list(found) or kinds.is_large_list(found)) and _fits(found.value_type, wanted.value_type, name)
    if kinds.is_string(wanted):
        text = kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_string_view(found)
        return text or (name == "date" and (kinds.is_date(found) or kinds.is_timestamp(found)))
    if kinds.is_floating(wanted):
        return kinds.is_floating(found) or kinds.is_integer(found)
    return kinds.is_integer(found) or kinds.is_boolean(found)


def _cast(where: str, configuration: str, table: pa.Table) -> pa.Table:
    wanted = pa.schema([SCHEMAS[configuration].field(name) for name in table.column_names])
    try:
        return table.cast(wanted)
    except (pa.ArrowException, ValueError) as error:
        raise ReleasedError(f"{where}: a value of {configuration!r} does not fit its type: {error}") from error


def _is_of(path: Path, root: Path, configuration: str) -> bool:
    """Whether a file is of a configuration: by the nearest folder named after one, else by its own name."""
    folders = [part for part in path.relative_to(root).parts[:-1] if part in SCHEMAS]
    if folders:
        return folders[-1] == configuration
    return path.stem == configuration or path.stem.startswith(f"{configuration}-")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ReleasedError(
            "the hub is read through the package datasets, which is not installed; "
            "pip install -c constraints.txt datasets, or give a folder of Parquet files"
        ) from None
    return datasets


def _not_loaded(name: str, error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return (
        f"{name}: the hub did not give it ({type(error).__name__}: {first}); "
        "check the name and the network, or give a folder of Parquet files"
    )
