"""Residual blocks in bytes: sums in the epilogue, shortcuts that skip pixels and pad channels."""

from __future__ import annotations

import torch

from tests.cpu.backend_harness import check, compiled, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler
# One activation in a thousand may round to the neighbouring integer.
LOOSE = 5e-3
_U8 = "affine<u8, scale=0.05>"
_U8_SHIFTED = "affine<u8, scale=0.04, zero=100>"
_I8 = "affine<i8, scale=0.09, zero=-20>"
_CONV = "{stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1}"


def _quantize(encoding: str) -> str:
    dtype, _, rest = encoding.removeprefix("affine<").removesuffix(">").partition(", ")
    return f"{{dtype=!{dtype}, {rest}}}"


def _block(name: str, given: str, coded: str, other: str, middle: list[str], to: str, shape: str, *, whole: bool) -> str:
    """A convolution of `given` with `other` added, the nodes in `middle`, and the result as bytes, perhaps as floats too."""
    channels = shape.split(", ")[1]
    weight = f"f32[{channels}, {channels}, 3, 3] affine<i8, axis=0>"
    lines, at = [], "h"
    if other:
        lines.append(f"%s = add %h, %o : f32[{shape}]")
        at = "s"
    for i, op in enumerate(middle):
        lines.append(f"%m{i} = {op.format(at)} : f32[{shape}]")
        at = f"m{i}"
    results = (f"%{at}, %c", f"f32[{shape}], f32[{shape}] {to}") if whole else ("%c", f"f32[{shape}] {to}")
    names = f"%{name}, %{name}_q" if whole else f"%{name}_q"
    body = "\n    ".join(lines)
    return f"""%{name}_w = const @{name}w#int8 : {weight}
  %{name}_b = const @{name}b#seed=3 : f32[{channels}]
  {names} = fused %{given}, %{name}_w, %{name}_b{', %' + other if other else ''} {{kind="epilogue",
      body=graph @body [B in 1..]
      (%x: f32[{shape}] {coded}, %w: {weight}, %b: f32[{channels}]{f', %o: f32[{shape}]' if other else ''})
      -> ({results[1]}) {{
    %h = conv %x, %w, %b {_CONV} : f32[{shape}]
    {body}
    %c = quantize %{at} {_quantize(to)} : f32[{shape}] {to}
    return {results[0]}
  }}}} : {results[1]}"""


def _blocks(channels: int, width: int) -> str:
    """Sums of floats with and without floats as a result, of unsigned and of signed bytes."""
    shape = f"B, {channels}, 5, {width}"
    parts = [
        _block("p", "q", _U8_SHIFTED, "", ["relu %{}"], _U8, shape, whole=True),
        _block("r", "p_q", _U8, "p", ["relu %{}"], _U8, shape, whole=True),
        _block("s", "r_q", _U8, "r", ["hardtanh %{} {{min=-1.5, max=9.0}}", "relu6 %{}"], _U8, shape, whole=False),
        f"%s = decode %s_q : f32[{shape}]",
        _block("t", "s_q", _U8, "s", [], _I8, shape, whole=False),
        f"%t = decode %t_q : f32[{shape}]",
        _block("u", "t_q", _I8, "t", ["relu %{}"], _U8_SHIFTED, shape, whole=True),
        f"%v = decode %u_q : f32[{shape}]",
        _block("w", "u_q", _U8_SHIFTED, "v", ["hardtanh %{} {{min=-0.5, max=5.0}}"], _I8, shape, whole=False),
        f"%z = decode %w_q : f32[{shape}]",
    ]
    lines = "\n  ".join(parts)
    return f"""graph @blocks{channels} [B in 1..] (%x: f32[{shape}]) -> (f32[{shape}], f32[{shape}], f32[{shape}]) {{
  %q = quantize %x {_quantize(_U8_SHIFTED)} : f32[{shape}] {_U8_SHIFTED}
  {lines}
  return %u, %v, %z
}}"""


SHORTCUT = f"""graph @shortcut [B in 1..] (%x: f32[B, 16, 8, 10], %r: f32[B, 5, 4, 6])
    -> (f32[B, 32, 4, 5], f32[B, 9, 7, 8]) {{
  %w = const @w#int8 : f32[32, 16, 3, 3] affine<i8, axis=0>
  %q = quantize %x {_quantize(_U8_SHIFTED)} : f32[B, 16, 8, 10] {_U8_SHIFTED}
  {_block("p", "q", _U8_SHIFTED, "", ["relu %{}"], _U8_SHIFTED, "B, 16, 8, 10", whole=False)}
  %d = decode %p_q : f32[B, 16, 8, 10]
  %e = slice %d {{axis=2, start=0, stop=8, step=2}} : f32[B, 16, 4, 10]
  %f = slice %e {{axis=3, start=1, stop=10, step=2}} : f32[B, 16, 4, 5]
  %g = pad %f {{low=[0, 8, 0, 0], high=[0, 8, 0, 0]}} : f32[B, 32, 4, 5]
  %c = fused %p_q, %w, %g {{kind="epilogue", body=graph @body [B in 1..]
      (%x: f32[B, 16, 8, 10] {_U8_SHIFTED}, %w: f32[32, 16, 3, 3] affine<i8, axis=0>, %g: f32[B, 32, 4, 5])
      -> (f32[B, 32, 4, 5] {_I8}) {{
    %h = conv %x, %w {{stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=1}} : f32[B, 32, 4, 5]
    %s = add %g, %h : f32[B, 32, 4, 5]
    %k = quantize %s {_quantize(_I8)} : f32[B, 32, 4, 5] {_I8}
    return %k
  }}}} : f32[B, 32, 4, 5] {_I8}
  %y = decode %c : f32[B, 32, 4, 5]
  %p = pad %r {{low=[0, 1, 2, 0], high=[0, 3, 1, 2], value=-1.5}} : f32[B, 9, 7, 8]
  return %y, %p
}}"""

NARROW, RAGGED = _blocks(16, 11), _blocks(20, 3)
ALL = (NARROW, RAGGED, SHORTCUT)


@each_isa
def test_residual_blocks_agree_with_the_reference(isa: str | None) -> None:
    torch.manual_seed(8)
    for batch in (1, 2):
        check(compiled(NARROW, isa=isa, among=ALL), [2 * torch.randn(batch, 16, 5, 11)], tolerance=LOOSE)
        check(compiled(RAGGED, isa=isa, among=ALL), [2 * torch.randn(batch, 20, 5, 3)], tolerance=LOOSE)
        inputs = [2 * torch.randn(batch, 16, 8, 10), torch.randn(batch, 5, 4, 6)]
        check(compiled(SHORTCUT, isa=isa, among=ALL), inputs, tolerance=LOOSE)


def test_sums_read_floats_and_bytes_as_they_lie() -> None:
    executable = compiled(NARROW, among=ALL)
    for kinds in ("uint8_t, float", "int8_t, uint8_t", "uint8_t, int8_t"):
        assert f"RequantizeSum<{kinds}>" in executable.source()
    assert kernel_names(executable)[:7] == ["quantize", "copy", *["conv_i8"] * 5]
    assert kernel_names(compiled(SHORTCUT, among=ALL))[:5] == ["quantize", "copy", "conv_i8", "pad", "conv_i8"]
