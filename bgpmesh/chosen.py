"""Which configuration a daemon runs on, and why it is not the operator's file.

The file decides, but for two cases: it has not changed since another text was put in force (a confirmed `reload F` or
`apply`, a rollback), which then still holds; or it is bad, and what was last in force gives way to nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bgpmesh import config, log
from bgpmesh.config import Config
from bgpmesh.errors import ConfigError
from bgpmesh.frozen import frozen
from bgpmesh.state import KeptConfig, State

# What a daemon is built with, so that a reload cannot change it.
FIXED_SECTIONS = ("kernel", "workload", "metrics", "control", "state")


@frozen
class Overrides:
    """What the command line says in place of the file, also of a file that is loaded later."""

    socket: str | None = None
    state_directory: str | None = None

    def on(self, configuration: Config) -> Config:
        """Return a configuration with them put in."""
        control, state = configuration.control, configuration.state
        return replace(
            configuration,
            control=control if self.socket is None else replace(control, socket=self.socket),
            state=state if self.state_directory is None else replace(state, directory=self.state_directory),
        )


@frozen
class Chosen:
    """The configuration in force, what is kept of it, and what is wrong with the operator's file, if it is not that."""

    configuration: Config
    node: str
    kept: KeptConfig
    overrides: Overrides
    problems: tuple[str, ...] = ()

    def reloaded(self, text: str | None, file: str | None) -> Proposal:
        """Return what takes this one's place: `text` (of `file`), or the operator's file as it is now.

        Raises ConfigError with every problem.
        """
        own = self.kept.file
        new_text = config.read(own) if text is None else text
        asked = self.overrides.on(config.parse(new_text, own if text is None else file or own))
        warnings = list(config.warnings(asked, self.node))
        fixed = {section: getattr(self.configuration, section) for section in FIXED_SECTIONS}
        warnings += [
            f"[{section}] has changed: that takes effect when the daemon restarts"
            for section, in_force in fixed.items()
            if getattr(asked, section) != in_force
        ]
        digest = _digest(new_text) if text is None else _digest_on_disk(own)
        kept = KeptConfig(new_text, own, digest, _previous(self.kept, new_text))
        return Proposal(Chosen(replace(asked, **fixed), self.node, kept, self.overrides), asked, warnings)

    def previous(self) -> Proposal:
        """Return what was kept before, to take this one's place; raises ConfigError where it is none any more."""
        return self.reloaded(self.kept.previous, None)

    def pinned(self) -> KeptConfig:
        """Return what to keep so that a restart comes back to this one, whatever the operator's file has now."""
        return replace(self.kept, digest=_digest_on_disk(self.kept.file))


class Proposal(NamedTuple):
    """What would be in force, the configuration as it was asked for (part of it may wait for a restart), warnings."""

    chosen: Chosen
    asked: Config
    warnings: list[str]


def choose(file: str, node: str | None, overrides: Overrides) -> Chosen:
    """Return what a daemon that starts now runs on.

    Raises ConfigError where the file is bad and nothing was in force.
    """
    text = ""
    try:
        text = config.read(file)
        configuration = overrides.on(config.parse(text, file))
        name = config.find_node(configuration, node)
    except ConfigError as error:
        kept = _kept(overrides.state_directory or config.state_directory(text))
        if kept is None:
            raise
        for problem in error.problems:
            log.error("config.refused", reason=str(problem))
        try:
            configuration = overrides.on(config.parse(kept.text, kept.file))
            name = config.find_node(configuration, node)
        except ConfigError as worse:  # a password file it names is gone, or it stands for another node
            raise ConfigError((*error.problems, *worse.problems)) from error
        return Chosen(configuration, name, kept, overrides, tuple(map(str, error.problems)))
    kept = _kept(configuration.state.directory)
    if kept is not None and kept.file == file and kept.digest == _digest(text) and kept.text != text:
        with contextlib.suppress(ConfigError):  # a password file it names may be gone: the operator's file it is
            reloaded = overrides.on(config.parse(kept.text, file))
            chosen = Chosen(reloaded, config.find_node(reloaded, node), kept, overrides)
            log.info("config.kept", file=file, reason="it has not changed since another configuration was put in force")
            return chosen
    return Chosen(configuration, name, KeptConfig(text, file, _digest(text), _previous(kept, text)), overrides)


def _kept(directory: str) -> KeptConfig | None:
    kept = State(Path(directory)).config()
    if kept.problem:
        log.warning("state.unreadable", file="config", reason=kept.problem)
    return kept.value


def _previous(kept: KeptConfig | None, text: str) -> str:
    """Return the text to go back to from `text`, where so much was kept."""
    if kept is None:
        return ""
    return kept.previous if kept.text == text else kept.text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_on_disk(file: str) -> str:
    """Return the digest of a file that may be anything; one that cannot be read counts as empty."""
    try:
        return _digest(config.read(file))
    except ConfigError:
        return _digest("")
