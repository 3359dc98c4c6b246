"""Flags of `waypost dev` that no service could start with: one line that says what to write, before anything starts."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from waypost_cli.main import app


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--secret", "shop/relay=password"], "NS/NAME=KEY=@FILE"),
        (["--secret", "shop/relay=password=@nowhere.txt"], "no file nowhere.txt"),
        (["--service", "desk=127.0.0.1:80"], "NS/NAME=HOST:PORT"),
        (["--service", "shop/desk=127.0.0.1"], "NS/NAME=HOST:PORT"),
        (["--dns", "127.0.0.1"], "HOST:PORT"),
        (["--log-level", "loud"], "debug, info, warning, error"),
    ],
)
def test_a_flag_that_no_service_takes_is_said_in_one_line(tmp_path: Path, flags: list[str], said: str):
    done = CliRunner().invoke(app, ["dev", "--manifests", str(tmp_path), "--data", str(tmp_path / "data"), *flags])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
