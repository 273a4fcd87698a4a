"""Rendered text: words and sentences in many fonts, sizes, colours, rotations, on many backgrounds.

The kind of picture that a decoder must have seen to draw legible text (paper 000, sec. 2 and Table 1, RenderedText).
A sample is a pure function of (seed, index) and of what its folder's `text.json` records: fonts, lines, sizes.
`phrases` says what stands in a picture, `fonts` which fonts can draw it, `backgrounds` what lies behind, `blocks` and
`render` how it looks, `write` makes shards of it.
"""

from raexla.data.text.fonts import Face, FontFile, Fonts, find_fonts
from raexla.data.text.render import TextSample, render_text
from raexla.data.text.write import TextRecipe, write_text

__all__ = ["Face", "FontFile", "Fonts", "TextRecipe", "TextSample", "find_fonts", "render_text", "write_text"]
