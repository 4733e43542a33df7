# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

import memkv_nixl.links
from memkv_core.errors import ConfigError
from memkv_nixl._compat import NixlBuild
from memkv_nixl.links import install, place_of, uninstall
from memkv_nixl.mirror import mirror


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for the plugin."""
    path = tmp_path / "wheel/libplugin_MEMKV.so"
    path.parent.mkdir()
    path.write_bytes(b"ours")
    monkeypatch.setattr(memkv_nixl.links, "PLUGIN", path)
    return path


@pytest.fixture
def build(tmp_path: Path, plugin: Path) -> NixlBuild:
    """A NIXL as its wheel lays it out."""
    libraries = tmp_path / "site/.nixl_cu12.mesonpy.libs"
    (libraries / "plugins").mkdir(parents=True)
    (libraries / "libnixl.so").write_bytes(b"nixl")
    for name in ("OBJ", "UCX"):
        (libraries / f"plugins/libplugin_{name}.so").write_bytes(name.encode())
    (tmp_path / "site/nixl_cu12.libs").mkdir()
    return NixlBuild("nixl_cu12", "1.5.1", libraries)


def states(plugins: Path) -> list[tuple[str, bool]]:
    return [(place.state, place.kept) for place in (place_of(plugins, "MEMKV"), place_of(plugins, "OBJ"))]


def test_install_and_uninstall(build: NixlBuild) -> None:
    assert states(build.plugins) == [("absent", False), ("theirs", False)]
    for _ in range(2):
        install(build.plugins)
        assert states(build.plugins) == [("ours", False), ("theirs", False)]
    assert (build.plugins / "libplugin_MEMKV.so").read_bytes() == b"ours"
    for _ in range(2):
        uninstall(build.plugins)
        assert states(build.plugins) == [("absent", False), ("theirs", False)]


def test_an_alias_stands_in_and_goes(build: NixlBuild) -> None:
    for _ in range(2):
        install(build.plugins, ("obj",))
        assert states(build.plugins) == [("ours", False), ("ours", True)]
    assert (build.plugins / "libplugin_OBJ.so").read_bytes() == b"ours"
    assert [path.name for path in sorted(build.plugins.glob("*.so"))] == [
        "libplugin_MEMKV.so",
        "libplugin_OBJ.so",
        "libplugin_UCX.so",
    ]
    uninstall(build.plugins)
    assert states(build.plugins) == [("absent", False), ("theirs", False)]
    assert (build.plugins / "libplugin_OBJ.so").read_bytes() == b"OBJ"


def test_an_unknown_alias_is_refused(build: NixlBuild) -> None:
    with pytest.raises(ConfigError, match="accepted: OBJ"):
        install(build.plugins, ("UCX",))


def test_a_link_to_another_wheel_is_replaced(build: NixlBuild, tmp_path: Path) -> None:
    (build.plugins / "libplugin_MEMKV.so").symlink_to(tmp_path / "gone/libplugin_MEMKV.so")
    assert place_of(build.plugins, "MEMKV").state == "stale"
    install(build.plugins)
    assert place_of(build.plugins, "MEMKV").state == "ours"


def test_a_folder_that_is_not_there(tmp_path: Path, plugin: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        install(tmp_path / "none")


def test_without_the_plugin(build: NixlBuild, plugin: Path) -> None:
    plugin.unlink()
    with pytest.raises(ConfigError, match="is not there"):
        install(build.plugins)


def test_mirror_keeps_what_a_plugin_finds_beside_it(build: NixlBuild, tmp_path: Path) -> None:
    for _ in range(2):
        plugins = mirror(build, ("OBJ",), cache=tmp_path / "cache")
        assert (plugins / "libplugin_UCX.so").read_bytes() == b"UCX"
        assert (plugins / "libplugin_MEMKV.so").read_bytes() == b"ours"
        assert (plugins / "libplugin_OBJ.so").read_bytes() == b"ours"
        assert (plugins / "../libnixl.so").read_bytes() == b"nixl"
        assert (plugins / "../../nixl_cu12.libs").is_dir()
        assert len(list((tmp_path / "cache").iterdir())) == 1
    assert (build.plugins / "libplugin_OBJ.so").read_bytes() == b"OBJ"  # the installed one is as it was
