"""One file's life: from its sources, through `.part`, to its final name, left to right.

The final name is taken by a verified file only. Whatever ends a fetch, what has landed stays for the next.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from ..contract import redaction
from ..contract.failures import Failure, disk_failure
from ..contract.plan import Download
from ..contract.steps import LEVELS, SIZE_ONLY, VERIFIED
from ..run.context import Context
from . import existing, landing, place, renewal, same_name
from .engine.hasher import Hasher
from .engine.part_file import Identity, PartFile
from .engine.pool import Pool
from .engine.ranges import Extents
from .engine.transfer import Changed, Transfer
from .engine.watch import Watch
from .existing import Wanted
from .hosts import Hosts
from .names import Names, NameTaken, final_path, unsafe_path
from .place import LOCK_AGAIN_S
from .progress import Progress
from .source_selector import Source, SourceSelector
from .sources import local
from .sources.lookup import Answer, Sources
from .sources.repository_file import file_name_of, git_sha1_of
from .time_budget import Allowance, TimeUp

QUIET_WITHIN_S = 60.0


class Shared(NamedTuple):
    """What all files of a run have in common."""

    context: Context
    access: Sources
    hosts: Hosts
    pool: Pool
    names: Names


class Fetch:
    """Fetches one item of the plan. `run` is called once; the rest may be read from other threads."""

    def __init__(self, item: Download, shared: Shared, *, order: int) -> None:
        self.item = item
        self.key = item.key
        self.refusal = unsafe_path(item, shared.context.workspace)
        """Why it is not even looked at."""
        self.rank = (LEVELS.index(item.level), order)
        self.selector = SourceSelector(item, self.report)
        self.is_transferring = True
        """False once only hashing, unpacking and naming are left: another file may begin."""
        self.is_waiting = False
        """True while another item fetches a file of the same final name."""
        self.path: Optional[str] = None
        """Where the file is, when it is there."""
        self.told_bytes: Optional[int] = None
        """Its size, as the preflight was told."""
        self._context, self._access, self._hosts, self._pool, self._names = shared
        self._label: Optional[str] = None if item.path.endswith("/") else item.label
        self._instead_of: Optional[Failure] = None
        self._rival: Optional[Download] = None
        self._limits = item.limits
        self._wanted_path, self._size, self._sha256 = item.path, item.size_bytes, item.sha256
        self._allowance = Allowance(shared.context, shared.hosts, item.limits.file_s)
        self._progress = Progress(self.report, item.limits.stall)
        self._part: Optional[PartFile] = None
        self._transfer: Optional[Transfer] = None
        self._landed_before, self._was_restarted, self._has_hash = 0, False, True

    @property
    def bytes_downloaded(self) -> int:
        """How many bytes came over the network for it."""
        transfer = self._transfer  # its driver may take it away while others read here
        return self._landed_before + (transfer.bytes_landed if transfer is not None else 0)

    @property
    def public_url(self) -> str:
        """The source in use, or the last one, as it may be shown."""
        return redaction.public_url(self.selector.current.url)

    @property
    def label(self) -> str:
        """Its final path; until a server has told the name, its folder and its public URL."""
        if self._label is None and not self._is_recorded_substitute():
            self._label = self.foreseen_path()
        return self._label or self.item.label

    @property
    def is_substituted(self) -> bool:
        """The substitute is taken in place of what was wanted."""
        return self._instead_of is not None

    def foreseen_path(self) -> Optional[str]:
        """Where the file will be, as far as that is known before it is fetched."""
        answers = (source.answer for source in self.selector.sources)
        told = next((answer.name for answer in answers if answer is not None and answer.name), None)
        return place.foreseen_path(self._context, self.item, told)

    def has_file(self) -> bool:
        """Has an earlier run brought it, and has nobody touched it since?"""
        return existing.recorded_path(self._context, self.item) is not None

    def _is_recorded_substitute(self) -> bool:
        return existing.is_substitute(existing.record_of(self._context, self.item), self.item)

    def report(self, event: str, **fields: object) -> None:
        """Say something about this item."""
        names = {"item": self.label, "key": self.key, "level": self.item.level}
        self._context.report(f"download_{event}", **names, **fields)

    def run(self) -> str:
        """Do it.

        Returns:
            ``ok``, or ``skipped`` when the file was already there.

        Raises:
            Failure: every source said no, or the disk did, or its time is up.
            Stopped: the run ended first.
        """
        self._allowance = Allowance(self._context, self._hosts, self._limits.file_s)
        self.report("started", url=self.public_url)
        if self.refusal is not None:
            raise self.refusal
        try:
            path = self._wanted_path
            if path.endswith("/"):
                path = existing.recorded_place(self._context, self.item) or path
            if not path.endswith("/") and self._is_settled_here(path):
                return self._skip(path)
            return self._from_some_source()
        finally:
            self.is_transferring = False
            self._withdraw()
            if self._part is not None:
                self._part.close(sync=True)

    def _from_some_source(self) -> str:
        while True:
            source = self.selector.choose(self._context.outages, self._allowance)
            if source is None:
                source = self._take_substitute()
            try:
                return self._from_source(source)
            except (TimeUp, NameTaken):
                self._context.outages.let_go(*source.places)
                raise
            except Failure as failure:
                is_crowded = self._transfer is not None and self._transfer.is_crowded
                self._withdraw()
                if isinstance(failure, Changed) and self._part is not None:
                    self._part.discard()
                self.selector.judge(
                    source,
                    failure,
                    is_crowded=is_crowded,
                    hosts=self._hosts,
                    allowance=self._allowance,
                    outages=self._context.outages,
                )

    def _take_substitute(self) -> Source:
        worst = self.selector.worst()
        path = self.selector.take_substitute()
        if path is None:
            raise worst
        self._instead_of = worst
        if self._part is not None:
            self._part.remove()
            self._part = None
        self._wanted_path, self._size, self._sha256 = path, None, None
        return self.selector.current

    def _from_source(self, source: Source) -> str:
        answer = self._ask(source)
        if answer.chosen is not None and answer.chosen.note:
            self._context.warn_once(f"{redaction.public_url(source.url)} {answer.chosen.note}")
        path = final_path(self._wanted_path, answer.name, answer.why_no_name)
        if self.item.path.endswith("/"):
            self._label = path
        self._rival = self._await_name(path)
        if self._rival is not None and self._is_shared(self._rival, path, self._wanted(answer)):
            return self._skip(path)
        if self._part is None:
            if self._is_there(path, answer):
                return self._skip(path)
            if self._rival is None:
                place.spare_others(self._context, self.item, path)
            if not self._take_part(path, answer):
                return self._skip(path)
        landing.check_promise(self._promised, answer, path, self._access.secret_values)
        self._wanted_path = path
        transfer = self._begin(source, answer)
        if urlsplit(answer.location).scheme == "file":
            local.copy(transfer, guard=self._pool.guard, progress=self._progress, allowance=self._allowance)
        else:
            self._pool.add(transfer)
            Watch(
                transfer,
                source,
                pool=self._pool,
                hosts=self._hosts,
                progress=self._progress,
                allowance=self._allowance,
                report=self.report,
            ).wait()
        return self._settle(source, transfer)

    def _ask(self, source: Source) -> Answer:
        if source.answer is not None:
            answer, source.answer = source.answer, None
            return answer
        renewal.await_turn(source, self._allowance, self._context, self.report)
        with self._hosts.lookups(source.host):
            answer = self._access.ask(
                source.url,
                within_s=self._limits.lookup_s,
                connect_s=self._limits.connect_s,
                stop=self._allowance.is_stopped,
            )
        source.reached(answer, self._context.outages)
        return answer

    def _await_name(self, path: str) -> Optional[Download]:
        """The other item whose file has that name; None when it is ours. One that is fetching it is waited for."""
        self._names.want(path, self.item)
        holder = self._names.holder(self.item)
        try:
            while holder is not None and not self._names.has_landed(holder):
                if not self.is_waiting:
                    reason = f"{redaction.public_url(holder.url)} has the same file name and goes first"
                    self.report("waiting", host="", wait_s=LOCK_AGAIN_S, reason=reason)
                self.is_waiting, self.is_transferring = True, False
                began_at = time.monotonic()
                self._allowance.sleep(LOCK_AGAIN_S)
                self._allowance.began_at += time.monotonic() - began_at  # it is the other one's time
                holder = self._names.holder(self.item)
        finally:
            self.is_waiting, self.is_transferring = False, True
        return holder

    def _is_shared(self, holder: Download, path: str, wanted: Wanted) -> bool:
        """Is the file of *holder* at *path* ours too? False when only its bytes can tell. Raises NameTaken."""
        stop = self._allowance.is_stopped
        record = same_name.adopt(self._context, self.item, holder, path, wanted, stop=stop)
        if record is not None:
            self._unpack(record.path, record)
            self.path = record.path
        return record is not None

    @property
    def _promised(self) -> Wanted:
        """What the file must be by the plan, as far as that says."""
        return Wanted(self._size, self._sha256, self.selector.current.url, git_sha1_of(self.item))

    def _wanted(self, answer: Optional[Answer]) -> Wanted:
        """What the file must be, by the plan or else by what the source in use says."""
        wanted = self._promised
        return wanted if answer is None else wanted.or_as_told(answer.size_bytes, answer.sha256)

    def _begin(self, source: Source, answer: Answer) -> Transfer:
        """See what is already there, and let the hash follow what comes."""
        assert self._part is not None
        size = answer.size_bytes if answer.size_bytes is not None else self._size
        is_whole = source.is_single or not answer.has_ranges or answer.size_bytes is None
        if is_single := is_whole and urlsplit(answer.location).scheme != "file":
            self._part.discard()
        identity = Identity.of(source.url, size, self._sha256 or answer.sha256, answer.validator)
        length = self._size if is_single else size  # a whole file's is told by the answer that brings it
        extents = Extents(length, self._part.begin(identity))
        if not self._hosts.first_byte_s(answer.host):
            self._hosts.observe(answer.host, first_byte_s=answer.first_byte_s)
        self._transfer = transfer = Transfer(
            self._part,
            answer,
            extents,
            limits=self._limits,
            source_hosts=source.hosts,
            name=file_name_of(self.item, self._wanted_path),
            rank=self.rank,
            is_single=is_single,
        )
        self.report(
            "sized", total_bytes=size, **({"resumed_bytes": extents.landed} if extents.landed else {})
        )
        self._progress.begin(extents.landed, size)
        self._allowance.size_bytes, self._allowance.is_moving = size, self._progress.is_moving
        transfer.hasher = Hasher(self._part.descriptor, lambda: self._pool.frontier(transfer))
        return transfer

    def _take_part(self, path: str, answer: Answer) -> bool:
        """Lock the part; False when another process, which had it, has finished the file."""
        final = os.path.join(self._context.workspace, path)
        before = landing.signature(final)
        waits = {"host": "", "wait_s": LOCK_AGAIN_S, "reason": "another process fetches it"}
        self._part = place.locked_part(
            self._context,
            place.part_of(final, self.key, is_rival=self._rival is not None),
            say_waits=lambda: self.report("waiting", **waits),
            sleep=self._allowance.sleep,
        )
        return landing.signature(final) == before or not self._is_there(path, answer)

    def _settle(self, source: Source, transfer: Transfer) -> str:
        """All bytes are there: are they the right ones? Then name it, remember it, unpack it."""
        self.is_transferring = False
        assert self._part is not None and transfer.extents.size is not None
        size = transfer.extents.size
        sha256 = self._verified(transfer, size)
        final = os.path.join(self._context.workspace, self._wanted_path)
        rival = self._rival
        if rival is None:
            self._part.finish(final, size, sync=self._context.state.is_lasting or not self.item.sha256)
        self._withdraw()
        if rival is not None:
            self._part.remove()
        self._part.close(sync=False)
        self._part = None
        stop = self._allowance.is_stopped
        if rival is not None and same_name.content_of(self._context, rival, final, stop=stop) != sha256:
            raise NameTaken(self._wanted_path, rival, self.item, "their bytes differ")
        record = existing.remember(self._context, self.item, final, sha256=sha256, url=source.url)
        self._unpack(final, record)
        self.path = final
        self._warn_of_substitute(self._wanted_path)
        duration_s = round(time.monotonic() - self._allowance.began_at, 3)
        self.report("finished", bytes=size, sha256=sha256, duration_s=duration_s, path=self._wanted_path)
        return "ok"

    def _verified(self, transfer: Transfer, size: int) -> str:
        """The file's hash, when everything about it is right."""
        assert self._part is not None
        secrets, stop = self._access.secret_values, self._allowance.is_stopped
        try:
            sha256 = landing.check_content(transfer, size, self._promised, secrets=secrets, stop=stop)
        except OSError as error:
            raise disk_failure(error, self._part.path) from None
        except Failure as failure:
            self._withdraw()
            self._part.discard()
            # once it gets the benefit of the doubt: bytes may have been mixed up on the way or by a crash
            failure.retriable = not self._was_restarted and failure.meaning.helps_afresh
            self._was_restarted = True
            raise
        return sha256

    def _unpack(self, final: str, record: existing.FileRecord) -> None:
        stop = self._allowance.is_stopped
        place.bring_members(self._context, self.item, final, record, label=self.label, stop=stop)

    def _is_settled_here(self, path: str) -> bool:
        """Is the right file at *path* already, its own or that of another item? Nobody is asked. Raises NameTaken."""
        self._rival = self._await_name(path)
        if self._rival is not None:
            return self._is_shared(self._rival, path, self._wanted(None))
        return self._is_there(path, None)

    def _is_there(self, path: str, answer: Optional[Answer]) -> bool:
        """Is the file already there and right? Without *answer*, as far as that can be told without the network."""
        if self._rival is not None:
            return False  # what is there is another's
        final = os.path.join(self._context.workspace, path)
        stop = self._allowance.is_stopped
        record = existing.verified(self._context, self.item, final, self._wanted(answer), stop=stop)
        if record is not None:
            self.path = final
            self._has_hash = record.sha256 is not None
            self._unpack(final, record)
        return record is not None

    def _skip(self, path: str = "") -> str:
        self._warn_of_substitute(path)
        self.report("skipped", reason=VERIFIED if self._has_hash else SIZE_ONLY)
        return "skipped"

    def _warn_of_substitute(self, path: str) -> None:
        """Another file than the one that was wanted is never taken in silence."""
        if self._instead_of is not None:
            place.warn_of_substitute(self._context, self.item, path, self._instead_of)

    def _withdraw(self) -> None:
        """End every connection and the hashing of the transfer in progress, so that the part may be changed."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            if transfer.hasher is not None:
                transfer.hasher.stop()
            is_quiet = self._pool.withdraw(transfer, within_s=QUIET_WITHIN_S)
            self._landed_before += transfer.bytes_landed
            if not is_quiet:
                self._part = None  # a write hangs: its descriptor must never become another file's
                raise Failure("read_only", "the disk has not taken a write for a minute")
