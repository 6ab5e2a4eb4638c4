"""Export from S3 to Parquet: against DuckDB on the same objects, and memory as the log grows.

The server is SeaweedFS on the loopback. Our side checks every record, computes the selection before each turn,
looks up ids and images, and writes turns and outcomes with their manifests. DuckDB unnests the turns, adds the
follow-up and writes them; it checks nothing. Both read and write in the bucket.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import duckdb
import duckdb_extension_httpfs
import torch
from PIL import Image

from respect_core.log.export import export
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.store.base import Store
from respect_core.store.images import put_images
from respect_core.store.open import open_store
from respect_core.store.tables import read_table
from tests.bench.record import Record, case, compare, versions
from tests.seaweedfs import S3Server, s3_server

ROUND, VARIANT = 5, "b-fft"
FOLDER = f"interactions/round={ROUND}/variant={VARIANT}/"
TURNS = 6  # of a game
GAMES = 1_000  # of an object
SHARED = ("interaction_id", "turn", "utterance", "action", "probability", "follow_up")  # what both sides write
ROWS = 60_000
SIZES = (10_000, 100_000, 1_000_000)  # turns, for memory

_TURNS = f"""
COPY (
    SELECT interaction_id, {ROUND} AS round, '{VARIANT}' AS variant, i - 1 AS turn, scenario, "user", context,
        turns[i].utterance AS utterance, turns[i].action AS action, turns[i].probability AS probability,
        turns[i + 1].utterance AS follow_up, policy.name AS policy_name, policy.version AS policy_version,
        policy.adapter_hash AS adapter_hash
    FROM (
        SELECT *, unnest(range(1, len(turns) + 1)) AS i
        FROM read_json('s3://{{bucket}}/{{prefix}}/{FOLDER}*.jsonl', format = 'newline_delimited')
    )
) TO 's3://{{bucket}}/{{prefix}}/peer.parquet' (FORMAT parquet, COMPRESSION zstd)
"""

# VmHWM is of this process alone; ru_maxrss would carry over the peak of the process that started it.
_MEASURE = r"""
import re, sys
from pathlib import Path
from respect_core.log.export import export
from respect_core.store.open import open_store

report = export(open_store(sys.argv[1]), int(sys.argv[2]))
print(report.turns, re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def fill(store: Store, turns: int) -> None:
    """Put a log of so many turns into a store, a thousand games an object, with the images it names."""
    images = [f"image-{letter}" for letter in LETTERS]
    put_images(store, {name: Image.new("RGB", (4, 4)) for name in images})
    game = InteractionLog(
        interaction_id="@@",
        round=ROUND,
        variant=VARIANT,
        policy=PolicyIdentity(name=f"respect.{VARIANT}", version="3", adapter_hash="0" * 64),
        user="0123456789abcdef",
        started_at="2026-01-02T03:04:05",
        context=images,
        turns=[
            LoggedTurn(utterance=f"no, the one of game @@ with {n} corners", action=f"select {letter}", probability=0.5)
            for n, letter in enumerate(LETTERS[:TURNS])
        ],
        outcome=Outcome(targets=images[:TURNS], success=True),
    )
    template = game.model_dump_json().encode() + b"\n"
    for first in range(0, turns // TURNS, GAMES):
        ids = (f"game-{number}".encode() for number in range(first, min(first + GAMES, turns // TURNS)))
        store.put(f"{FOLDER}{first:07}.jsonl", b"".join(template.replace(b"@@", each) for each in ids))


def again(store: Store) -> None:
    """Export everything, as if never exported before."""
    for table in ("turns", "outcomes"):
        for key in store.keys(f"{table}/"):
            store.delete(key)
    export(store, ROUND)


def connect(server: S3Server) -> duckdb.DuckDBPyConnection:
    """DuckDB that speaks to the bucket, with as many threads as torch has."""
    threads = {"threads": str(torch.get_num_threads())}
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"} | threads)
    folder = Path(duckdb_extension_httpfs.__file__).parent
    connection.load_extension(str(next(folder.rglob("httpfs.duckdb_extension"))))
    endpoint, key = urlsplit(server.endpoint).netloc, server.environment
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{key['AWS_ACCESS_KEY_ID']}', SECRET '{key['AWS_SECRET_ACCESS_KEY']}', "
        f"ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false, REGION '{key['AWS_DEFAULT_REGION']}')"
    )
    return connection


@case("export")
def export_rows(quick: bool) -> Iterator[Record]:
    """The bar is 0.5."""
    turns = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as server:
        store, connection = open_store(f"s3://{server.bucket}/rows"), connect(server)
        fill(store, turns)
        peer = partial(connection.execute, _TURNS.format(bucket=server.bucket, prefix="rows"))
        again(store)
        peer()
        yield compare(
            "export",
            f"{turns // 1000}k turns",
            None,
            ours=partial(again, store),
            peer=peer,
            work=turns,
            unit="turns/s",
            peer_name="DuckDB, read_json to Parquet",
            bar=0.5,
            equality=_same_rows(store, connection, server),
            repeats=2 if quick else 5,
            warm_up=False,
            packages=("duckdb", "pyarrow"),
        )


@case("export-memory")
def export_memory(quick: bool) -> Iterator[Record]:
    """Peak memory of a process that exports, for growing logs: what the largest needs over the smallest's."""
    sizes = SIZES[:2] if quick else SIZES
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as server:
        peaks = {}
        for turns in sizes:
            uri = f"s3://{server.bucket}/{turns}"
            fill(open_store(uri), turns)
            command = [sys.executable, "-c", _MEASURE, uri, str(ROUND)]
            done, peak = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
            assert done == turns // TURNS * TURNS, f"{done} turns of {turns}"
            peaks[turns] = peak / 1024
        least, most = peaks[sizes[0]], peaks[sizes[-1]]
        yield Record(
            case="export-memory",
            size=f"{sizes[-1] // 1000}k turns",
            turns_per_game=None,
            ours=most,
            peer=least,
            peer_name=f"the same for {sizes[0] // 1000}k turns",
            unit="MiB at the peak",
            ratio=least / most,
            bar=0.8,
            tokens_ours=None,
            tokens_peer=None,
            flops_ours=None,
            flops_peer=None,
            seconds_ours=0.0,
            seconds_peer=None,
            repeats=1,
            spread=None,
            equality="; ".join(f"{turns:,} turns: {peak:.0f} MiB" for turns, peak in peaks.items()),
            versions=versions("pyarrow"),
        )


@contextmanager
def _server(folder: Path) -> Iterator[S3Server]:
    with s3_server(folder) as server, patch.dict(os.environ, server.environment):
        yield server


def _same_rows(store: Store, connection: duckdb.DuckDBPyConnection, server: S3Server) -> str:
    """Every row of both sides, in the columns that both write; else AssertionError."""
    mine = read_table(store, "turns", columns=SHARED).sort_by([("interaction_id", "ascending"), ("turn", "ascending")])
    query = f"SELECT {', '.join(SHARED)} FROM 's3://{server.bucket}/rows/peer.parquet' ORDER BY interaction_id, turn"
    theirs = connection.execute(query).to_arrow_table().cast(mine.schema)
    assert mine.equals(theirs), "rows differ"
    return f"{mine.num_rows:,} rows equal in {len(SHARED)} columns"
