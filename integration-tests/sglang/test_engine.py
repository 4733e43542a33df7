# SPDX-License-Identifier: Apache-2.0
"""The real engine on a CPU with its KV in a real node: hits in a fresh process, and nothing but misses when it must be.

One engine fills the cluster and ends; the others are fresh processes. The tests of this file run in their order: the
last ones harm the node and its data.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memkv_rig.cluster import Cluster, wait_until
from sglang_rig.checkpoint import prompt, write_checkpoint
from sglang_rig.engine import EngineFailed, EngineProcess, Generation, engine_arguments

from memkv_core.authority import Authority
from memkv_core.limits import ESTIMATE_GETS_MIN

TOKENS = 512
HIT_TOKENS = 480  # sglang never fetches the last page of a prompt: 496 of 512 at most
PROMPTS = 6
TIMEOUT_MS = 4000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def first(module_cluster: Cluster, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[int, Any]]:
    """An engine that meets an empty cluster: (its log, the generation of each prompt, all computed)."""
    engine = EngineProcess(
        engine_arguments(model, {}), module_cluster.env, tmp_path_factory.mktemp("first") / "engine.log"
    )
    try:
        cold = {number: engine.generate(prompt(number, TOKENS)) for number in range(PROMPTS)}
        engine.flush()  # waits for the backups
        return engine.log(), cold
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def cold(first: Any) -> dict[int, Generation]:
    """What the prompts give without any cache."""
    generations: dict[int, Generation] = first[1]
    return generations


@pytest.fixture(scope="module")
def fresh(
    module_cluster: Cluster, model: Path, cold: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProcess]:
    """A second process of the same engine, its own memory empty."""
    env = {**module_cluster.env, "MEMKV_TIMEOUT_MS": str(TIMEOUT_MS)}
    engine = EngineProcess(engine_arguments(model, {}), env, tmp_path_factory.mktemp("fresh") / "engine.log")
    yield engine
    engine.stop()


def test_the_first_run_computes_everything(cold: dict[int, Generation]) -> None:
    assert [generation.cached_tokens for generation in cold.values()] == [0] * PROMPTS
    outputs = {tuple(generation.output_ids) for generation in cold.values()}
    assert len(outputs) == PROMPTS  # the model answers to its prompt


def test_the_lines_of_a_start_stand_in_the_engines_log_in_their_order(first: Any, module_cluster: Cluster) -> None:
    address = re.escape(module_cluster.nodes[0]["address"])
    expected = [
        r"Creating dynamic storage backend 'memkv' \(memkv_sglang\.backend\.MemKVHiCacheStorage\)",
        r"Creating memkv engine config=PluginConfig (?P<config>\{.*\})",
        r"memkv-client license verified plan=development",
        rf'Server mapped to rail server="{address}"',
        rf'MemKVHiCacheStorage ready \(servers=\["{address}"\], rdma=false, suffix=_\S+_0_1\)',
    ]
    lines = first[0].splitlines()
    places = []
    for pattern in expected:
        found = [place for place, line in enumerate(lines) if re.search(pattern, line)]
        assert len(found) == 1, f"{pattern}: {len(found)} lines"
        places += found
    assert places == sorted(places)
    config = re.search(expected[1], lines[places[1]])
    assert config is not None
    assert json.loads(config["config"])["auth_key"] == "****"
    assert module_cluster.env["MEMKV_AUTH_KEY"] not in first[0]


def test_other_bytes_beneath_the_verification_change_the_output(
    module_cluster: Cluster, model: Path, cold: dict[int, Generation], tmp_path: Path
) -> None:
    """The control for every "same output" here: were wrong bytes given back, it would be seen."""
    extra = {"module_path": "sglang_rig.corrupting", "class_name": "CorruptingStorage"}
    env = {**module_cluster.env, "PYTHONPATH": str(Path(__file__).parent)}
    engine = EngineProcess(engine_arguments(model, extra), env, tmp_path / "engine.log")
    try:
        for number in range(2):
            generation = engine.generate(prompt(number, TOKENS))
            assert generation.from_storage >= HIT_TOKENS
            assert generation.output_ids != cold[number].output_ids
    finally:
        engine.stop()


def test_an_engine_that_computes_faster_than_it_loads_computes(
    module_cluster: Cluster, model: Path, cold: dict[int, Generation], tmp_path: Path
) -> None:
    """What was loaded first showed how fast the node is; whatever is decided, the answers are the same."""
    extra = {"min_saving_ms": 0, "prefill_tokens_per_s": 1e12}
    engine = EngineProcess(engine_arguments(model, extra), module_cluster.env, tmp_path / "engine.log")
    try:
        generations = [engine.generate(prompt(number, TOKENS)) for number in range(PROMPTS)]
    finally:
        engine.stop()
    assert [each.from_storage >= HIT_TOKENS for each in generations[:ESTIMATE_GETS_MIN]] == [True] * ESTIMATE_GETS_MIN
    assert [each.cached_tokens for each in generations[ESTIMATE_GETS_MIN:]] == [0] * (PROMPTS - ESTIMATE_GETS_MIN)
    assert [each.output_ids for each in generations] == [cold[number].output_ids for number in range(PROMPTS)]
    assert "pages are computed again" in engine.log()


def test_another_kv_dtype_meets_nothing(
    module_cluster: Cluster, model: Path, cold: dict[int, Generation], tmp_path: Path
) -> None:
    """bfloat16 pages are as long as the float16 ones that are stored for the same tokens of the same model."""
    engine = EngineProcess(engine_arguments(model, {}, dtype="bfloat16"), module_cluster.env, tmp_path / "engine.log")
    try:
        generation = engine.generate(prompt(0, TOKENS))
        assert generation.cached_tokens == 0
        engine.flush()
        again = engine.generate(prompt(0, TOKENS))
        assert again.from_storage >= HIT_TOKENS  # its own
        assert again.output_ids == generation.output_ids
    finally:
        engine.stop()


def test_a_license_that_is_not_valid_stops_the_start(module_cluster: Cluster, model: Path, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "stranger", name="stranger")
    env = {**module_cluster.env, "MEMKV_LICENSE": stranger.issue("nobody", plan="enterprise", days=1)}
    log = tmp_path / "engine.log"
    with pytest.raises(EngineFailed):
        EngineProcess(engine_arguments(model, {}), env, log)
    failed = [line for line in log.read_text().splitlines() if "Failed to create dynamic storage backend" in line]
    assert len(failed) == 1
    assert "MEMKV_LICENSE" in failed[0]
    assert "MemKVHiCacheStorage ready" not in log.read_text()


def test_a_fresh_process_reads_what_the_first_stored(fresh: EngineProcess, cold: dict[int, Generation]) -> None:
    for number in range(2):
        generation = fresh.generate(prompt(number, TOKENS))
        assert generation.prompt_tokens == TOKENS
        assert generation.from_storage >= HIT_TOKENS
        assert generation.details["storage_backend"] == "MemKVHiCacheStorage"
        assert generation.output_ids == cold[number].output_ids


def test_a_frozen_node_costs_one_deadline_and_is_used_again(
    fresh: EngineProcess, cold: dict[int, Generation], module_cluster: Cluster
) -> None:
    fresh.flush()
    with module_cluster.frozen():
        for number in range(2, 4):
            begun = time.monotonic()
            generation = fresh.generate(prompt(number, TOKENS))
            elapsed_s = time.monotonic() - begun
            assert generation.cached_tokens == 0
            assert generation.output_ids == cold[number].output_ids
            # Two deadlines would be 8 s; computing the prompt takes a fraction of one.
            assert elapsed_s < 2 * TIMEOUT_MS / 1000 - 0.5
    assert wait_until(lambda: "is used again" in fresh.log())
    fresh.flush()
    for number in range(2, 4):
        generation = fresh.generate(prompt(number, TOKENS))
        assert generation.from_storage >= HIT_TOKENS
        assert generation.output_ids == cold[number].output_ids


def test_a_killed_node_loses_nothing(
    fresh: EngineProcess, cold: dict[int, Generation], module_cluster: Cluster
) -> None:
    fresh.flush()
    back = fresh.log().count("is used again")
    module_cluster.kill()
    for number in range(4, 6):
        begun = time.monotonic()
        generation = fresh.generate(prompt(number, TOKENS))
        assert time.monotonic() - begun < 2 * TIMEOUT_MS / 1000 - 0.5
        assert generation.cached_tokens == 0
        assert generation.output_ids == cold[number].output_ids
    module_cluster.up()
    assert wait_until(lambda: fresh.log().count("is used again") > back)
    fresh.flush()
    for number in range(4, 6):
        generation = fresh.generate(prompt(number, TOKENS))
        assert generation.from_storage >= HIT_TOKENS
        assert generation.output_ids == cold[number].output_ids


def test_bytes_flipped_on_the_drive_are_a_miss(
    fresh: EngineProcess, cold: dict[int, Generation], module_cluster: Cluster
) -> None:
    fresh.flush()
    assert module_cluster.flip_stored_bytes() > TOKENS
    generation = fresh.generate(prompt(1, TOKENS))
    assert generation.cached_tokens == 0
    assert generation.output_ids == cold[1].output_ids
    fresh.flush()
    again = fresh.generate(prompt(1, TOKENS))
    assert again.from_storage >= HIT_TOKENS  # what was computed has taken the damaged pages' place
    assert again.output_ids == cold[1].output_ids


def test_nothing_of_ours_was_caught_by_surprise(fresh: EngineProcess) -> None:
    """Whatever the node went through, the engine's log holds no stack of ours and no thread of sglang's that died."""
    log = fresh.log()
    assert "memkv_sglang" not in "".join(re.findall(r"Traceback[\s\S]*?(?=\n\[|\Z)", log))
    assert "prefetch transfer failed" not in log
    assert "backup failed" not in log
