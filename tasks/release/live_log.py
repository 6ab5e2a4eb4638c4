"""Follow what gateways served and what rounds decoded of it, without the text, for live evidence."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow.compute as pc

from respect_core.log import tombstones
from respect_core.log.log import RecordError
from respect_core.log.served_chats import SERVED_CHATS, interaction_id, is_forgotten, read
from respect_core.log.tombstones import Forgotten
from respect_core.release.live import Offered, PairFigures, ServedReply, VersionFigures, pairs, versions
from respect_core.scenarios.chat.served import read_reply
from respect_core.store import tables
from respect_core.store.base import Store
from respect_core.store.manifests import Manifest, Partition, read_manifest
from respect_core.variants import DecoderKind

MOST = 50_000
"""Replies that are remembered: the last ones."""


class _Decoded(NamedTuple):
    """The feedback of a partition, by interaction; None for a follow-up that was set aside."""

    manifest: Manifest
    labels: dict[str, list[int | None]]

    @property
    def decoder(self) -> Any:
        return self.manifest.parts[0].metadata.get("decoder", {}) if self.manifest.parts else {}


class LiveLog:
    """The last replies of all gateways on a store, and the labels of what users said next."""

    def __init__(self, store: Store, most: int = MOST) -> None:
        self._store, self._most = store, most
        self._replies: deque[ServedReply] = deque(maxlen=most)
        self._read: set[str] = set()  # keys, of the days that may still get some
        self._forgotten = Forgotten()
        self._partitions: set[Partition] = set()  # of the conversations
        self._decoded: dict[Partition, _Decoded] = {}

    def follow(self) -> bool:
        """Read what is new; return whether anything is. Raises StoreError and TableError."""
        keys, replies = self._keys(), list[ServedReply]()
        forgot = self._forget()
        new = sorted(keys - self._read, reverse=True)
        for key in new:
            if len(replies) >= self._most:
                break
            began = time.monotonic()
            replies += self._of(key)
            time.sleep(time.monotonic() - began)  # whoever serves from this process needs the time, too
        if replies:
            self._replies = deque(sorted([*self._replies, *replies], key=lambda each: each.time), self._most)
        self._read = keys or self._read
        return self._read_labels() or bool(replies) or forgot

    def versions(self, on_offer: Collection[Offered]) -> list[VersionFigures]:
        """Measure the versions that replied."""
        return versions(self._replies, self._labels(), on_offer)

    def pairs(self, measured: list[VersionFigures]) -> list[PairFigures]:
        """Compare those that were on offer at the same time."""
        return pairs(self._replies, self._labels(), measured)

    @property
    def decoder(self) -> tuple[str, int] | None:
        """The decoder whose labels count, and the last round that it decoded; None before one did."""
        newest = max(self._decoded, default=None)
        return newest and (self._decoded[newest].decoder.get("decoder_model", "an unnamed decoder"), newest.round)

    def _forget(self) -> bool:
        """Drop the replies that are forgotten; return whether there were any."""
        before, self._forgotten = (len(self._replies), self._forgotten), tombstones.read(self._store)
        if self._forgotten != before[1]:
            said = [each for each in self._replies if not self._is_forgotten(each)]
            self._replies = deque(said, maxlen=self._most)
        return len(self._replies) < before[0]

    def _is_forgotten(self, reply: ServedReply) -> bool:
        return is_forgotten(reply.conversation, reply.user, reply.time, self._forgotten)

    def _keys(self) -> set[str]:
        """List the log's objects: all at first, and then those of the days that may still get some."""
        if not self._read:
            return set(self._store.keys(f"{SERVED_CHATS}/"))
        first = date.fromisoformat(max(self._read).split("/")[1]) - timedelta(days=1)
        days = [first + timedelta(days=number) for number in range((datetime.now(UTC).date() - first).days + 1)]
        return {key for day in days for key in self._store.keys(f"{SERVED_CHATS}/{day}/")}

    def _of(self, key: str) -> list[ServedReply]:
        result = []
        for chat in read(self._store, [key], self._forgotten):
            if chat.background:
                continue
            try:
                reply = read_reply(chat)
            except RecordError:  # nothing that a gateway of this release writes
                continue
            self._partitions.add(Partition(chat.round, chat.variant))
            result.append(
                ServedReply(
                    interaction=interaction_id(f"{chat.conversation_id}/{chat.id}"),
                    conversation=chat.conversation_id,
                    user=chat.user,
                    variant=chat.variant,
                    version=chat.version,
                    offered=chat.offered,
                    time=chat.time,
                    cut=chat.cut,
                    first_token=chat.first_token,
                    seconds=chat.seconds,
                    before=reply.before,
                    after=reply.after,
                )
            )
        return result

    def _read_labels(self) -> bool:
        """Read the feedback that rounds wrote since the last call; return whether there is any."""
        changed = False
        for partition in self._partitions:
            manifest = read_manifest(self._store, "feedback", *partition)
            if manifest is None:
                changed |= self._decoded.pop(partition, None) is not None
            elif partition not in self._decoded or self._decoded[partition].manifest != manifest:
                self._decoded[partition] = _Decoded(manifest, self._feedback(partition))
                changed = True
        return changed

    def _feedback(self, partition: Partition) -> dict[str, list[int | None]]:
        known = {each.interaction for each in self._replies}
        labels: dict[str, list[int | None]] = {}
        columns = ["interaction_id", "decoder", "label", "marked"]
        for batch in tables.iter_batches(self._store, "feedback", [partition.round], [partition.variant], columns):
            for row in batch.filter(pc.equal(batch.column("decoder"), DecoderKind.TERNARY.value)).to_pylist():
                if row["interaction_id"] in known:
                    label = row["label"] if row["marked"] is None else None
                    labels.setdefault(row["interaction_id"], []).append(label)
        return labels

    def _labels(self) -> dict[str, list[int | None]]:
        """Return the labels of the decoder that decoded the newest round: those of two decoders do not add up."""
        newest = max(self._decoded, default=None)
        same = [each for each in self._decoded.values() if newest and each.decoder == self._decoded[newest].decoder]
        return {name: labels for each in same for name, labels in each.labels.items()}
