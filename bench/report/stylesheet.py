"""How the page looks, in light and dark, on a desktop and on a phone."""

from __future__ import annotations

from .figure import STAGE_COLOURS, WIDTHS

_DARK = {
    "start": "#8f96a1",
    "open": "#b0b6c0",
    "build": "#d7dbe1",
    "text": "#e09ac6",
    "denoise": "#5ab4f0",
    "decode": "#35c79b",
    "encode": "#f5a83d",
}


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{stage}: {colour};" for stage, colour in colours.items())


STYLESHEET = (
    f"""
:root {{ color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --muted: #5c606b; --line: #d9dbe1; --on: #ffffff;
  --accent: #0069a8; --warn: #fff3d6; --edge: #b07900; --code: #f3f4f6; {_variables(STAGE_COLOURS)} }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e9ed; --paper: #16171b; --muted: #a3a8b4; --line: #34373f; --on: #111216;
    --accent: #5ab4f0; --warn: #332a12; --edge: #d9a13a; --code: #22242a; {_variables(_DARK)} }}
}}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
"""
    + f"main {{ max-width: {WIDTHS[0] + 32}px; margin: 0 auto; padding: 24px 16px 56px; }}\n"
    + """h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.4rem 0 .6rem; }
p { margin: 0 0 .7rem; max-width: 76ch; }
.headline { font-size: 1.12rem; max-width: 68ch; }
.muted, figcaption, small, caption { color: var(--muted); }
.muted, figcaption { font-size: .875rem; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); padding: .5rem .75rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.4rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.35; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .5rem .65rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .65rem; border-top: 1px solid var(--line); }
thead th { vertical-align: bottom; font-weight: 600; color: var(--muted); font-size: .8rem; }
tbody th { font-weight: 600; min-width: 12rem; max-width: 20rem; overflow-wrap: anywhere; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
td { min-width: 5.3rem; max-width: 22rem; }
.numbers:not(.words-last) td { min-width: 3.4rem; }
.words-last td:last-child, .words-last thead th:last-child { text-align: left; min-width: 10rem; }
.words td, .words tbody th { min-width: 4rem; overflow-wrap: anywhere; }
.words tbody th { min-width: 8rem; }
th small, td small { display: block; font-weight: 400; font-size: .78rem; }
figure { margin: 0 0 1rem; }
figcaption { margin-top: .5rem; }
figcaption p { margin: 0 0 .25rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
svg text:not([style*="--on"]) { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
"""
    + f".narrow {{ display: none; max-width: {WIDTHS[1] + 180}px; }}\n"
    + """.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .875rem; margin: 0 0 .6rem; }
.entry { display: inline-flex; align-items: center; gap: .4rem; }
.swatch { width: .8rem; height: .8rem; border-radius: 2px; }
.names { font-size: .875rem; margin: .5rem 0; padding-left: 2rem; }
ul { padding-left: 1.2rem; margin: 0 0 .7rem; max-width: 76ch; }
pre { background: var(--code); padding: .75rem; border-radius: 6px; overflow-x: auto; overflow-wrap: normal; font-size: .875rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 720px) { .wide { display: none; } .narrow { display: block; } main { padding: 16px 16px 40px; }
  h1 { font-size: 1.35rem; } }
@media print { .scroll { overflow: visible; } }
"""
    + "".join(f".{stage}.swatch {{ background: var(--{stage}); }}\n" for stage in STAGE_COLOURS)
)
