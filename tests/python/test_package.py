"""What is in the package: shared objects that any PyTorch from 2.10 on can load; documentation that
runs."""

import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

import gdn

SOURCE = pathlib.Path(__file__).parents[2]
OBJECTS = ["libgdn_torch.so", "libgdn_torch_cuda.so"]


def read(name, command, *options):
    """What a tool of binutils says of a shared object of the package."""
    path = pathlib.Path(gdn.__file__).with_name(name)
    if not path.exists():
        pytest.skip("built without nvcc")
    if shutil.which(command) is None:
        pytest.skip(f"{command} (binutils) is not installed")
    command = [command, *options, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def symbols(name, *options):
    return [line.split()[-1] for line in read(name, "nm", "-D", *options)]


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_uses_the_stable_abi_alone(name):
    """Of PyTorch it needs C functions of the stable interface, of Python and OpenMP nothing."""
    needed = [symbol for symbol in symbols(name, "--undefined-only") if "@" not in symbol]
    others = [
        symbol
        for symbol in needed
        if not re.match(r"(aoti_)?torch_|_ITM_|__gmon_start__$|_ZNSt15__exception_ptr", symbol)
    ]
    assert not others
    assert any(symbol.startswith("torch_") for symbol in needed)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_exports_nothing(name):
    assert symbols(name, "--defined-only") == []


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_needs_no_library_of_cuda(name):
    """The one with kernels for GPUs needs PyTorch's library, by whose name it is refused where
    PyTorch has none, and brings its CUDA runtime."""
    needed = [line.split("[")[1][:-1] for line in read(name, "readelf", "-d") if "NEEDED" in line]
    assert ("libtorch_cuda.so" in needed) == (name == "libgdn_torch_cuda.so")
    assert not [library for library in needed if re.match("libcuda|libnv", library)]
    assert not [line for line in read(name, "readelf", "-d") if "RUNPATH" in line or "RPATH" in line]


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
