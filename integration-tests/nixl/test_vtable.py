# SPDX-License-Identifier: Apache-2.0
"""NIXL's interface to plugins is a table of virtual methods, whose order nothing in NIXL protects. Here it is read out
of a plugin that comes with the installed NIXL, and compared with the one that ours is built to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from memkv_nixl import PLUGIN
from memkv_nixl._compat import require_builds

HEADER = Path(__file__).parents[2] / "packages/memkv-nixl/native/plugin/nixl_abi.hpp"
TABLES = {"POSIX": "_ZTV15nixlPosixEngine", "OBJ": "_ZTV13nixlObjEngine"}
POINTER = 8


def our_methods() -> list[str]:
    """The virtual methods of our header, in their order."""
    text = HEADER.read_text()
    table = text[text.index("do not move a line") : text.index("nixlBackendPlugin {")]
    found = re.findall(r"virtual [^;{(]*?(~?\w+)\(", table)
    return ["~", "~", *found[1:]]  # a virtual destructor has two entries


def their_methods(library: Path, table: str) -> list[str]:
    """The names of the functions that a table of virtual methods points to, from its relocations."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        names: dict[int, str] = {}
        where = size = 0
        for section in elf.iter_sections():
            if section["sh_type"] in ("SHT_SYMTAB", "SHT_DYNSYM"):
                for symbol in section.iter_symbols():
                    names.setdefault(symbol["st_value"], symbol.name)
                    if symbol.name == table and symbol["st_size"]:
                        where, size = symbol["st_value"], symbol["st_size"]
        assert where, f"{library} has no {table}"
        targets: dict[int, str] = {}
        dynamic = elf.get_section_by_name(".dynsym")
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_RELA":
                for one in section.iter_relocations():
                    named = dynamic.get_symbol(one["r_info_sym"]).name if one["r_info_sym"] else ""
                    targets[one["r_offset"]] = named or names.get(one["r_addend"], "")
    count = size // POINTER - 2  # before the methods: the offset to the top, and the type
    mangled = [targets.get(where + POINTER * (2 + at), "") for at in range(count)]
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\(.*", "", name).rsplit("::", 1)[-1] for name in plain.splitlines()]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_table_is_the_one_that_the_plugin_is_built_to(name: str) -> None:
    library = require_builds()[0].plugins / f"libplugin_{name}.so"
    theirs = ["~" if method.startswith("~") else method for method in their_methods(library, TABLES[name])]
    assert theirs == our_methods()
    assert len(theirs) == 27


def test_what_the_plugin_shows_and_needs() -> None:
    with PLUGIN.open("rb") as file:
        elf = ELFFile(file)
        shown = {
            symbol.name
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
        }
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    assert shown == {"nixl_plugin_init", "nixl_plugin_fini"}
    assert needed <= {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
