"""The configuration in force: what another would do, another put in force, for good or on trial, and the way back.

What is on trial is in force and not kept: it ends at its time, or at once by `rollback`, unless it is confirmed before;
a restart ends it too. There is one trial at a time, of a configuration or of objects of packet policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bgpmesh import config, log
from bgpmesh.chosen import FIXED_SECTIONS, Chosen, Proposal
from bgpmesh.config import Config
from bgpmesh.control.server import RequestError
from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError, refused
from bgpmesh.events import Configured
from bgpmesh.frozen import frozen
from bgpmesh.plan import Held, JsonObject, plan
from bgpmesh.saved import Saved
from bgpmesh.state import KeptConfig


@frozen
class Trial:
    """What is in force and not confirmed, and how it is kept or taken back.

    `keep` returns what is wrong with that, "" if nothing is. `before`: the configuration to go back to; None: objects.
    """

    what: str
    timer: asyncio.TimerHandle
    keep: Callable[[], str]
    undo: Callable[[], None]
    before: Chosen | None = None


class Revisions:
    """Which configuration a daemon runs on; `put` hands it to all who are told of configurations."""

    def __init__(
        self, chosen: Chosen, saved: Saved, engine: Callable[[], Engine], put: Callable[[Configured], None]
    ) -> None:
        self.chosen = chosen
        self.generation = 1
        self._saved = saved
        self._engine = engine
        self._put = put
        self._trial: Trial | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.chosen.configuration

    # ── another configuration ────────────────────────────────────────────────

    def plan(self, text: str | None, file: str | None) -> JsonObject:
        """Return what a configuration would do: `text`, or the operator's file as it is now; raises ConfigError."""
        return self._planned(self.chosen.reloaded(text, file))

    def reload(self, text: str | None, file: str | None, trial_s: float | None = None) -> JsonObject:
        """Put a configuration in force, for good or for so many seconds; return what that does.

        Raises ConfigError with every problem, and then nothing has changed.
        """
        self.check_is_free(of_objects=False if trial_s is None else None)
        try:
            proposal = self.chosen.reloaded(text, file)
        except ConfigError as error:
            if text is None:
                self.chosen = replace(self.chosen, problems=tuple(map(str, error.problems)))
            raise
        before, file = self.chosen, file or self.chosen.kept.file
        answer = self._take(proposal, proposal.chosen.kept if trial_s is None else before.pinned(), file)
        if trial_s is not None:
            self.begin(f"configuration {file}", trial_s, self._keep, lambda: self._enforce(before, file), before)
        return answer | {"unconfirmed": self.unconfirmed()}

    def _take(self, proposal: Proposal, kept: KeptConfig, file: str) -> JsonObject:
        """Put a configuration in force once `kept` is on disk, which a restart then comes back to."""
        changes = self._planned(proposal)
        if problem := self._saved.keep(kept, self._loop.time()):
            raise refused("state.directory", self.config.state.directory, problem)
        self._enforce(proposal.chosen, file)
        for warning in proposal.warnings:
            log.warning("config.doubtful", reason=warning)
        return {"generation": self.generation, "warnings": proposal.warnings, "changes": changes}

    def _planned(self, proposal: Proposal) -> JsonObject:
        engine, new = self._engine(), proposal.chosen
        received = {name: [row[0] for row in engine.rib.counts(name).values()] for name in engine.peers.sessions}
        return plan(
            engine.configured,
            config.effective(new.configuration, new.node, self._saved.neighbours),
            config.changes(self.config, proposal.asked),
            fixed=FIXED_SECTIONS,
            said=proposal.warnings,
            held=Held(received, engine.local.addresses.in_use()),
        )

    def _enforce(self, chosen: Chosen, file: str) -> None:
        self.chosen = chosen
        self.generation += 1
        self.rediscover()
        log.info("config.loaded", file=file, generation_count=self.generation)

    def rediscover(self) -> None:
        """Put the configuration in force with the neighbours that are found by now."""
        self._put(config.effective(self.config, self.chosen.node, self._saved.neighbours))

    def _keep(self) -> str:
        return self._saved.keep(self.chosen.kept, self._loop.time())

    # ── trials ───────────────────────────────────────────────────────────────

    def check_is_free(self, *, of_objects: bool | None = None) -> None:
        """Raise ConfigError where a trial is under way, naming it: any, or one of objects, or of a configuration."""
        if self._trial is None or of_objects is (self._trial.before is not None):
            return
        left = f"it rolls back in {self._left_s():.0f} s"
        raise refused("apply", self._trial.what, f"is not confirmed yet ({left}): confirm it or roll it back first")

    def begin(
        self,
        what: str,
        seconds: float,
        keep: Callable[[], str],
        undo: Callable[[], None],
        before: Chosen | None = None,
    ) -> None:
        """Have what has just come in force end after so many seconds."""
        timer = self._loop.call_later(seconds, self._time_is_up, seconds)
        self._trial = Trial(what, timer, keep, undo, before)
        log.info("apply.unconfirmed", value=what, rolls_back_s=seconds)

    def unconfirmed(self) -> JsonObject | None:
        """Return what is on trial, and for how long still; None: nothing is."""
        return None if self._trial is None else {"what": self._trial.what, "rolls_back_s": round(self._left_s(), 1)}

    def confirm(self) -> JsonObject:
        """Keep what is on trial; raises RequestError where nothing is, ConfigError where the disk refuses."""
        trial = self._trial
        if trial is None:
            raise RequestError("not-found", "nothing waits to be confirmed")
        if problem := trial.keep():
            raise refused("state.directory", self.config.state.directory, problem)
        self._end(trial)
        log.info("apply.confirmed", value=trial.what)
        return {"confirmed": trial.what, "generation": self.generation}

    def rollback(self, *, is_dry_run: bool) -> JsonObject:
        """Take back what is on trial, or else go to the configuration that was kept before this one.

        Returns what that does, or with `is_dry_run` would do. Raises ConfigError where the former one is none any more,
        RequestError where there is none.
        """
        trial = self._trial
        if trial is None:
            if not self.chosen.kept.previous:
                raise RequestError("not-found", "nothing is on trial, and no configuration was kept before this one")
            proposal, what = self.chosen.previous(), "the configuration that was kept before this one"
        elif trial.before is not None:
            before = trial.before
            said = list(config.warnings(before.configuration, before.node))
            proposal, what = Proposal(before, before.configuration, said), f"as it was before {trial.what}"
        else:
            proposal, what = None, f"as it was before {trial.what}"
        answer: JsonObject = {"rolled_back": not is_dry_run, "to": what}
        if proposal is not None:
            answer |= {"changes": self._planned(proposal), "warnings": proposal.warnings}
        if is_dry_run:
            return answer | {"generation": self.generation}
        if trial is not None:
            self._end(trial)
            trial.undo()
            log.info("apply.rolled-back", value=trial.what, reason="asked for")
        elif proposal is not None:
            self._take(proposal, proposal.chosen.kept, self.chosen.kept.file)
        return answer | {"generation": self.generation}

    def _time_is_up(self, seconds: float) -> None:
        trial = self._trial
        if trial is not None:
            self._end(trial)
            trial.undo()
            log.warning("apply.rolled-back", value=trial.what, reason=f"not confirmed within {seconds:g} s")

    def _end(self, trial: Trial) -> None:
        trial.timer.cancel()
        self._trial = None

    def _left_s(self) -> float:
        return 0.0 if self._trial is None else max(self._trial.timer.when() - self._loop.time(), 0.0)
