"""Read rows of the released dataset's configurations, from Parquet files or from the hub, and check their types.

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
    """An unreadable dataset. The message names file, column and remedy."""


class Record(NamedTuple):
    """A row and its position."""

    file: str
    number: int  # from 1
    row: dict[str, Any]

    @property
    def name(self) -> str:
        """The row's name in messages."""
        return f"row {self.number}"


@dataclass(frozen=True)
class ReleasedFiles:
    """A folder with the dataset's Parquet files."""

    root: Path
    paths: Mapping[str, Sequence[Path]] = field(repr=False)

    def has(self, configuration: str) -> bool:
        """Return whether a configuration has files."""
        return bool(self.paths[configuration])

    def check(self, configuration: str) -> None:
        """Raise ReleasedError for a file that is not Parquet, or whose columns are not the configuration's."""
        for path in self.paths[configuration]:
            try:
                schema = pq.read_schema(path)
            except (pa.ArrowException, OSError) as error:
                raise ReleasedError(f"{path}: {error}; download it again") from error
            check_columns(str(path.relative_to(self.root)), configuration, schema)

    def records(self, configuration: str, columns: Sequence[str]) -> Iterator[Record]:
        """Yield the rows of all files of a configuration, with these columns.

        Raises ReleasedError at a damaged file.
        """
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
    """The dataset on the hub, read through `datasets`."""

    name: str
    configurations: Sequence[str]

    def has(self, configuration: str) -> bool:
        """Return whether the dataset has a configuration."""
        return configuration in self.configurations

    def check(self, configuration: str) -> None:
        """Raise ReleasedError if it cannot be loaded, or its columns are not the configuration's."""
        check_columns(f"{self.name}:{configuration}", configuration, self._load(configuration).features.arrow_schema)

    def records(self, configuration: str, columns: Sequence[str]) -> Iterator[Record]:
        """Yield the rows of a configuration's split `train`, with these columns.

        Raises ReleasedError if it cannot be loaded.
        """
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
            raise ReleasedError(_load_failure(self.name, error)) from error


def find(source: str) -> ReleasedFiles | HubDataset:
    """Find the dataset in a folder, or by its name on the hub (owner/name), and check its columns.

    Raises:
        ReleasedError: neither a folder nor a name; no files of `interaction` or `turn`; a column that is absent or of
            another type; or `datasets` or the network is missing.
    """
    root = Path(source)
    dataset: ReleasedFiles | HubDataset
    if root.is_dir():
        everything = sorted(root.rglob("*.parquet"))
        dataset = ReleasedFiles(root, {name: [p for p in everything if _is_of(p, root, name)] for name in SCHEMAS})
    elif _HUB_ID.fullmatch(source) and not root.exists():
        try:
            dataset = HubDataset(source, _datasets().get_dataset_config_names(source))
        except ReleasedError:
            raise
        except Exception as error:  # the library's and the network's, of many kinds
            raise ReleasedError(_load_failure(source, error)) from error
    else:
        raise ReleasedError(
            f"{source}: no such folder; give the folder of the dataset's Parquet files, or its name on the hub"
        )
    for configuration in REQUIRED:
        if not dataset.has(configuration):
            raise ReleasedError(
                f"{source}: no files of the configuration {configuration!r}; expected e.g. "
                f"{configuration}/train-00000-of-00001.parquet"
            )
    for configuration in SCHEMAS:
        if dataset.has(configuration):
            dataset.check(configuration)
    return dataset


def check_columns(where: str, configuration: str, schema: pa.Schema) -> None:
    """Raise ReleasedError unless a configuration has every column, with a type that fits; it may have more."""
    for column in SCHEMAS[configuration]:
        if column.name not in schema.names:
            raise ReleasedError(
                f"{where}: column {column.name!r} of {configuration!r} is absent; it has {', '.join(schema.names)}; "
                "download the file again, or restore the column"
            )
        kind = schema.field(column.name).type
        if not _fits(kind, column.type, column.name):
            raise ReleasedError(
                f"{where}: column {column.name!r} of {configuration!r} holds {kind}; expected {column.type}; "
                "download the file again, or convert the column"
            )


def _fits(kind: pa.DataType, expected: pa.DataType, name: str) -> bool:
    if kinds.is_null(kind):
        return True
    if kinds.is_dictionary(kind):
        return _fits(kind.value_type, expected, name)
    if kinds.is_list(expected):
        return (kinds.is_list(kind) or kinds.is_large_list(kind)) and _fits(kind.value_type, expected.value_type, name)
    if kinds.is_string(expected):
        text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
        return text or (name == "date" and (kinds.is_date(kind) or kinds.is_timestamp(kind)))
    if kinds.is_floating(expected):
        return kinds.is_floating(kind) or kinds.is_integer(kind)
    return kinds.is_integer(kind) or kinds.is_boolean(kind)


def _cast(where: str, configuration: str, table: pa.Table) -> pa.Table:
    schema = pa.schema([SCHEMAS[configuration].field(name) for name in table.column_names])
    try:
        return table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ReleasedError(f"{where}: a value of {configuration!r} does not fit its type: {error}") from error


def _is_of(path: Path, root: Path, configuration: str) -> bool:
    """Return whether a file is of a configuration: by the nearest folder named after one, else by its own name."""
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
            'pip install "respect[hub]", or give a folder of Parquet files'
        ) from None
    return datasets


def _load_failure(name: str, error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return (
        f"{name}: the hub did not give it ({type(error).__name__}: {first}); "
        "check the name and the network, or give a folder of Parquet files"
    )
