"""What mkdocs makes from the code while it builds: statements of the theory, API pages, formulas, links into the repository.

    <!-- theorems -->     on a page: T1 to T12 as `amvl_theory.theorems` proves them, with their equations
    api/*.md             a page for each public face, from its ``__all__``; nothing is imported for them
    $...$, $$...$$       MathML, which browsers draw without a script
    [text](FILE)         in an included file: FILE is a page here, or stands as plain text
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FACES = {
    "amvl_model": (
        "objectives config results two_pass data data.synthetic models training evaluation diagnostics diagnostics.leakage "
        "diagnostics.causal diagnostics.response diagnostics.reading diagnostics.report studies profiling"
    ).split(),
    "amvl_theory": "gaussian equilibria dynamics dynamics.in_training learnt_prior nonlinear game theorems".split(),
}
"""Packages with a page of their own and, in the order in which they build on each other, their sub-packages."""
INCLUDED = {"RESULTS.md": "findings.md", "REPRODUCING.md": "reproducing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that pages include."""
FIGURES = ("results/leakage_sim/reading.png", "results/pareto/pareto.png")
MARK = "<!-- theorems -->"
_MATH = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"(?P<fence>^```.*?^```\n)|(?P<code>`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the figures and the API pages, and the guide where there is one."""
    from mkdocs.structure.files import File

    for path in FIGURES:
        files.append(File.generated(config, f"figures/{Path(path).name}", abs_src_path=str(ROOT / path)))
    pages = api_pages()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    if files.get_file_from_path("guide.md") and "guide.md" not in config.nav:
        config.nav.insert(2, "guide.md")
    tree = {package: [name for name in pages if name.startswith(f"api/{package}.")] for package in FACES}
    config.nav.append({"API": [{package: [f"api/{package}.md", *pages]} for package, pages in tree.items()]})
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Write the theorems where a page asks for them, and include files with links that lead somewhere on the site."""
    if MARK in markdown:
        from amvl_theory.theorems import prove_all

        markdown = markdown.replace(MARK, "\n\n".join(statement(item) for item in prove_all()))
    here = page.file.src_uri
    for name, target in INCLUDED.items():
        if here == target:
            markdown = markdown.replace(f"<!-- include {name} -->", (ROOT / name).read_text(encoding="utf-8"))
    if here in (*INCLUDED.values(), "guide.md"):
        markdown = on_site(markdown, here)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Typeset the formulas."""
    return _MATH.sub(lambda found: mathml(html.unescape(found["tex"]), block=found["tag"] == "div"), content)


def mathml(tex: str, *, block: bool) -> str:
    """A formula in LaTeX as MathML."""
    from latex2mathml.converter import convert

    return str(convert(tex.strip(), display="block" if block else "inline"))


def statement(theorem: Any) -> str:
    """A proven statement in Markdown: in words with its equations, when it holds, what fails beyond, how it was verified.

    Raises:
        ValueError: if a check failed, or an equation that the words quote was not proven.
    """
    from amvl_theory.theorems.proving.core import latex_of

    if not theorem.verified:
        raise ValueError(f"{theorem.name}: {', '.join(check.name for check in theorem.failed) or 'no check was run'}")
    pieces = re.split(r"\{(\w+)\}", theorem.words)
    unproven = set(pieces[1::2]) - theorem.equations.keys()
    if unproven:
        raise ValueError(f"{theorem.name} quotes {', '.join(sorted(unproven))}, which was not proven")
    words = [f"${latex_of(theorem.equations[p])}$" if i % 2 else formulas(p) for i, p in enumerate(pieces)]
    conditions = [f"- {formulas(item.text)}: ${item.latex}$" for item in theorem.assumptions]
    how = ", ".join(f"{count} {kind}" for kind, count in theorem.how_verified.items())
    parts = [
        f"## {theorem.name} {theorem.title}",
        "".join(words),
        "**Holds when**\n\n" + "\n".join(conditions),
        f"**Fails beyond**: {formulas(theorem.beyond)}.",
        f"Verified by {len(theorem.checks)} checks: {how}.",
    ]
    return "\n\n".join(parts)


def formulas(text: str) -> str:
    """Plain words with Greek names, subscripts and powers as formulas, and nothing that Markdown reads as markup."""
    from amvl_theory.theorems.proving.core import escape_latex

    pieces = re.split(r"(\$[^$]+\$)", escape_latex(text).replace(r"\textasciicircum{}", "^"))
    return "".join(
        piece if i % 2 else html.escape(re.sub(r"\\textbar\{\}", "|", _unescaped(piece)), quote=False)
        for i, piece in enumerate(pieces)
    ).replace("*", r"\*")


def _unescaped(text: str) -> str:
    for tex, plain in ((r"\textless{}", "<"), (r"\textgreater{}", ">"), (r"\textasciitilde{}", "~")):
        text = text.replace(tex, plain)
    return re.sub(r"\\([_&%#${}])", r"\1", text)


def on_site(markdown: str, here: str) -> str:
    """Links to included files lead to their pages; links to other files of the repository become their paths."""

    def link(found: re.Match[str]) -> str:
        file = (ROOT / "docs" / here).parent / found["target"] if here == "guide.md" else ROOT / found["target"]
        path = file.resolve().relative_to(ROOT).as_posix()
        if path in INCLUDED:
            return f"[{found['text']}]({INCLUDED[path]}{found['anchor'] or ''})"
        if path.startswith("docs/"):
            return f"[{found['text']}]({path.removeprefix('docs/')}{found['anchor'] or ''})"
        return found["text"] if found["text"].strip("`") == path else f"{found['text']} (`{path}`)"

    parts, last = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_LINK.sub(link, markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, _LINK.sub(link, markdown[last:])])


def api_pages() -> dict[str, str]:
    """Path of a page to its text: the docstring of a package and the names in its ``__all__``, each documented once."""
    import griffe

    pages, documented = {}, dict[str, str]()
    for package, parts in FACES.items():
        root = griffe.load(package, search_paths=[str(ROOT)])
        for name in (package, *(f"{package}.{part}" for part in parts)):
            module = root if name == package else root[name.removeprefix(f"{package}.")]
            pages[f"api/{name}.md"] = _api_page(name, module, documented)
    return pages


def _api_page(name: str, module: Any, documented: dict[str, str]) -> str:
    public = [str(each) for each in module.exports or ()] or [
        each for each, item in module.members.items() if not each.startswith("_") and not item.is_alias
    ]
    lines = [f"# {name}", "", _docstring(module), ""]
    elsewhere = []
    for each in public:
        item = module.members.get(each)
        if item is None or each == "__version__":
            continue
        target = item.target_path if item.is_alias else item.path
        target = _final(module, item) or target
        if target in documented:
            elsewhere.append(f"- [`{each}`][{target}]")
        else:
            documented[target] = name
            lines += [f"::: {target}", ""]
    if elsewhere:
        lines += ["## Documented elsewhere", "", *elsewhere, ""]
    return "\n".join(lines)


def _final(module: Any, item: Any) -> str:
    return str(item.canonical_path) if not item.is_alias else str(item.final_target.path)


def _docstring(module: Any) -> str:
    return "" if module.docstring is None else str(module.docstring.value)
