"""What the test kit has without an underscore is what the reference lists, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import ServerFactory

import txgearman.testing
from txgearman import packets
from txgearman.testing import FaultProxy, JobServerMixin, MemoryAddress, MemoryJobServer

from .peer import SUBMIT, ask, connect

reactor: Any = global_reactor

REFERENCE: Final = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def documented_members(name: str) -> set[str]:
    """Return the members that the reference lists by hand, and the attributes in the docstring of the class."""
    entry = re.search(rf"^\.\. autoclass:: txgearman\.testing\.{name}\b.*\n((?: .*\n)*)", REFERENCE, re.MULTILINE)
    assert entry, name
    listed = re.search(r":members: ([\w,\s]*)", entry[1])
    attributes = re.findall(r"^ *:ivar (\w+):", getattr(txgearman.testing, name).__doc__, re.MULTILINE)
    return {*(re.split(r",\s*", listed[1].strip()) if listed else ()), *attributes}


def public_members(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


async def test_public_members_are_documented() -> None:
    server = MemoryJobServer()
    ask(server, connect(server), SUBMIT)
    fault, held, job = server.refuse_connections(), server.hold_answers(), server.take("reverse")
    proxy = FaultProxy("127.0.0.1:4730", reactor)
    await proxy.close(verify=False)

    assert public_members(server) - public_members(ServerFactory()) == documented_members("MemoryJobServer")
    assert public_members(job) == documented_members("TakenJob")
    assert public_members(fault) == documented_members("Fault")
    assert public_members(held) - public_members(fault) == documented_members("HeldAnswers")
    assert public_members(proxy) == documented_members("FaultProxy")
    assert public_members(JobServerMixin) - {"run"} == documented_members("JobServerMixin")
    assert public_members(server.endpoint()) == documented_members("MemoryEndpoint")
    assert public_members(MemoryAddress("client")) == documented_members("MemoryAddress")


def test_exported_names_are_documented() -> None:
    listed = re.findall(r"(?:autoclass::|py:data::) txgearman\.testing\.(\w+)", REFERENCE)
    assert set(listed) == set(txgearman.testing.__all__)


def test_exported_packet_types_are_all_there_are() -> None:
    names = {packet_type.name for packet_type in packets.PACKET_TYPES.values()}
    assert set(packets.__all__) == {"PacketType", *names}
    assert all(getattr(packets, name).name == name for name in names)


def test_exported_packet_types_are_documented() -> None:
    assert set(re.findall(r"txgearman\.packets\.(\w+)", REFERENCE)) == set(packets.__all__)
