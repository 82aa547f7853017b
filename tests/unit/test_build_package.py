"""The package that `make package` leaves: same bytes every time, small enough, and it imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import build_package

LAMBDA = build_package.Target("3.13", "aarch64")
LOCAL = build_package.Target(None, None)
CACHE = build_package.ROOT / ".cache" / "wheels"
DIRECT_UPLOAD_LIMIT_BYTES = 50_000_000


@pytest.fixture(scope="module", params=[LAMBDA, LOCAL], ids=lambda target: target.name)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("package") / "firebolt-cdc.zip"
    build_package.build(request.param, output, CACHE)
    return output


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    wheels = build_package.fetch_wheels(LAMBDA, CACHE)
    first, second = tmp_path / "a.zip", tmp_path / "b" / "b.zip"
    build_package.write_zip(
        [m for w in wheels for m in build_package.wheel_members(w)] + [*build_package.own_members()], first
    )
    # Another machine sees the files in another order, with other times and modes.
    moved = [Path(shutil.copy(wheel, tmp_path)) for wheel in reversed(wheels)]
    build_package.write_zip(
        [*build_package.own_members()] + [m for w in moved for m in build_package.wheel_members(w)], second
    )
    assert first.read_bytes() == second.read_bytes()


def test_every_member_unpacks_to_what_the_wheels_hold(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644, 0o100755}
        assert archive.namelist() == sorted(archive.namelist())


def test_handler_and_migrations_are_in_it(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        for base, pattern in [(build_package.ROOT / "handler", "firebolt_cdc/**/*.py"),
                              (build_package.ROOT, "migrations/*.sql")]:  # fmt: skip
            for path in base.glob(pattern):
                name = path.relative_to(base).as_posix()
                assert name in names
                assert archive.read(name) == path.read_bytes()


def test_it_needs_no_library_that_was_left_out(package: Path) -> None:
    """A wheel for another architecture cannot be imported here, but its libraries name what they link."""
    with zipfile.ZipFile(package) as archive:
        names = {Path(name).name for name in archive.namelist()}
        for name in archive.namelist():
            if ".so" in Path(name).suffixes:
                linked = re.findall(rb"\0(lib(?:arrow|parquet)\w*\.so\.\d+)(?=\0)", archive.read(name))
                missing = {library.decode() for library in linked} - names
                assert not missing, f"{name} links {missing}"


def test_it_fits_lambda_and_a_direct_upload(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    assert unpacked < build_package.UNPACKED_LIMIT_BYTES
    assert package.stat().st_size < DIRECT_UPLOAD_LIMIT_BYTES


def test_it_imports_on_its_own(tmp_path: Path) -> None:
    output = tmp_path / "firebolt-cdc.zip"
    build_package.build(LOCAL, output, CACHE)
    with zipfile.ZipFile(output) as archive:
        archive.extractall(tmp_path / "unpacked")
    script = f"""
import sys
sys.path = [path for path in sys.path if "site-packages" not in path]
sys.path.insert(0, {str(tmp_path / "unpacked")!r})
import aws_lambda_powertools, firebolt.db, pydantic
import pyarrow, pyarrow.compute, pyarrow.dataset, pyarrow.fs, pyarrow.parquet
import io
table = pyarrow.table({{"k": [1, 2], "t": ["a", None]}})
sink = io.BytesIO()
pyarrow.parquet.write_table(table, sink)
# Without threads: the pool can abort a process that exits right after a read (apache/arrow#50482).
assert pyarrow.parquet.ParquetFile(io.BytesIO(sink.getvalue())).read(use_threads=False).equals(table)
assert pyarrow.__file__.startswith({str(tmp_path)!r}), pyarrow.__file__
"""
    subprocess.run([sys.executable, "-I", "-c", script], check=True)


def test_a_changed_wheel_is_refused(tmp_path: Path) -> None:
    wheels = build_package.fetch_wheels(LOCAL, CACHE)
    folder = tmp_path / wheels[0].parent.name
    shutil.copytree(wheels[0].parent, folder)
    with (folder / wheels[0].name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(build_package.PackageError, match="is not the file that"):
        build_package.fetch_wheels(LOCAL, tmp_path)


def test_pins_do_not_depend_on_the_machine_that_builds() -> None:
    """pip judges environment markers by the Python that runs it, not by the one that it downloads for."""
    pins = build_package.REQUIREMENTS.read_text()
    assert not re.search(r"python_version|python_full_version|sys_platform|platform_machine", pins)
