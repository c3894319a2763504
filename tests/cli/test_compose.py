"""What a person writes becomes a whole request, and every slip one line that names its place."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest

from broker.client.batch import read_rows
from broker.client.compose import Options, compose, parse_size, parse_span
from broker.client.errors import BadRequestFile
from broker.domain import kinds
from broker.domain.executables import JupyterNotebook, PythonProgram
from broker.errors import BadInput

PROGRAM = "executable:\n  kind: python-program\n  source: x\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "executable:\n  kind: docker\n",
            'r.yaml:2 executable.kind "docker": unknown. Nearest: docker-container. All: broker kinds',
        ),
        (
            PROGRAM + "compute:\n  cores: 4\n  memory:\n    min: 16GB\n",
            'r.yaml:7 compute.memory.min "16GB": a whole number of GiB is wanted. Write 16.',
        ),
        (
            PROGRAM + "compute:\n  volumes:\n    - resource: cub\n"
            "data:\n  - location: https://x\n    meta: {name: cube}\n",
            'r.yaml:6 compute.volumes[0].resource "cub": no such data or storage. There are: cube.',
        ),
        (PROGRAM + "compute: {memory: 16GB}\n",
         'r.yaml:4 compute.memory.min "16GB": a whole number of GiB is wanted. Write 16.'),
        ("executable: {kind: python-program, locatoin: fit.py}",
         'r.yaml:1 executable.location: missing. You wrote "locatoin".'),
        (
            "executable: {kind: python-program, location: nix.py}",
            'r.yaml:1 executable.location "nix.py": no such file.',
        ),
        (PROGRAM + "schedule:\n  requested: {start: soon}\n",
             'r.yaml:5 schedule.requested.start "soon": an ISO 8601 interval is wanted, '
             "such as 2026-11-22T14:00:00Z/PT2H."),
        (PROGRAM + "data:\n  - location: cube.fits\n",
         'r.yaml:5 data[0].location "cube.fits": a URL is wanted. Sites cannot read this machine\'s files.'),
        (PROGRAM + "schedule:\n  requested:\n    duration: 1h\n",
         'r.yaml:6 schedule.requested.duration "1h": an ISO 8601 duration is wanted, such as PT1H or P1D.'),
        (PROGRAM + "executable: 1\n", "r.yaml:4 executable: stands twice."),
        (PROGRAM + "data: &a [*a]\n", "r.yaml:4 data[0]: anchors and aliases are not read; write it out."),
        ("a: [", "r.yaml:1: not YAML: expected the node content, but found '<stream end>'."),
        ("- 1\n", "r.yaml: an object with the key executable is wanted."),
        ("[" * 5000, "r.yaml: nested too deeply."),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(home: Path, text: str, line: str) -> None:
    (home / "r.yaml").write_text(text)
    with pytest.raises(BadRequestFile) as caught:
        compose("r.yaml", Options())
    assert str(caught.value) == line


def test_yaml_is_read_as_json_is_meant(home: Path) -> None:
    (home / "r.yaml").write_text(
        "executable:\n  kind: python-program\n  source: x\n  environment: {A: no, B: 12:30:00, C: 1, D: '2', E: true}\n"
    )
    executable = compose("r.yaml", Options()).request.executable
    assert isinstance(executable, PythonProgram)
    assert executable.environment == {"A": "no", "B": "12:30:00", "C": "1", "D": "2", "E": "true"}


def test_a_short_json_file_is_expanded_too(home: Path) -> None:
    (home / "r.json").write_text('{"executable": {"kind": "jupyter-notebook", "location": "https://x/a.ipynb"}}')
    request = compose("r.json", Options()).request
    assert (request.executable.kind, request.name) == (kinds.JUPYTER_NOTEBOOK, "a")


def test_a_local_notebook_travels_as_a_data_url(home: Path) -> None:
    (home / "n.ipynb").write_text("{}")
    executable = compose("n.ipynb", Options()).request.executable
    assert isinstance(executable, JupyterNotebook)
    head, _, text = (executable.location or "").partition(",")
    assert (head, base64.b64decode(text)) == ("data:application/x-ipynb+json;base64", b"{}")


def test_a_program_is_found_beside_its_request_file(home: Path) -> None:
    (home / "sub").mkdir()
    (home / "sub" / "fit.py").write_text("1")
    (home / "sub" / "r.yaml").write_text("executable: {kind: python-program, location: fit.py}")
    executable = compose("sub/r.yaml", Options()).request.executable
    assert isinstance(executable, PythonProgram)
    assert (executable.source, executable.name, executable.location) == ("1", "fit", None)


def test_a_foreign_kind_goes_out_as_it_is() -> None:
    foreign = {"executable": {"kind": "https://example.org/kinds/fortran.yaml", "deck": 1}}
    assert compose(foreign, Options()).request.to_wire()["executable"]["deck"] == 1


def test_options_win_over_the_file_and_the_callers_own_object_stays(home: Path) -> None:
    given = {"executable": {"kind": "python-program", "source": "x"}, "costs": [{"type": "monetary", "max": 9}],
             "compute": {"cores": {"min": 1}}}  # fmt: skip
    draft = compose(given, Options(cores=4, max_price=2.0, duration="90m", name="n"))
    assert (draft.request.cores, draft.ceiling, draft.request.duration) == ((4, None), 2.0, timedelta(minutes=90))
    assert given["executable"] == {"kind": "python-program", "source": "x"}


def test_options_beside_a_file_of_the_wrong_shape_still_name_the_fault() -> None:
    with pytest.raises(BadRequestFile, match="compute"):
        compose({"executable": {"kind": "python-program", "source": "x"}, "compute": "big"}, Options(cores=4))


@pytest.mark.parametrize(
    ("text", "minutes"), [("1h", 60), ("1h30m", 90), ("2d", 2880), ("45min", 45), ("PT1H30M", 90), ("90s", 1.5)]
)
def test_spans(text: str, minutes: float) -> None:
    assert parse_span(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "h", "1x", "one hour"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(BadInput):
        parse_span(text)


def test_a_preset_is_named_by_its_nearest() -> None:
    with pytest.raises(BadInput, match="Nearest: fastest"):
        compose({"executable": {"kind": "python-program", "source": "x"}}, Options(prefer="fastst"))


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────

TEMPLATE = PROGRAM + (
    "data:\n"
    f"  - {{kind: {kinds.ABSTRACT_DATA}, meta: {{name: image}}}}\n"
    "  - {location: 'https://x/flat.fits'}\n"
    "  - {kind: abstract-data-resource, meta: {name: mask}}\n"
)


def test_data_takes_the_places_that_a_template_keeps_open(home: Path) -> None:
    (home / "t.yaml").write_text(TEMPLATE)
    urls = ("https://x/a.fits", "https://x/b.fits", "https://x/c.fits")
    data = compose("t.yaml", Options(data=urls)).request.to_wire()["data"]
    assert [(item["kind"], item["location"], item.get("meta", {}).get("name")) for item in data] == [
        (kinds.SIMPLE_DATA, "https://x/a.fits", "image"),
        (kinds.SIMPLE_DATA, "https://x/flat.fits", "flat.fits"),
        (kinds.SIMPLE_DATA, "https://x/b.fits", "mask"),
        (kinds.SIMPLE_DATA, "https://x/c.fits", "c.fits"),
    ]


def test_data_is_called_like_its_file_unless_two_would_be() -> None:
    urls = (
        "https://x/a/cube.fits?v=1#2",
        "https://x/1/flat.fits",
        "https://x/2/flat.fits",
        "https://x/",
        "https://x/old",
    )
    given = {
        "executable": {"kind": "python-program", "source": "x"},
        "storage": [{"meta": {"name": "old"}}],
        "data": [{"location": "https://x/mine.fits", "meta": {"name": "mine"}}],
    }
    data = compose(given, Options(data=urls)).request.data or ()
    assert [item.name for item in data] == ["mine", "cube.fits", "", "", "", ""]


def test_one_word_names_data_of_every_kind() -> None:
    words = ("rucio:survey:cube.fits", "s3://bucket/a/flat.fits", "ivo://x.example/survey?7", "https://x/c.fits")
    data = compose({"executable": {"kind": "python-program", "source": "x"}}, Options(data=words)).request.data or ()
    assert [(kinds.short(item.kind), item.name) for item in data] == [
        ("rucio-data-resource", "cube.fits"),
        ("S3-data-resource", "flat.fits"),
        ("ivoa-data-resource", ""),
        ("simple-data-resource", "c.fits"),
    ]


@pytest.mark.parametrize("word", ["rucio:survey", "rucio::cube", "s3://bucket", "s3:///cube"])
def test_half_a_name_of_data_says_how_to_write_it(word: str) -> None:
    with pytest.raises(BadInput, match=r"Write (rucio:SCOPE:NAME|s3://BUCKET/OBJECT)\."):
        compose({"executable": {"kind": "python-program", "source": "x"}}, Options(data=[word]))


def test_a_place_that_stays_open_is_named_and_nothing_is_sent(home: Path) -> None:
    (home / "t.yaml").write_text(TEMPLATE)
    with pytest.raises(BadRequestFile) as caught:
        compose("t.yaml", Options(data=("https://x/a.fits",)))
    assert str(caught.value) == 't.yaml:7 data[2]: a placeholder, "mask". Fill it: --data URL'


# ── rows of a table ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_fills_the_request_but_not_the_program(home: Path) -> None:
    (home / "fit.py").write_text("print('{name}', {'a': 1})")
    draft = compose(
        "fit.py", Options(data=("https://x/{name}.fits",), arguments=("{name}", "{other}", "{}"), row={"name": "m31"})
    )
    wire = draft.request.to_wire()
    assert wire["executable"]["source"] == "print('{name}', {'a': 1})"
    assert wire["executable"]["arguments"] == ["m31", "{other}", "{}"]
    assert wire["data"][0]["location"] == "https://x/m31.fits"
    assert draft.request.name == "fit-m31"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PROGRAM + "  arguments: ['{name}']\n", "python-program-m31"),
        ("executable: {kind: python-program, location: 'https://x/fit-{name}.py'}\n", "fit-m31"),
        (PROGRAM + "  meta: {name: 'run {name}'}\n", "run m31"),
        (PROGRAM + "  meta: {name: run}\n  arguments: ['{name}']\n", "run-m31"),
    ],
)
def test_every_run_of_a_table_has_a_name_of_its_own(home: Path, text: str, name: str) -> None:
    (home / "r.yaml").write_text(text)
    assert compose("r.yaml", Options(row={"name": "m31", "z": "1"})).request.name == name


def test_a_number_from_a_table_is_a_number_where_one_is_wanted() -> None:
    given = {
        "executable": {"kind": "python-program", "source": "x", "arguments": ["{n}"]},
        "compute": {"cores": {"min": "{n}"}, "memory": "{n}"},
        "costs": [{"type": "monetary", "max": "{price}"}],
    }
    draft = compose(given, Options(row={"n": "4", "price": "1.5"}))
    assert (draft.request.cores, draft.request.memory, draft.ceiling) == ((4, None), (4, None), 1.5)
    assert draft.request.to_wire()["executable"]["arguments"] == ["4"]


def test_a_table_of_which_nothing_is_used_is_refused(home: Path) -> None:
    (home / "fit.py").write_text("1")
    with pytest.raises(BadInput, match=r"no column of the table stands in the request. There are: \{name\}, \{z\}"):
        compose("fit.py", Options(row={"name": "m31", "z": "1"}))


def test_arguments_are_for_programs() -> None:
    docker = {"executable": {"kind": "docker-container", "image": {"locations": ["x"]}}}
    with pytest.raises(BadInput, match="arguments are for a Python program"):
        compose(docker, Options(arguments=("x",)))


def test_one_site_alone_may_be_asked() -> None:
    given = {"executable": {"kind": "python-program", "source": "x"}, "preferences": {"preset": "fastest"}}
    wire = compose(given, Options(site="alba")).request.to_wire()
    assert wire["preferences"] == {"preset": "fastest", "sites_allowed": ["alba"]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "t.csv: a line with the names of the columns is wanted, and rows."),
        ("name\n", "t.csv: a line with the names of the columns is wanted, and rows."),
        ("name,name\na,b\n", "t.csv:1: every column wants a name of its own."),
        ("name,\na,b\n", "t.csv:1: every column wants a name of its own."),
        ("name,z\na,1\nb\n", "t.csv:3: 1 values for 2 columns."),
        ('name\n"a"b\n', "t.csv:2: not CSV: ',' expected after '\"'."),
        ("name\n" + "a\n" * 1001, "t.csv: 1001 rows; 1000 are the most."),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(home: Path, text: str, line: str) -> None:
    (home / "t.csv").write_text(text)
    with pytest.raises(BadRequestFile) as caught:
        read_rows(Path("t.csv"))
    assert str(caught.value) == line


def test_tables_are_read_as_they_are_found(home: Path) -> None:
    (home / "t.csv").write_text('\ufeffname,z\n"m 31, north", 1\n\nm87,2\n', encoding="utf-8")
    assert read_rows(Path("t.csv")) == [{"name": "m 31, north", "z": "1"}, {"name": "m87", "z": "2"}]
    (home / "t.tsv").write_text("name\tz\nm31\t1,5\n")
    assert read_rows(Path("t.tsv")) == [{"name": "m31", "z": "1,5"}]


def test_a_notebook_is_opened_when_that_is_asked(home: Path) -> None:
    (home / "n.ipynb").write_text("{}")
    assert compose("n.ipynb", Options()).request.to_wire()["executable"].get("mode") is None
    assert compose("n.ipynb", Options(interactive=True)).request.to_wire()["executable"]["mode"] == "interactive"
    with pytest.raises(BadInput, match="only a notebook is interactive"):
        compose({"executable": {"kind": "python-program", "source": "x"}}, Options(interactive=True))


# ── where results go ─────────────────────────────────────────────────────────────────────────────────────────


def test_where_results_go_is_written_into_the_request() -> None:
    given = {"executable": {"kind": "python-program", "source": "x"}, "outputs": {"keep": "P1D"}}
    options = Options(results_to="s3://results/{session}/", keep="30d", expect="20GB")
    outputs = compose(given, options).request.to_wire()["outputs"]
    assert outputs == {"to": "s3://results/{session}/", "keep": "P30D", "size": 20.0}


@pytest.mark.parametrize(
    ("text", "gigabytes"), [("20", 20.0), (20, 20.0), ("20 GB", 20.0), ("500mb", 0.5), ("1.5TB", 1500.0)]
)
def test_a_size_is_in_powers_of_ten(text: str | float, gigabytes: float) -> None:
    assert parse_size(text) == gigabytes


@pytest.mark.parametrize("text", ["", "much", "20GiB", "-1", "1e3", "20 G B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no size"):
        parse_size(text)


def test_runs_of_a_batch_do_not_write_over_each_others_results() -> None:
    given = {"executable": {"kind": "python-program", "source": "x", "arguments": ["{target}"]}}

    def place(to: str) -> str:
        request = compose(given, Options(row={"target": "m31"}, results_to=to)).request
        assert request.outputs is not None
        return str(request.outputs.to)

    assert place("s3://results/{target}/") == "s3://results/m31/"
    assert place("s3://results/{session}/") == "s3://results/{session}/"
    with pytest.raises(BadInput, match="the same place"):
        place("s3://results/")
