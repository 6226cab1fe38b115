"""Files that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from meshproxy.config import folder, relative
from meshproxy.config.files import FilePath

FILE: TypeAdapter[str] = TypeAdapter(FilePath)


def test_paths_begin_at_the_configurations_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the configuration is called, and wherever the proxy runs; an absolute path stays."""
    assert relative("/etc/mesh/m.yaml", "certs/a.pem") == "/etc/mesh/certs/a.pem"
    assert relative("/etc/mesh/m.yaml", "/run/a.pem") == "/run/a.pem"
    monkeypatch.chdir(tmp_path)
    assert relative("sub/m.yaml", "a.pem") == str(tmp_path / "sub" / "a.pem")
    assert folder("m.yaml") == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the path of a file is needed"),
        ("a\0b", "the path of a file is needed"),
        ("certs/", "a file is needed, and 'certs/' is a directory"),
        ("\n-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQ", "and this is what such a file holds"),
    ],
)
def test_what_is_no_path_of_a_file(text: str, said: str) -> None:
    """It is told; a key that was pasted is not repeated."""
    with pytest.raises(ValidationError) as caught:
        FILE.validate_python(text)
    (found,) = caught.value.errors()
    assert said in found["msg"]
    assert "MC4C" not in found["msg"]
