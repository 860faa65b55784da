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
from matplotlib import font_manager
from matplotlib.text import Text

from .files import write_atomic

RATE_HZ = 16000
PLAYER = Path(__file__).parent / "report_template" / "player.html"


def show(figure, path: Path, alt: str, caption: str) -> None:
    """Saves a figure as PNG at `path`; displays it with its alternative text and its finding."""
    from IPython.display import HTML, Image, display

    content, width = png(figure), round(110 * figure.get_figwidth())
    write_atomic(path, content)
    display(Image(content, width=width), metadata={"image/png": {"alt": alt}})
    display(HTML(f'<p class="caption">{html.escape(caption)}</p>'))


def png(figure) -> bytes:
    """A figure as PNG, in fonts that have its letters."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.draw_without_rendering()  # makes the tick labels
        for text in figure.findobj(Text):
            text.set_fontfamily(fonts("".join(sorted(set(text.get_text())))))
        figure.savefig(buffer, format="png", dpi=180, metadata={"Software": None})
    return buffer.getvalue()


@functools.cache
def letters(path: str) -> frozenset[int]:
    """Code points of the letters that a font file has."""
    return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def fonts(text: str) -> list[str]:
    """DejaVu Sans, and the first installed font with the letters that it lacks, or a warning."""
    lacking = {ord(letter) for letter in text if letter.isprintable()}
    lacking -= letters(font_manager.findfont("DejaVu Sans"))
    for font in font_manager.fontManager.ttflist if lacking else ():
        if not font.name.startswith("Last Resort") and lacking <= letters(font.fname):
            return ["DejaVu Sans", font.name]
    if lacking:
        boxes = "".join(map(chr, sorted(lacking)))
        warnings.warn(f"no installed font has {boxes!r}: figures show boxes", stacklevel=2)
    return ["DejaVu Sans"]


def sound(samples: np.ndarray, name: str = "") -> str:
    """A player of (samples,) int16, in HTML; the samples are in it, as FLAC."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples), RATE_HZ, format="FLAC", subtype="PCM_16")
    address = f"data:audio/flac;base64,{b64encode(buffer.getvalue()).decode()}"
    return f'<audio controls preload="none" title="{html.escape(name)}" src="{address}"></audio>'


def clips(recordings, captions):
    """Players side by side. recordings: (clips, samples) int16."""
    from IPython.display import HTML

    players = "".join(
        f'<figure class="clip">{sound(samples, caption)}'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for samples, caption in zip(recordings, captions, strict=True)
    )
    return HTML(f'<div class="clips">{players}</div>')


def player(samples: np.ndarray, figure, alt: str):
    """A player for a recording whose figure was shown with this alternative text: a cursor runs
    over the figure while it plays, and a click on the figure jumps there."""
    from IPython.display import HTML

    place = figure.axes[0].get_position()
    values = {"sound": sound(samples, alt), "length_s": len(samples) / RATE_HZ}
    values |= {"left": place.x0, "width": place.width}
    values["alt"] = json.dumps(alt).replace("<", "\\u003c")  # a name cannot end the script
    return HTML(Template(PLAYER.read_text(encoding="utf-8")).substitute(values))


def span(estimate, form: str = "{:.2f}") -> str:
    """A value and its 95 % interval, '0.56 (0.26 to 0.87)', or what of them can be stated."""
    stated = [form.format(x) for x in estimate if x is not None and np.isfinite(x)]
    if len(stated) == 3:
        return "{} ({} to {})".format(*stated)
    return stated[0] if stated else "cannot be stated"


def percent(share) -> str:
    """A share, or an estimate of one, in percent: '7.2 %', '7.2 % (5.0 % to 9.9 %)'."""
    estimate = share if isinstance(share, list | tuple) else (share,)
    return span([None if x is None else 100 * x for x in estimate], "{:.1f} %")


def plain(name: str) -> str:
    """A name as text of Markdown or HTML: nothing in it is markup."""
    return re.sub(r"[^\w ,.-]|_", lambda letter: f"&#{ord(letter[0])};", name)


def table(frame, heads: dict):
    """A table in Markdown. heads: column -> (heading, format), in the order to be shown."""
    from IPython.display import Markdown

    names, forms = zip(*heads.values(), strict=True)
    rows = [[frame.index.name or "", *names], ["---", *["--:"] * len(heads)]]
    for name, values in zip(frame.index, frame[list(heads)].itertuples(index=False), strict=True):
        pairs = zip(forms, values, strict=True)
        cells = ["–" if value != value else form.format(value) for form, value in pairs]  # NaN
        rows.append([plain(str(name)), *cells])
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
