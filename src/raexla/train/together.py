"""What the processes of a run do together between steps, by one exchange a step: agree on stopping, and tell process 0
which samples they have consumed and refused, so that its files are those of a run of one process."""

from collections.abc import Mapping
from typing import Any

from raexla.data.batches import Batch
from raexla.data.cursor import merge_cursors
from raexla.obs import CONSUMED, Lines
from raexla.recipe import Recipe, UserError
from raexla.runtime import Runtime
from raexla.train.base import StageRecipe
from raexla.train.directory import RunDirectory
from raexla.train.stop import StopRequest


def open_run(recipe: StageRecipe, runtime: Runtime, stages: Mapping[str, type[Recipe]], fresh: bool) -> RunDirectory:
    """The run directory: process 0 makes it, then the others look at it.

    Raises:
        UserError: on every process, what process 0 or this one finds wrong.
    """
    run, problem = None, None
    if runtime.process_index == 0:
        try:
            run = RunDirectory(recipe, stages, fresh, True)
        except UserError as error:
            problem = str(error)
    problem = runtime.exchange(problem)[0]
    if problem is not None:
        raise UserError(problem)
    return run or RunDirectory(recipe, stages, False, False)


class Together:
    """One process's part in them.

    Args:
        stop: what asks this process to stop; `record`: whether `consumed.jsonl` is kept.
    """

    def __init__(self, runtime: Runtime, run: RunDirectory, stop: StopRequest, record: bool) -> None:
        self._runtime, self._run, self._stop, self._record = runtime, run, stop, record
        self._refusals: list[dict[str, Any]] = []
        self._consumed: Lines | None = None
        self.stopping: str | None = None
        """Why the run is to stop, if any process has been asked to."""
        self.refused = 0
        """Samples of all processes that were refused for their content up to the last step."""

    def stand_at(self, step: int) -> None:
        """The run goes on from `step`; -1 begins anew."""
        self.close()
        self._refusals = []
        if self._record and self._runtime.process_index == 0:
            self._consumed = Lines(self._run.path / CONSUMED, step)

    def refuse(self, refused: list[dict[str, Any]]) -> None:
        """Samples that this process has refused: named at the end of the step."""
        self._refusals += refused

    def quarantine(self, refused: list[dict[str, Any]]) -> None:
        """The same on all processes, named now."""
        for part in self._runtime.exchange(refused):
            if self._runtime.process_index == 0:
                self._run.quarantine(part)

    def after(self, step: int, batch: Batch, number: int) -> None:
        """A step with this process's rows of batch `number` is done."""
        own = {
            "stop": self._stop.reason,
            "refusals": self._refusals,
            "refused": sum(sum(counts.values()) for counts in batch.cursor.get("skips", {}).values()),
            "uids": batch.uids if self._record else {},
        }
        said = self._runtime.exchange(own)
        self._refusals = []
        self.stopping = _first(part["stop"] for part in said)
        self.refused = sum(part["refused"] for part in said)
        if self._runtime.process_index == 0:
            self._run.quarantine([entry for part in said for entry in part["refusals"]])
        if self._consumed is not None:  # rows of a group are dealt to the processes in their order
            uids = {group: [uid for part in said for uid in part["uids"][group]] for group in said[0]["uids"]}
            self._consumed.write(step, {"batch": number, "uids": uids})

    def asked(self) -> bool:
        """Whether any process has been asked to stop by now; all must ask."""
        self.stopping = _first(self._runtime.exchange(self._stop.reason))
        return self.stopping is not None

    def cursor(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The run's cursor from each process's."""
        parts = self._runtime.exchange(dict(own))
        return merge_cursors(parts) if len(parts) > 1 and own else dict(own)

    def refused_of_sources(self, own: Mapping[str, Any]) -> dict[str, int]:
        """Samples of each source that were refused for their content, by the run's cursor."""
        skips = self.cursor(own).get("skips", {})
        return {name: sum(counts.values()) for name, counts in skips.items()}

    def keep(self) -> None:
        """Make what was written survive the end of this machine."""
        if self._consumed is not None:
            self._consumed.keep()

    def close(self) -> None:
        """Close the files."""
        if self._consumed is not None:
            self._consumed.close()
            self._consumed = None


def _first(reasons: Any) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)
