"""A small colour font with bitmaps and ligatures, as Noto Color Emoji is made, and a list of its emoji."""

import io

from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

LINE_METRICS = (
    *("ascender", "descender", "widthMax", "caretSlopeNumerator", "caretSlopeDenominator", "caretOffset"),
    *("minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2"),
)


def png(colour, width=20, height=16, ground=(0, 0, 0, 0)):
    """A disc-like square of a colour on a transparent ground, as PNG."""
    picture = Image.new("RGBA", (width, height), ground)
    picture.paste(colour, (width // 4, height // 4, width - width // 4, height - height // 4))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def bitmap_font(file, bitmaps, version="Version 1.0"):
    """Writes a font.

    Args:
        bitmaps: PNGs by code points, of which several are drawn as a ligature.
    """
    codes = sorted({code for own in bitmaps for code in own})
    names = {code: f"u{code:X}" for code in codes}
    ligatures = {own: "_".join(names[code] for code in own) for own in bitmaps if len(own) > 1}
    builder = FontBuilder(1024, isTTF=True)
    glyphs = [".notdef", *names.values(), *ligatures.values()]
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({code: name for code, name in names.items()})
    builder.setupGlyf({name: Glyph() for name in glyphs})
    builder.setupHorizontalMetrics({name: (1024, 0) for name in glyphs})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Tiny", "styleName": "Regular", "version": version})
    builder.setupOS2()
    builder.setupPost()
    if ligatures:
        rules = [f"sub {' '.join(names[c] for c in own)} by {name};" for own, name in ligatures.items()]
        addOpenTypeFeaturesFromString(builder.font, f"feature ccmp {{ {' '.join(rules)} }} ccmp;")
    pictures = {ligatures.get(own) or names[own[0]]: image for own, image in bitmaps.items()}
    _add_bitmaps(builder.font, {name: pictures[name] for name in glyphs if name in pictures})
    file.parent.mkdir(parents=True, exist_ok=True)
    builder.save(file)
    return file


def _add_bitmaps(font, pictures):
    strike, index = Strike(), eblc_index_sub_table_1(None, font)
    index.indexFormat, index.imageFormat = 1, 17
    index.names = list(pictures)
    index.firstGlyphIndex, index.lastGlyphIndex = (font.getGlyphID(index.names[i]) for i in (0, -1))
    size = strike.bitmapSizeTable = BitmapSizeTable()
    size.colorRef = size.flags = 0
    size.startGlyphIndex, size.endGlyphIndex = index.firstGlyphIndex, index.lastGlyphIndex
    size.ppemX = size.ppemY = 16
    size.bitDepth = 32
    size.hori, size.vert = SbitLineMetrics(), SbitLineMetrics()
    for metrics in (size.hori, size.vert):
        for name in LINE_METRICS:
            setattr(metrics, name, 0)
    strike.indexSubTables = [index]
    bitmaps = {}
    for name, image in pictures.items():
        bitmaps[name] = cbdt_bitmap_format_17(None, font)
        bitmaps[name].imageData = image
        metrics = bitmaps[name].metrics = SmallGlyphMetrics()
        metrics.height, metrics.width, metrics.BearingX, metrics.BearingY, metrics.Advance = 16, 20, 0, 14, 20
    location, data = newTable("CBLC"), newTable("CBDT")
    location.version = data.version = 3.0
    location.strikes, data.strikeData = [strike], [bitmaps]
    font["CBLC"], font["CBDT"] = location, data


def emoji_list(file, groups):
    """Writes a list as Unicode's emoji-test.txt: names of groups with {code points: name}."""
    lines = ["# emoji-test.txt"]
    for group, emoji in groups.items():
        lines += ["", f"# group: {group}", "", "# subgroup: all"]
        for codes, name in emoji.items():
            text = "".join(map(chr, codes))
            status = "component" if group == "Component" else "fully-qualified"
            lines.append(
                f"{' '.join(f'{code:04X}' for code in codes):<55}; {status:<19} # {text} E1.0 {name}"
            )
            if 0xFE0F in codes:
                bare = " ".join(f"{code:04X}" for code in codes if code != 0xFE0F)
                lines.append(f"{bare:<55}; unqualified         # {text} E1.0 {name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*lines, "#EOF"]), encoding="utf-8")
    return file
