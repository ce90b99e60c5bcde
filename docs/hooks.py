"""What mkdocs makes from the code while it builds: statements of the theory, API pages, formulas, links into the repository.

<!-- theorems -->        T1 to T12 as `amvl_theory.theorems` proves them, with their equations
<!-- include FILE -->    a file of the repository; links in it to included files lead to their pages
![...](../results/...)   an image of the repository, copied into the site
$...$, $$...$$           MathML, which browsers draw without a script
api/*.md                 a page for each public face, from its ``__all__``; the packages are read, not imported
"""

from __future__ import annotations

import html
import os.path
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FACES = {
    "amvl_model": (
        "objectives config results two_pass data data.synthetic models training evaluation diagnostics diagnostics.leakage "
        "diagnostics.causal diagnostics.response diagnostics.reading diagnostics.peers diagnostics.report studies profiling"
    ).split(),
    "amvl_theory": "gaussian equilibria dynamics dynamics.in_training learnt_prior nonlinear game theorems".split(),
}
"""Packages and, in the order in which they build on each other, the sub-packages that have a page."""
INCLUDED = {"RESULTS.md": "findings.md", "REPRODUCING.md": "reproducing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository to the pages that include them."""
_THEOREMS = "<!-- theorems -->"
_INCLUDE = re.compile(r"<!-- include (\S+) -->")
_MATH = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_LINK = re.compile(
    r"^```.*?^```$|^    [^\n]*$|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)
"""A link or an image, or code, which is left as it is."""


def on_files(files: Any, config: Any) -> Any:
    """Add images and API pages to the site."""
    from mkdocs.structure.files import File

    pages = [file for file in files if file.is_documentation_page()]
    for image in sorted({image for page in pages for image in images(page.src_uri)}):
        files.append(File.generated(config, image, abs_src_path=str(ROOT / image)))
    reference = api_pages()
    for name, text in reference.items():
        files.append(File.generated(config, name, content=text))
    config.nav.append({"API": [{p: [name for name in reference if name.split(".")[0] == f"api/{p}"]} for p in FACES]})
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page, with what is made from the code."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    if _THEOREMS in markdown:
        from amvl_theory.theorems import prove_all

        markdown = markdown.replace(_THEOREMS, "\n\n".join(map(statement, prove_all())))
    return site_links(*included(page.file.src_uri, markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Typeset the formulas."""
    return _MATH.sub(lambda found: mathml(html.unescape(found["tex"]), block=found["tag"] == "div"), content)


def mathml(tex: str, *, block: bool) -> str:
    """A formula in LaTeX as MathML."""
    from latex2mathml.converter import convert

    return str(convert(tex.strip(), display="block" if block else "inline"))


def included(page: str, markdown: str) -> tuple[str, str, str]:
    """(text, page, folder from which its links count) of a page: its own text, or that of the file that it includes."""
    found = _INCLUDE.fullmatch(markdown.strip())
    if found is None:
        return markdown, page, str(Path("docs", page).parent)
    return (ROOT / found[1]).read_text(encoding="utf-8"), page, str(Path(found[1]).parent)


def images(page: str) -> list[str]:
    """The images of the repository on a page, relative to the repository."""
    text, _, folder = included(page, (ROOT / "docs" / page).read_text(encoding="utf-8"))
    paths = [os.path.normpath(f"{folder}/{found['target']}") for found in _LINK.finditer(text) if found["image"]]
    return [path for path in paths if not path.startswith("docs/")]


def site_links(markdown: str, page: str, folder: str) -> str:
    """Links and images as the site has them; a link to a file without a page becomes the file's path.

    Raises:
        FileNotFoundError: for a link to a file of the repository that does not exist.
    """
    here = Path(page).parent

    def link(found: re.Match[str]) -> str:
        if found["target"] is None:
            return found[0]
        path = os.path.normpath(f"{folder}/{found['target']}")
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page}: a link to {path}, which does not exist; correct {found[0]}")
        if found["image"]:
            return f"![{found['text']}]({os.path.relpath(path, here)})"
        if path in INCLUDED or (path.startswith("docs/") and path.endswith(".md")):
            target = INCLUDED.get(path, path.removeprefix("docs/"))
            return f"[{found['text']}]({os.path.relpath(target, here)}{found['anchor'] or ''})"
        return found["text"] if found["text"].strip("`") == path else f"{found['text']} (`{path}`)"

    return _LINK.sub(link, markdown)


def statement(theorem: Any) -> str:
    """A proven statement in Markdown: in words with its equations, when it holds, what fails beyond, how it was verified.

    Raises:
        ValueError: if a check failed, or an equation that the words quote was not proven.
    """
    from amvl_theory.theorems.proving.core import latex_of

    if not theorem.verified:
        raise ValueError(f"{theorem.name}: {', '.join(check.name for check in theorem.failed) or 'no check was run'}")
    pieces = re.split(r"\{(\w+)\}", theorem.words)
    if unproven := set(pieces[1::2]) - theorem.equations.keys():
        raise ValueError(f"{theorem.name} quotes {', '.join(sorted(unproven))}, which was not proven")
    words = [f"${latex_of(theorem.equations[piece])}$" if i % 2 else formulas(piece) for i, piece in enumerate(pieces)]
    conditions = "\n".join(f"- {formulas(item.text)}: ${item.latex}$" for item in theorem.assumptions)
    how = ", ".join(f"{count} {kind}" for kind, count in theorem.how_verified.items())
    return (
        f"## {theorem.name} {theorem.title}\n\n{''.join(words)}\n\n**Holds when**\n\n{conditions}\n\n"
        f"**Fails beyond**: {formulas(theorem.beyond)}.\n\nVerified by {len(theorem.checks)} checks: {how}."
    )


def formulas(text: str) -> str:
    """Words of a statement with Greek names, subscripts and powers as formulas, as the LaTeX document has them."""
    from amvl_theory.theorems.proving.core import escape_latex

    pieces = re.split(r"(\$[^$]+\$)", escape_latex(text))
    return "".join(piece if i % 2 else _plain(piece) for i, piece in enumerate(pieces))


def _plain(tex: str) -> str:
    """Escaped LaTeX words as Markdown."""
    named = {"textless": "<", "textgreater": ">", "textbar": "|", "textasciitilde": "~", "textasciicircum": "^"}
    text = re.sub(r"\\(text\w+)\{\}", lambda found: named.get(found[1], "\\"), tex)
    text = re.sub(r"\\([_&%#${}])", r"\1", text)
    return re.sub(r"([*_|])", r"\\\1", html.escape(text, quote=False))


def api_pages() -> dict[str, str]:
    """Path of a page to its text: the docstring of a package, and the names of its ``__all__``, each documented once."""
    import griffe

    documented: set[str] = set()
    pages = {}
    for package, parts in FACES.items():
        brackets = griffe.load_extensions(str(ROOT / "docs" / "brackets.py"))
        root = griffe.load(package, search_paths=[str(ROOT)], extensions=brackets)
        for name in ["", *parts]:
            module = root[name] if name else root
            pages[f"api/{module.path}.md"] = _api_page(module, documented)
    return pages


def _api_page(module: Any, documented: set[str]) -> str:
    lines = [f"# {module.path}", _docstring(module)]
    if module.exports or not module.is_init_module:
        names = [name for name in map(str, module.exports or _own(module)) if name in module.members]
        items = {name: module.members[name] for name in names if name != "__version__"}
        targets = {name: item.final_target.path if item.is_alias else item.path for name, item in items.items()}
        repeated = [f"- [`{name}`][{path}]" for name, path in targets.items() if path in documented]
        lines += [f"::: {path}" for path in targets.values() if path not in documented]
        lines += ["## Also here", "\n".join(repeated)] if repeated else []
        documented.update(targets.values())
        return "\n\n".join(lines)
    for part in module.modules.values():
        if part.is_init_module or part.name.startswith("_"):
            continue
        paths = [part.members[name].path for name in _own(part)]
        fresh = [path for path in paths if path not in documented]
        lines += [f"## {part.name}", _docstring(part)] if paths else []
        lines += [f"::: {path}\n    options:\n      heading_level: 3" for path in fresh]
        lines += ["\n".join(f"- [`{path.rpartition('.')[2]}`][{path}]" for path in paths if path in documented)]
        documented.update(fresh)
    return "\n\n".join(lines)


def _own(module: Any) -> list[str]:
    """Public functions and classes that a module defines."""
    members = module.members.items()
    return [n for n, item in members if not item.is_alias and item.is_public and (item.is_function or item.is_class)]


def _docstring(module: Any) -> str:
    return str(module.docstring.value) if module.docstring else ""
