"""XLA's traces (`*.xplane.pb`) -> the operations that each device ran.

The format is that of openxla/xla, `third_party/tsl/tsl/profiler/protobuf/xplane.proto`, and of `HloProto`, in which a
trace carries its programs. Only the fields that are read here are described; protobuf skips the others. Neither
torch_xla nor jax is needed.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from raexla.obs.kinds import kind_of_category, kind_of_fusion, kind_of_name, kind_of_opcode
from raexla.obs.trace import Event, Lane, Trace

_FIELDS = {
    "XSpace": "planes=1:XPlane* hostnames=4:string*",
    "XPlane": "name=2:string lines=3:XLine* event_metadata=4:EventEntry* stat_metadata=5:StatEntry*",
    "EventEntry": "key=1:int64 value=2:XEventMetadata",
    "StatEntry": "key=1:int64 value=2:XStatMetadata",
    "XLine": "name=2:string timestamp_ns=3:int64 events=4:XEvent*",
    "XEvent": "metadata_id=1:int64 offset_ps=2:int64 duration_ps=3:int64 stats=4:XStat*",
    "XEventMetadata": "name=2:string display_name=4:string stats=5:XStat*",
    "XStat": "metadata_id=1:int64 uint64_value=3:uint64 int64_value=4:int64 str_value=5:string bytes_value=6:bytes "
    "ref_value=7:uint64",
    "XStatMetadata": "name=2:string",
    "HloProto": "hlo_module=1:HloModule",
    "HloModule": "name=1:string computations=3:HloComputation*",
    "HloComputation": "id=5:int64 instructions=2:HloInstruction*",
    "HloInstruction": "name=1:string opcode=2:string custom_call_target=28:string called=38:int64*",
}
"""Message -> its fields: name, number, type, a star for repeated ones."""

DEVICES = ("/device:TPU:", "/device:GPU:", "/device:CUSTOM:")
OPERATIONS = "XLA Ops"
"""The line of a TPU's plane on which operations stand, one after another."""
HOST, METADATA = "/host:CPU", "/host:metadata"


@cache
def _messages() -> dict[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    plain = {
        "int64": kinds.TYPE_INT64,
        "uint64": kinds.TYPE_UINT64,
        "string": kinds.TYPE_STRING,
        "bytes": kinds.TYPE_BYTES,
    }
    file = descriptor_pb2.FileDescriptorProto(name="raexla/xplane.proto", package="raexla", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            label, _, rest = field.partition("=")
            number, _, kind = rest.partition(":")
            kind, repeated = kind.rstrip("*"), kind.endswith("*")
            made = message.field.add(name=label, number=int(number))
            made.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made.type = plain.get(kind, kinds.TYPE_MESSAGE)
            if kind not in plain:
                made.type_name = f".raexla.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"raexla.{name}")) for name in _FIELDS}


def message(name: str) -> Any:
    """The protobuf class of a message of `_FIELDS`, for `XSpace` and those in it."""
    return _messages()[name]


def read_xplane(data: bytes) -> Trace:
    """The operations of a trace: those of its devices, or, where it has none, those that XLA ran on the host.

    Raises:
        ValueError: not a trace.
    """
    try:
        space = message("XSpace").FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    kinds: dict[str, str] = {}
    for plane in space.planes:
        if plane.name == METADATA:
            kinds.update(_kinds(plane))
    devices = [plane for plane in space.planes if plane.name.startswith(DEVICES)]
    lanes = [lane for plane in devices for lane in _lanes(plane, kinds)]
    if lanes:
        return Trace(tuple(lanes), devices=len({lane.device for lane in lanes}))
    host = [lane for plane in space.planes if plane.name == HOST for lane in _lanes(plane, kinds, only_operations=True)]
    return Trace(tuple(host), devices=0)


def _lanes(plane: Any, kinds: Mapping[str, str], only_operations: bool = False) -> Iterator[Lane]:
    """The lines on which operations stand: on a TPU one, on a GPU one a stream, on the host one a thread."""
    names = {entry.key: entry.value.name for entry in plane.stat_metadata}
    described = {entry.key: entry.value for entry in plane.event_metadata}
    found = {key: _named(value, names, kinds) for key, value in described.items()}
    tpu = any(line.name == OPERATIONS for line in plane.lines)
    operation = next((key for key, name in names.items() if name == "hlo_op"), None)
    for line in plane.lines:
        if tpu and line.name != OPERATIONS:
            continue  # modules, steps and scopes hold the same time again
        events = tuple(
            Event(*found[event.metadata_id], line.timestamp_ns * 1000 + event.offset_ps, event.duration_ps)
            for event in line.events
            if event.duration_ps and (not only_operations or any(s.metadata_id == operation for s in event.stats))
        )
        if events:
            yield Lane(plane.name, line.name, events)


def _named(described: Any, names: Mapping[int, str], kinds: Mapping[str, str]) -> tuple[str, str]:
    """An operation's name and kind; a TPU's name is the whole instruction, `%fusion.3 = f32[8]{0} fusion(...)`."""
    name = (described.display_name or described.name.split(" = ")[0]).lstrip("%")
    if name in kinds:
        return name, kinds[name]
    for stat in described.stats:
        if names.get(stat.metadata_id) == "hlo_category":
            return name, kind_of_category(stat.str_value or names.get(stat.ref_value, ""))
    return name, kind_of_name(name)


def _kinds(plane: Any) -> Iterator[tuple[str, str]]:
    """Kinds of the instructions of the programs that a trace carries; a later program's win where names are equal."""
    for entry in plane.event_metadata:
        for stat in entry.value.stats:
            if not stat.bytes_value:
                continue
            try:
                module = message("HloProto").FromString(stat.bytes_value).hlo_module
            except DecodeError:
                continue  # another kind of value
            inside = {c.id: [i.opcode for i in c.instructions] for c in module.computations}
            for computation in module.computations:
                for instruction in computation.instructions:
                    if instruction.opcode == "fusion":
                        called = (opcode for number in instruction.called for opcode in inside.get(number, ()))
                        yield instruction.name, kind_of_fusion(called)
                    else:
                        yield instruction.name, kind_of_opcode(instruction.opcode, instruction.custom_call_target)
