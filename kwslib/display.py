"""What notebooks show: figures with their findings, sound, tables, numbers and names in words."""

import functools
import html
import io
import json
import re
import warnings
from base64 import b64encode
from pathlib import Path
from string import Template

import numpy as np
import soundfile
from IPython.display import HTML, Image, Markdown, display
from matplotlib import font_manager
from matplotlib.artist import setp
from matplotlib.text import Text

from .files import write_atomic

RATE_HZ, PLAYER = 16000, Path(__file__).parent / "report_template" / "player.html"


def show(figure, path: Path, alt: str, caption: str) -> None:
    """Saves a figure as PNG at `path`; displays it with its alternative text and its finding."""
    write_atomic(path, png(figure))
    image = Image(filename=path, width=round(110 * figure.get_figwidth()))
    display(image, metadata={"image/png": {"alt": alt}})
    display(HTML(f'<p class="caption">{html.escape(caption)}</p>'))


def png(figure) -> bytes:
    """A figure as PNG, in fonts that have its letters."""
    buffer, usual = io.BytesIO(), font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of missing glyphs
        figure.draw_without_rendering()  # makes the tick labels
        texts = figure.findobj(Text)
        letters = frozenset(filter(str.isprintable, "".join(map(Text.get_text, texts))))
        lacking = letters.difference(map(chr, usual.get_charmap()))
        setp(texts, fontfamily=["DejaVu Sans", *fonts(lacking)])
        figure.savefig(buffer, format="png", dpi=180, metadata={"Software": None})
    return buffer.getvalue()


@functools.cache
def fonts(letters: frozenset[str]) -> list[str]:
    """Installed fonts that together have these letters; a warning of those that none has."""
    names, lacking = [], set(letters)
    for font in font_manager.fontManager.ttflist if letters else ():
        found = lacking.intersection(map(chr, font_manager.get_font(font.fname).get_charmap()))
        if found and "Last Resort" not in font.name:
            names, lacking = [*names, font.name], lacking - found
    if lacking:
        warnings.warn(f"no installed font has {sorted(lacking)}: boxes shown", RuntimeWarning, 2)
    return names


def clips(recordings, captions):
    """Players side by side; the samples are in them, as FLAC. recordings: (clips, samples) int16"""
    players = ""
    for samples, caption in zip(recordings, map(html.escape, captions), strict=True):
        soundfile.write(flac := io.BytesIO(), samples, RATE_HZ, format="FLAC", subtype="PCM_16")
        address = f"data:audio/flac;base64,{b64encode(flac.getvalue()).decode()}"
        sound = f'<audio controls preload="none" title="{caption}" src="{address}"></audio>'
        players += f'<figure class="clip">{sound}<figcaption>{caption}</figcaption></figure>'
    return HTML(f'<div class="clips">{players}</div>')


def player(samples: np.ndarray, figure, alt: str):
    """A player whose cursor runs over the figure shown with this `alt`; a click there jumps."""
    left, _, width, _ = figure.axes[0].get_position().bounds
    values = {"left": left, "width": width, "length_s": len(samples) / RATE_HZ}
    values["alt"] = json.dumps(alt).replace("<", "\\u003c")  # a name cannot end the script
    values["sound"] = clips([samples], ["the demo"]).data
    return HTML(Template(PLAYER.read_text("utf-8")).substitute(values))


def span(estimate, form: str = "{:.2f}") -> str:
    """A value and its 95 % interval, '0.56 (0.26 to 0.87)', or what of them can be stated."""
    stated = [form.format(x) for x in np.array(estimate, float) if np.isfinite(x)]
    whole = "{} ({} to {})" if len(stated) == 3 else "{}"
    return whole.format(*stated or ["cannot be stated"])


def percent(share) -> str:
    """A share, or an estimate of one, in percent: '7.2 %', '7.2 % (5.0 % to 9.9 %)'."""
    return span(100 * np.array(share, float, ndmin=1), "{:.1f}\u00a0%")


def plain(name: str) -> str:
    """A name as text of Markdown or HTML: nothing in it is markup."""
    return re.sub(r"[^\w ,.-]|_", lambda letter: f"&#{ord(letter[0])};", name)


def table(frame, heads: dict):
    """A table in Markdown. heads: column -> (heading, format), in the order to be shown."""
    names, forms = zip(*heads.values(), strict=True)
    rows = [["", *names], ["---", *["--:"] * len(heads)]]
    for name, *values in frame[list(heads)].itertuples():
        cells = ["–" if x != x else form.format(x) for form, x in zip(forms, values, strict=True)]
        rows.append([plain(str(name)), *cells])  # NaN is unequal to itself
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
