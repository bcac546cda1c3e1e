"""The page's modules as one file, for notebooks."""

import re
import shutil
import subprocess

import pytest

from dmkd.browsing import bundle as bundling
from dmkd.browsing.bundle import PAGE, bundle, styles


def test_the_widget_takes_every_module_of_the_page_along():
    code = bundle("widget.js")
    names = {file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*.js")} - {"main.js"}
    assert names == set(re.findall(r'^modules\["([^"]+)"\] = ', code, re.MULTILINE))
    assert not re.search(r"^\s*import\b", code, re.MULTILINE) and code.count("export ") == 1
    assert ".dmkd" in styles()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_bundled_modules_do_what_they_did(tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "PAGE", tmp_path)
    (tmp_path / "a.js").write_text(
        'import { b as c, two } from "./b.js";\nexport const sum = c() + two;\nexport async function f() {}\n'
    )
    (tmp_path / "b.js").write_text(
        "const x = 40;\nexport function b() { return x; }\nlet y = 2;\nexport { y as two };\n"
    )
    file = tmp_path / "bundle.mjs"
    file.write_text(bundle("a.js") + "\nconsole.log(modules['a.js'].sum, typeof modules['a.js'].f);")
    assert subprocess.run(["node", file], capture_output=True, text=True, check=True).stdout == "42 function\n"


@pytest.mark.parametrize(
    "line", ['import x from "./b.js";', "export default 3;", 'import { a } from "https://x.y/z.js";']
)
def test_forms_that_a_bundle_can_not_take_are_refused(tmp_path, monkeypatch, line):
    monkeypatch.setattr(bundling, "PAGE", tmp_path)
    (tmp_path / "a.js").write_text(line + "\n")
    with pytest.raises(ValueError, match="a bundle can take"):
        bundle("a.js")


def test_circles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "PAGE", tmp_path)
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(ValueError, match="circle"):
        bundle("a.js")
