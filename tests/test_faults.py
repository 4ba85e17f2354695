"""Random faults: kills, full disks, caches that may only be read, wrong clocks, damaged caches.

Of the normal suite are 40; TRTFORGE_FAULTS=500 draws more of them.
"""

import os
from pathlib import Path

import pytest
from fault_cases import damage, seeded
from fault_process import SUPPORTED
from faults import COMMANDS, Workshop

pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="NOT RUN: faults need Linux on x86_64"),
    pytest.mark.slow,
    pytest.mark.timeout(7200),
]
COUNT = int(os.environ.get("TRTFORGE_FAULTS", "40"))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    made = Workshop(folder)
    (folder / "first").mkdir()
    refused = made.order(folder / "first", ["store"]).get("refused")
    if refused:
        pytest.skip(f"NOT RUN: {refused}")
    yield made
    made.close()


def test_a_write_that_fails_is_noticed_however_small_a_weight_is(workshop, tmp_path):
    """NumPy's ``tofile`` once lost up to 4 KiB of each weight on a full disk, and said nothing."""
    (tmp_path / "tmp").mkdir()
    full = {"kind": "full", "call": "write"}
    ended = workshop.order(tmp_path, ["store"], fault=full)
    assert ended["answer"] == {"code": 0, "out": "", "err": "No space left on device"}


@pytest.mark.parametrize("command", COMMANDS)
def test_after_a_fault_nothing_is_lost_and_nothing_wrong_is_served(workshop, command):
    """Each kind of fault, at a random moment; see :mod:`faults` for what must be true."""
    told = [
        workshop.run(workshop.draw(command, seed)) for seed in range(COMMANDS[command].share(COUNT))
    ]
    missed = [each.case for each in told if not each.reached]
    assert len(missed) <= len(told) // 4, "moments that never came are no test"


def test_a_damaged_cache_leaves_alone_what_its_links_lead_to(tmp_path: Path) -> None:
    """One is the library of TensorRT that is installed here."""
    library = tmp_path / "library.so"
    library.write_bytes(b"whole")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "link.so").symlink_to(library)
    for number in range(20):
        (cache / "entry").write_bytes(b"entry")
        damage(cache, seeded(number))
        assert library.read_bytes() == b"whole"
        assert (cache / "link.so").is_symlink()
