"""What is in the package: one shared object that any PyTorch from 2.10 on can load; documentation
that runs."""

import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

import gdn

SOURCE = pathlib.Path(__file__).parents[2]
OBJECT = pathlib.Path(gdn.__file__).with_name("libgdn_torch.so")


def symbols(*options):
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    found = subprocess.run(
        ["nm", "-D", *options, OBJECT], capture_output=True, text=True, check=True
    ).stdout
    return [line.split()[-1] for line in found.splitlines()]


def test_the_object_uses_the_stable_abi_alone():
    """Of PyTorch it needs C functions of the stable interface, of Python and OpenMP nothing."""
    needed = [name for name in symbols("--undefined-only") if "@" not in name]
    others = [
        name
        for name in needed
        if not re.match(r"(aoti_)?torch_|_ITM_|__gmon_start__$|_ZNSt15__exception_ptr", name)
    ]
    assert not others
    assert any(name.startswith("torch_") for name in needed)


def test_the_object_exports_nothing():
    assert symbols("--defined-only") == []


def test_the_source_distribution_is_what_a_wheel_is_built_from(tmp_path, monkeypatch):
    build = pytest.importorskip("scikit_build_core.build")
    monkeypatch.chdir(SOURCE)
    archive = tmp_path / build.build_sdist(str(tmp_path))
    assert archive.stat().st_size < 2**20
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames()}
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders == {"cmake", "docs", "include", "python", "src", "tools"}
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_version_is_that_of_the_library():
    text = (SOURCE / "include/gdn/version.h").read_text()
    assert gdn.__version__ == re.search(r'GDN_VERSION "(.*)"', text)[1]


@pytest.mark.parametrize("name", gdn.__all__)
def test_everything_public_is_documented(name):
    assert getattr(gdn, name).__doc__


BLOCKS = re.findall(r"```python\n(.*?)```", (SOURCE / "docs/python.md").read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_the_documentation_runs(block, monkeypatch):
    monkeypatch.chdir(SOURCE)
    exec(compile(block, "docs/python.md", "exec"), {})
