"""What `raexla profile` says of a trace: self times, kinds, devices, threads; against what others say of the same."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raexla import cli
from raexla.obs import kinds
from raexla.obs.kinds import kind_of_category, kind_of_fusion, kind_of_name, kind_of_opcode, kind_of_torch
from raexla.obs.profile import STEPS, profile, profile_lines
from raexla.obs.trace import Event, self_times
from raexla.obs.xplane import message, read_xplane
from raexla.recipe import UserError

MS = 10**9  # in picoseconds


def event(start: int, duration: int, name: str = "x") -> Event:
    return Event(name, "k", start, duration)


def test_time_belongs_to_the_innermost_event() -> None:
    loop, body, inner, after = event(0, 100, "loop"), event(10, 40, "body"), event(20, 5, "in"), event(100, 7, "after")
    found = {e.name: own for e, own in self_times([after, inner, loop, body])}
    assert found == {"loop": 60, "body": 35, "in": 5, "after": 7}


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.integers(1, 9), lambda parts: st.lists(parts, min_size=1, max_size=4), max_leaves=12))
def test_self_times_add_up_to_the_outermost_events(tree: Any) -> None:
    """A leaf takes its number; a list takes its members one after another, and one unit for itself."""
    events: list[Event] = []

    def lay(part: Any, start: int) -> int:
        if isinstance(part, int):
            events.append(event(start, part, "leaf"))
            return start + part
        end = start
        for inner in part:
            end = lay(inner, end)
        events.append(event(start, end + 1 - start, "list"))
        return end + 1

    whole = lay(tree, 3) - 3
    found = list(self_times(events))
    assert sum(own for _, own in found) == whole
    assert all(own == (e.duration if e.name == "leaf" else 1) for e, own in found)


# -- XLA's traces, made by hand as its documentation describes them --


def stat(plane: Any, name: str, **value: Any) -> Any:
    """A statistic, and its name in the plane."""
    number = next((entry.key for entry in plane.stat_metadata if entry.value.name == name), None)
    if number is None:
        number = len(plane.stat_metadata) + 1
        plane.stat_metadata.add(key=number).value.name = name
    return message("XStat")(metadata_id=number, **value)


def operation(plane: Any, name: str, display: str = "", stats: tuple[Any, ...] = ()) -> int:
    """Its number in the plane."""
    number = len(plane.event_metadata) + 7
    described = plane.event_metadata.add(key=number).value
    described.name, described.display_name = name, display
    described.stats.extend(stats)
    return number


def tpu(space: Any, number: int, slower: int = 1) -> None:
    """Two steps: a loop of 10 ms around a product of 6 ms, then an all-reduce of 2 ms; times `slower`."""
    plane = space.planes.add(name=f"/device:TPU:{number}")
    kind = {name: stat(plane, "hlo_category", str_value=name) for name in ("convolution fusion", "while", "all-reduce")}
    loop = operation(plane, "%while.1 = (f32[8]{0}) while(...)", stats=(kind["while"],))
    product = operation(plane, "%fusion.3 = f32[8] fusion(...)", "fusion.3", (kind["convolution fusion"],))
    reduce = operation(plane, "%all-reduce.2 = ...", "all-reduce.2", (kind["all-reduce"],))
    module = operation(plane, "jit_step(1)")
    ops = plane.lines.add(name="XLA Ops", timestamp_ns=1000)
    modules = plane.lines.add(name="XLA Modules", timestamp_ns=1000)
    for step in range(2):
        for which, start, duration in ((loop, 0, 10), (product, 2, 6), (reduce, 10, 2)):
            ops.events.add(
                metadata_id=which, offset_ps=(step * 16 + start) * MS * slower, duration_ps=duration * MS * slower
            )
        modules.events.add(metadata_id=module, offset_ps=step * 16 * MS, duration_ps=12 * MS)


def host(space: Any) -> None:
    """A thread that runs an operation, waits inside it, and does something that is none of XLA's."""
    plane = space.planes.add(name="/host:CPU")
    line = plane.lines.add(name="tf_XLAEigen/1", timestamp_ns=1)
    dot, other = operation(plane, "dot.12"), operation(plane, "Rendezvous")
    line.events.add(metadata_id=dot, offset_ps=0, duration_ps=4 * MS).stats.append(stat(plane, "hlo_op", str_value="d"))
    line.events.add(metadata_id=other, offset_ps=MS, duration_ps=MS)
    line.events.add(metadata_id=other, offset_ps=9 * MS, duration_ps=MS)


def written(folder: Path, space: Any, steps: tuple[int, int] | None = (10, 11)) -> Path:
    place = folder / "steps" / "plugins" / "profile" / "today" / "host.xplane.pb"
    place.parent.mkdir(parents=True)
    place.write_bytes(space.SerializeToString())
    if steps:
        (folder / "steps" / STEPS).write_text(json.dumps({"first": steps[0], "last": steps[1]}))
    return place


def test_devices_are_averaged_over_steps_and_their_host_is_left_out(tmp_path: Path) -> None:
    space = message("XSpace")()
    tpu(space, 0)
    tpu(space, 1, slower=2)
    host(space)
    written(tmp_path, space)
    found = profile(tmp_path)
    assert (found.devices, found.steps) == (2, (10, 11))
    assert found.span_milliseconds == pytest.approx(56)  # the slower device's
    rows = {row.name: row for row in found.operations}
    assert {name: row.milliseconds for name, row in rows.items()} == {"fusion.3": 9, "while.1": 6, "all-reduce.2": 3}
    assert {name: row.count for name, row in rows.items()} == {"fusion.3": 1, "while.1": 1, "all-reduce.2": 1}
    assert rows["fusion.3"].share == pytest.approx(0.5)
    assert [row.name for row in found.kinds] == [kinds.PRODUCTS, kinds.CONTROL, kinds.COLLECTIVES]
    assert [row.name for row in found.operations] == ["fusion.3", "while.1", "all-reduce.2"]
    text = "\n".join(profile_lines(found, 2))
    assert "steps 10 to 11, mean of 2 devices: 18.0 ms a step in 3 operations" in text
    assert "busy 64.3% of 28.0 ms a step" in text
    assert "1 more: 3.00 ms a step; --top shows more" in text


def test_without_devices_the_hosts_operations_count(tmp_path: Path) -> None:
    space = message("XSpace")()
    host(space)
    written(tmp_path, space, None)
    found = profile(tmp_path)
    assert (found.devices, found.lanes, found.steps) == (0, 1, None)
    assert [(row.name, row.milliseconds, row.kind) for row in found.operations] == [("dot.12", 4.0, kinds.PRODUCTS)]
    assert "one trace, 1 thread of the host added up: 4.0 ms in 1 operations" in profile_lines(found, 5)[1]


def test_a_fusion_is_what_its_program_says_it_is() -> None:
    """`fusion.3` alone would be elementwise; the trace's own program knows the product in it."""
    space = message("XSpace")()
    host(space)
    plane = space.planes[0]
    plane.event_metadata[0].value.name = "fusion.3"
    (lane,) = read_xplane(space.SerializeToString()).lanes
    assert lane.events[0].kind == kinds.ELEMENTWISE
    program = message("HloProto")()
    inner = program.hlo_module.computations.add(id=5)
    inner.instructions.add(name="p", opcode="parameter")
    inner.instructions.add(name="d", opcode="dot")
    program.hlo_module.computations.add(id=6).instructions.add(name="fusion.3", opcode="fusion", called=[5])
    about = space.planes.add(name="/host:metadata")
    operation(about, "step(1)", stats=(stat(about, "Hlo Proto", bytes_value=program.SerializeToString()),))
    (lane,) = read_xplane(space.SerializeToString()).lanes
    assert lane.events[0].kind == kinds.PRODUCTS


def test_what_a_newer_format_adds_is_passed_over() -> None:
    space = message("XSpace")()
    host(space)
    more = space.SerializeToString() + b"\xaa\x06\x03new"  # field 101, three bytes
    assert read_xplane(more) == read_xplane(space.SerializeToString())


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (kind_of_opcode("custom-call", "__onednn$matmul"), kinds.PRODUCTS),
        (kind_of_opcode("custom-call", "tpu_custom_call"), kinds.KERNELS),
        (kind_of_opcode("reduce-scatter"), kinds.COLLECTIVES),
        (kind_of_opcode("all-gather-start"), kinds.COLLECTIVES),
        (kind_of_opcode("dynamic-update-slice"), kinds.MEMORY),
        (kind_of_opcode("rng-bit-generator"), kinds.ELEMENTWISE),
        (kind_of_fusion(["parameter", "transpose", "copy"]), kinds.MEMORY),
        (kind_of_fusion(["parameter", "multiply", "reduce"]), kinds.REDUCTIONS),
        (kind_of_fusion(["convolution", "add"]), kinds.PRODUCTS),
        (kind_of_category("loop fusion"), kinds.ELEMENTWISE),
        (kind_of_category("custom fusion"), kinds.KERNELS),
        (kind_of_category("data formatting"), kinds.MEMORY),
        (kind_of_category("all-to-all"), kinds.COLLECTIVES),
        (kind_of_name("dot.213"), kinds.PRODUCTS),
        (kind_of_name("multiply_reduce_fusion.10.clone"), kinds.REDUCTIONS),
        (kind_of_name("copy_bitcast_fusion.6"), kinds.MEMORY),
        (kind_of_name("broadcast_add_fusion"), kinds.ELEMENTWISE),
        (kind_of_name("all-reduce.138"), kinds.COLLECTIVES),
        (kind_of_torch("aten::addmm"), kinds.PRODUCTS),
        (kind_of_torch("aten::_scaled_dot_product_flash_attention_for_cpu"), kinds.KERNELS),
        (kind_of_torch("aten::add"), kinds.ELEMENTWISE),
        (kind_of_torch("aten::view"), kinds.MEMORY),
        (kind_of_torch("aten::native_layer_norm"), kinds.REDUCTIONS),
        (kind_of_torch("sm90_xmma_gemm_bf16bf16_bf16f32"), kinds.PRODUCTS),
        (kind_of_torch("ncclDevKernel_AllReduce_Sum_f32_RING_LL"), kinds.COLLECTIVES),
        (kind_of_torch("void at::native::vectorized_elementwise_kernel<4>"), kinds.ELEMENTWISE),
    ],
)
def test_kinds(found: str, kind: str) -> None:
    assert found == kind


# -- PyTorch's traces --


def test_pytorchs_own_sums_are_the_same(tmp_path: Path) -> None:
    x = torch.randn(64, 64, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as traced:
        for _ in range(3):
            (x @ x).softmax(-1).sum().backward()
    traced.export_chrome_trace(str(tmp_path / "process-00000.pt.trace.json.gz"))
    rows = {row.name: row for row in profile(tmp_path).operations}
    wanted = {e.key: e for e in traced.key_averages() if e.key.startswith("aten::")}
    assert {"aten::mm", "aten::_softmax"} <= set(wanted) <= set(rows)
    for name, average in wanted.items():
        assert rows[name].count >= average.count  # one that calls itself is one to PyTorch
        assert rows[name].milliseconds == pytest.approx(average.self_cpu_time_total / 1000, abs=2e-3 * average.count)


def test_kernels_of_a_gpu_are_preferred_to_operators(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 0, "dur": 50},
        {"ph": "X", "cat": "kernel", "name": "sm90_gemm", "pid": 0, "tid": 7, "ts": 1.5, "dur": 30.5},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "pid": 0, "tid": 7, "ts": 40, "dur": 2},
        {"ph": "i", "cat": "kernel", "name": "mark", "pid": 0, "tid": 7, "ts": 1},
    ]
    file = tmp_path / "x.pt.trace.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"traceEvents": rows}).encode()))
    found = profile(file)
    assert found.devices == 1
    assert [(r.name, r.milliseconds) for r in found.operations] == [("sm90_gemm", 0.0305), ("Memcpy HtoD", 0.002)]
    assert [row.name for row in found.kinds] == [kinds.PRODUCTS, kinds.TRANSFERS]


# -- the verb --


def test_the_verb_prints_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = message("XSpace")()
    tpu(space, 0)
    place = written(tmp_path, space)
    assert cli.main(["profile", str(tmp_path), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "fusion.3" in shown
    assert "2 more: 6.00 ms a step" in shown
    assert cli.main(["profile", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [10, 11]
    assert len(found["operations"]) == 3
    assert sum(row["share"] for row in found["kinds"]) == pytest.approx(1)


def test_the_newest_trace_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    space = message("XSpace")()
    tpu(space, 0)
    old, new = written(tmp_path / "a", space), written(tmp_path / "b", space)
    os.utime(old, (1, 1))
    found = profile(tmp_path)
    assert found.path == new
    assert profile_lines(found, 1)[-1] == f"older: {old}"


def test_what_can_not_be_read_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no trace there") as none:
        profile(tmp_path)
    assert "--set train.profile=10-12" in str(none.value)
    assert cli.main(["profile", "gs://bucket/run"]) == 2
    assert "gs://bucket/run" in capsys.readouterr().err
    for name, content, said in (
        ("a.xplane.pb", b"\xff\xff\xff", "can't be read as a trace"),
        ("b.xplane.pb", b"", "holds no operation"),
        ("c.pt.trace.json.gz", b"\x1f\x8bxx", "can't be read as a trace"),
        ("d.pt.trace.json", b"[1]", "can't be read as a trace"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        assert cli.main(["profile", str(file)]) == 2
        found = capsys.readouterr().err
        assert found.startswith(f"error: {file}: ")
        assert said in found
        assert found.count("\n") == 1
