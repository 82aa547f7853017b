"""Build the Lambda package: one zip, the same bytes on every machine.

The dependencies are the wheels that `requirements/lambda.txt` pins by hash. Their members are copied *as they
are compressed in the wheel*: deflating them again would give other bytes with another version of zlib. The
project's own files (`firebolt_cdc/` and `migrations/`) are stored uncompressed. Names are sorted; times and
modes are fixed. Lambda's limit is 250 MB unpacked ("Lambda quotas", AWS Lambda developer guide).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements" / "lambda.txt"
UNPACKED_LIMIT_BYTES = 250_000_000

# Amazon Linux 2023, which runs Python 3.12 and later, has glibc 2.34: wheels for an older glibc run on it.
GLIBC_MINOR_VERSIONS = range(34, 16, -1)
ARCHITECTURES = {"arm64": "aarch64", "aarch64": "aarch64", "x86_64": "x86_64"}

# What the functions never import. Arrow Flight and Arrow's own S3 client alone are 46 MB: the handler reads
# S3 through boto3 and Firebolt through its SDK. libarrow_substrait stays: pyarrow's core links it.
UNWANTED = re.compile(
    r"""
      (^|/)(tests|_tests|__pycache__)/
    | \.(pyi|pyx|pxd|pxi|h|hpp|c|cc|cpp|cmake)$
    | ^[^/]+\.data/(scripts|headers|data)/
    | \.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED)$
    | ^pyarrow/(include|includes|src)/
    | ^pyarrow/(_flight|_pyarrow_cpp_tests|_s3fs|_gcsfs|_azurefs|_hdfs|_orc|_dataset_orc|_gandiva)\.
    | ^pyarrow/lib(arrow_flight|arrow_python_flight|arrow_s3|arrow_orc|gandiva)\b
    | ^pyarrow/lib\w+\.so(\.\d+\.\d+\.\d+)?$   # copies of lib*.so.NNNN, the name that everything links
    """,
    re.VERBOSE,
)


class PackageError(Exception):
    """The package cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """The Python that will run the package; `python` is "3.13", or None for this very interpreter."""

    python: str | None
    arch: str | None

    @property
    def name(self) -> str:
        if self.python is None:
            return f"local-{sys.implementation.cache_tag}-{sys.platform}"
        return f"cp{self.python.replace('.', '')}-{self.arch}"

    def pip_options(self) -> list[str]:
        if self.python is None:
            return []
        platforms = [f"manylinux_2_{minor}_{self.arch}" for minor in GLIBC_MINOR_VERSIONS]
        platforms.append(f"manylinux2014_{self.arch}")
        return [
            f"--python-version={self.python}",
            "--implementation=cp",
            *(f"--platform={platform}" for platform in platforms),
        ]


@dataclass(frozen=True)
class Member:
    """One file of the package; `data` is the stored or deflated stream, as `method` says."""

    name: str
    method: int
    crc32: int
    size_bytes: int
    data: bytes


def fetch_wheels(target: Target, cache: Path) -> list[Path]:
    """Return the pinned wheels for `target`, downloaded once into `cache`, each checked against its hash."""
    pins = REQUIREMENTS.read_bytes()
    folder = cache / f"{target.name}-{hashlib.sha256(pins).hexdigest()[:12]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix="part-") as part:
            download = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
            download += ["--no-deps", "--require-hashes", "--only-binary=:all:", *target.pip_options()]
            download += ["--dest", part, "--requirement", str(REQUIREMENTS)]
            if subprocess.run(download, check=False).returncode:
                raise PackageError(f"pip could not download the wheels for {target.name} (its reason is above)")
            Path(part).rename(folder)
            Path(part).mkdir()  # TemporaryDirectory wants to remove it
    allowed = set(re.findall(rb"sha256:([0-9a-f]{64})", pins))
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        if hashlib.sha256(wheel.read_bytes()).hexdigest().encode() not in allowed:
            raise PackageError(f"{wheel} is not the file that {REQUIREMENTS.name} pins: remove it, build again")
    return wheels


def wheel_members(wheel: Path) -> Iterable[Member]:
    """Yield the wanted files of `wheel`, their compressed streams untouched."""
    with zipfile.ZipFile(wheel) as archive, wheel.open("rb") as raw:
        for info in archive.infolist():
            if info.is_dir() or UNWANTED.search(info.filename):
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise PackageError(f"{wheel.name}: {info.filename} is compressed by a method unknown to Lambda")
            # The local header may carry other extra fields than the directory: only its own lengths count.
            raw.seek(info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", raw.read(4))
            raw.seek(name_length + extra_length, 1)
            data = raw.read(info.compress_size)
            name = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", info.filename)
            yield Member(name, info.compress_type, info.CRC, info.file_size, data)


def own_members() -> Iterable[Member]:
    """Yield the handler's modules and the migrations, stored."""
    modules = (ROOT / "handler").glob("firebolt_cdc/**/*.py")
    migrations = (ROOT / "migrations").glob("*.sql")
    for path, base in [(p, ROOT / "handler") for p in modules] + [(p, ROOT) for p in migrations]:
        data = path.read_bytes()
        name = path.relative_to(base).as_posix()
        yield Member(name, zipfile.ZIP_STORED, zlib.crc32(data), len(data), data)


def write_zip(members: Iterable[Member], output: Path) -> None:
    """Write `members` as a plain zip: sorted, without time stamps, extra fields or zip64."""
    ordered = sorted(members, key=lambda member: member.name)
    for earlier, later in pairwise(ordered):
        if earlier.name == later.name:
            raise PackageError(f"{later.name} comes from two wheels")
    body, directory = bytearray(), bytearray()
    for member in ordered:
        name = member.name.encode()
        executable = ".so" in Path(member.name).suffixes
        sizes = (len(member.data), member.size_bytes, len(name), 0)
        # flags (bit 11: the name is UTF-8), method, time 00:00, date 1980-01-01, checksum, sizes
        common = struct.pack("<HHHHIIIHH", 0x800, member.method, 0, 0x21, member.crc32, *sizes)
        mode = (0o100755 if executable else 0o100644) << 16
        directory += struct.pack("<IHH", 0x02014B50, 0x0314, 20) + common
        directory += struct.pack("<HHHII", 0, 0, 0, mode, len(body)) + name
        body += struct.pack("<IH", 0x04034B50, 20) + common + name + member.data
    count = len(ordered)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), len(body), 0)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".part")
    partial.write_bytes(body + directory + end)
    partial.replace(output)


def build(target: Target, output: Path, cache: Path) -> str:
    """Write the package for `target` to `output`, its hash beside it, and return the hash (hex).

    Raises PackageError when wheels cannot be had, or the result would be too large for Lambda.
    """
    members = [member for wheel in fetch_wheels(target, cache) for member in wheel_members(wheel)]
    members += own_members()
    unpacked = sum(member.size_bytes for member in members)
    if unpacked > UNPACKED_LIMIT_BYTES:
        raise PackageError(f"{unpacked:,} bytes unpacked: more than Lambda's {UNPACKED_LIMIT_BYTES:,}")
    write_zip(members, output)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    output.with_name(output.name + ".sha256").write_text(f"{digest}  {output.name}\n")
    print(
        f"{output} for {target.name}: {output.stat().st_size / 1e6:.1f} MB, "
        f"{unpacked / 1e6:.1f} MB unpacked, {len(members)} files, sha256 {digest}"
    )
    return digest


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the Lambda package")
    parser.add_argument("--python", default="3.13", help="version of the Lambda runtime, 3.12 or newer")
    parser.add_argument("--arch", default="aarch64", choices=sorted(ARCHITECTURES), help="Lambda architecture")
    parser.add_argument("--local", action="store_true", help="build for the Python that runs this, instead")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "firebolt-cdc.zip")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "wheels")
    args = parser.parse_args()
    target = Target(None, None) if args.local else Target(args.python, ARCHITECTURES[args.arch])
    try:
        build(target, args.output, args.cache)
    except PackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
