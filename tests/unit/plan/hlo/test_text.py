"""HLO text: shapes with their padding, instructions, modules."""

import pytest

from raexla.plan.hlo.text import HloError, parse, parse_instruction, parse_shape


@pytest.mark.parametrize(
    ("text", "bytes_", "padded"),
    [
        ("f32[]", 4, 4),
        ("f32[]{:T(128)}", 4, 512),
        ("f32[24,16,40]{2,1,0:T(8,128)}", 24 * 16 * 40 * 4, 24 * 16 * 128 * 4),
        ("f32[24,16,40]{2,0,1:T(8,128)S(1)}", 24 * 16 * 40 * 4, 16 * 24 * 128 * 4),
        ("f32[24,16,40]{0,1,2:T(8,128)}", 24 * 16 * 40 * 4, 40 * 16 * 128 * 4),  # 24 is minor: it is padded to 128
        ("bf16[3,30]{1,0:T(4,128)(2,1)}", 180, 4 * 128 * 2),
        ("bf16[3,30]{1,0:T(1,128)(2,1)}", 180, 3 * 128 * 2 * 2),  # the second tile pairs a row with an empty one
        ("pred[95]{0:T(512)(128)(4,1)}", 95, 512),
        ("(f32[2,2]{1,0}, (s32[3]{0}, u8[5]))", 16 + 12 + 5, 33),
        ("s4[10]{0:E(4)}", 5, 5),
    ],
)
def test_a_shape_has_its_bytes_and_those_of_its_tiles(text, bytes_, padded):
    shape = parse_shape(text)
    assert (shape.bytes, shape.padded_bytes) == (bytes_, padded)


def test_a_shape_knows_its_parts():
    shape = parse_shape("(bf16[4,96]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/(f32[], u32[2]))")
    assert [str(leaf) for leaf in shape.leaves] == ["bf16[4,96]", "f32[]", "u32[2]"]
    assert shape.elements is not None
    first = shape.elements[0]
    assert (first.layout, first.tiles, first.space) == ((1, 0), ((8, 128), (2, 1)), 1)
    with pytest.raises(HloError, match="no shape"):
        parse_shape("nonsense")


def test_an_instruction_has_operands_attributes_and_metadata():
    line = (
        "  ROOT %fusion.1 = (f32[4,8]{1,0:T(8,128)}, f32[]) fusion(%a.2, /*index=1*/%b), kind=kLoop, "
        "output_to_operand_aliasing={{0}: (0, {})}, calls=%fused.3, "
        'metadata={op_name="scope/mm, \\"x\\"" source_file="/a/b.py" source_line=12}, '
        'backend_config={"used":[{"a":"1"}],"estimated_cycles":"7"}'
    )
    made = parse_instruction(line)
    assert (made.name, made.opcode, made.root, made.operands) == ("fusion.1", "fusion", True, ("a.2", "b"))
    assert made.attribute("kind") == "kLoop"
    assert made.attribute("output_to_operand_aliasing") == "{{0}: (0, {})}"
    assert made.attribute("backend_config") == '{"used":[{"a":"1"}],"estimated_cycles":"7"}'
    assert made.attribute("nothing") is None
    assert made.called() == {"calls": ("fused.3",)}
    assert made.metadata["source_file"] == "/a/b.py"
    assert made.metadata["source_line"] == "12"
    assert made.shape.bytes == 4 * 8 * 4 + 4


def test_a_constant_has_no_operands_whatever_it_says():
    made = parse_instruction('  %c = u8[3]{0} constant("a)%b")')
    assert made.operands == ()
    assert made.arguments == '"a)%b"'


MODULE = """HloModule m, is_scheduled=true, input_output_alias={ {0}: (1, {}, may-alias), {2}: (0, {}, must-alias) }

%inner (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  ROOT %n = f32[2]{0} negate(%x)
}

ENTRY %main (p: f32[2], q: f32[2]) -> f32[2] {
  %q = f32[2]{0} parameter(1)
  %p = f32[2]{0} parameter(0)
  ROOT %f = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
}
"""


def test_a_module_has_computations_an_entry_and_aliases():
    module = parse(MODULE)
    assert list(module.computations) == ["inner", "main"]
    assert module.entry.name == "main"
    assert module.entry.root.name == "f"
    assert {number: p.name for number, p in module.entry.parameters.items()} == {0: "p", 1: "q"}
    assert dict(module.aliases) == {0: 1, 2: 0}


@pytest.mark.parametrize("text", ["func.func @main()", "", MODULE.replace("ENTRY ", ""), "HloModule m\n"])
def test_what_is_no_module_is_refused(text):
    with pytest.raises(HloError):
        parse(text)
