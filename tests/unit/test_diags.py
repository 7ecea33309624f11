"""What is in a bundle, and what is not."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from bgpmesh import cli, diags
from bgpmesh.control import client

FILE = """
[cluster]
asn = 64512
password = "%s"
[node.n1]
address = "127.0.0.1"
[peer.tor]
address = "127.0.0.2"
asn = 65001
password = "%s"
[state]
directory = "%s"
"""
SECRETS = ("first-secret", "second-secret")


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    """Return what is in a bundle, by name; the daemon answers some questions, and there is a journal."""
    file, archive = tmp_path / "f.toml", tmp_path / "b.tar.gz"
    file.write_text(FILE % (*SECRETS, tmp_path), encoding="utf-8")
    (tmp_path / "journal.gz").write_bytes(b"journal")
    monkeypatch.setattr(
        diags, "RUN", (("echo", "echo said"), ("leak", f"echo {SECRETS[1]}"), ("absent", "no-such-program -x"))
    )

    def call(_: str, command: str, __: object, **___: object) -> object:
        if command == "routes":
            raise client.NoDaemonError("it did not answer")
        return {"asked": command}

    monkeypatch.setattr(client, "call", call)
    assert cli.main(["diags", "--config", str(file), "--node", "n1", "-o", str(archive), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    found = {}
    with tarfile.open(archive) as bundle:
        for each in bundle.getmembers():
            part = bundle.extractfile(each)
            assert part is not None
            found[each.name.removeprefix("b/")] = part.read()
    return found


def test_a_bundle_has_what_everybody_says(bundled: dict[str, bytes]) -> None:
    """The daemon, programs, the journal; what cannot be had is there as the reason."""
    assert json.loads(bundled["daemon/status.json"]) == {"asked": "status"}
    assert json.loads(bundled["daemon/routes.json"]) == {"error": "it did not answer"}
    assert bundled["host/echo.txt"] == b"said\n"
    assert b"No such file" in bundled["host/absent.txt"]
    assert bundled["journal.gz"] == b"journal"
    assert {"version.txt", "doctor.json", "check.json"} < bundled.keys()


def test_no_secret_is_in_it(bundled: dict[str, bytes]) -> None:
    """Neither that of the cluster nor that of a peer, whoever tells it."""
    assert b"tor" in bundled["check.json"]
    assert bundled["host/leak.txt"] == b"[secret]\n"
    for secret in SECRETS:
        assert not any(secret.encode() in content for content in bundled.values())


def test_what_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be the bundle of yesterday."""
    there = tmp_path / "b.tar.gz"
    there.write_text("precious", encoding="utf-8")
    assert cli.main(["diags", "--config", "none", "-o", str(there)]) == 2
    assert capsys.readouterr().err == f"bgpmesh: {there}: File exists\n"
    assert there.read_text("utf-8") == "precious"
