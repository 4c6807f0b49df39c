"""The leaderboard's page, looked at in a browser: it shows the study's numbers, sorts, filters and loads nothing."""

import json
import re

import pytest

from una_ref.studies.leaderboard.board_page import write_page
from una_ref.studies.leaderboard.own_objectives import ONE_NUMBER


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    return write_page(finished[1], tmp_path_factory.mktemp("page") / "board.html")


def table(text):
    """The rows of methods: name -> the texts of its cells."""
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    rows = re.findall(r'<tr class="method[^>]*data-row="([^"]+)"[^>]*>(.*?)</tr>', text, re.DOTALL)
    return {
        name: [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)] for name, row in rows
    }


def means(results, budget):
    """Mean regret by row at a budget, the least first."""
    rows = [row for row in results["board"]["rows"] if row["budget"] == budget and row["regret"]["mean"] is not None]
    return {row["name"]: row["regret"]["mean"] for row in sorted(rows, key=lambda row: row["regret"]["mean"])}


def ranks(results):
    """The rank of each row of the main budget among those of its kind of feedback, from 1."""
    about, kinds, found = results["board"]["about"], {}, {}
    for name in means(results, results["board"]["main_budget"]):
        kind = about[name]["feedback"]
        found[name] = kinds[kind] = kinds.get(kind, 0) + 1
    return found


def shown(value, digits=3):
    """A number as the page writes it."""
    value = float(f"{value:.5g}")  # the page's data have five digits
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def with_interval(summary):
    """A mean with its interval, as the page writes it."""
    if summary is None or summary["mean"] is None:
        return ""
    low, high = summary["low"], summary["high"]
    return shown(summary["mean"], 2) + ("" if low is None else f" [{shown(low, 2)}, {shown(high, 2)}]")


def test_rows_are_sorted_by_regret_and_show_the_numbers_of_the_study(page, browsed, finished):
    results = finished[1]
    budget = results["board"]["main_budget"]
    rows, expected = table(browsed(page.as_uri())), means(results, budget)
    assert list(rows) == list(expected)
    for name, cells in rows.items():
        assert cells[0] == str(ranks(results)[name]) and cells[3] == shown(expected[name])


def test_a_link_opens_a_view(page, browsed, finished):
    results = finished[1]
    other = min(row["budget"] for row in results["board"]["rows"])
    text = browsed(f"{page.as_uri()}#budget={other}&sort=kl&down=true&open=una-pair")
    kl = {row["name"]: row["kl"]["mean"] for row in results["board"]["rows"] if row["budget"] == other}
    assert list(table(text)) == sorted(kl, key=lambda name: -kl[name])
    assert results["board"]["about"]["una-pair"]["command"] in text.split('class="detail"')[1].split("</tr>")[0]


def test_a_filter_leaves_the_rows_of_one_kind_and_their_ranks(page, browsed, finished):
    about = finished[1]["board"]["about"]
    rows = table(browsed(f"{page.as_uri()}#feedback=pairs"))
    assert set(rows) == {name for name in about if about[name]["feedback"] == "pairs"} != set(about)
    assert [cells[0] for cells in rows.values()] == [str(ranks(finished[1])[name]) for name in rows]
    assert set(table(browsed(f"{page.as_uri()}#search=una-p"))) == {"una-pair"}


def changed(results, **parts):
    """A copy of a study's results with some of its parts replaced."""
    return json.loads(json.dumps({**results, **parts}))


def test_a_control_has_no_rank_and_is_named_as_one(finished, browsed, tmp_path):
    results = changed(finished[1])
    results["board"]["about"]["una-pair"]["control"] = True
    rows = table(browsed(write_page(results, tmp_path / "board.html").as_uri()))
    assert rows["una-pair"][0] == "" and "(control)" in rows["una-pair"][1]
    assert rows["una-centred"][0] == "1" and "(control)" not in rows["una-centred"][1]


def test_a_row_that_is_far_off_does_not_stretch_the_scale(finished, browsed, tmp_path):
    results = changed(finished[1])
    base = next(row["regret"]["mean"] for row in results["board"]["references"] if row["name"] == "base")
    results["board"]["rows"][-1]["regret"]["mean"] = 50 * base
    text = browsed(write_page(results, tmp_path / "board.html").as_uri())
    scale = float(re.search(r"<span>0</span><span>([\d.]+)", text)[1])
    assert 1.2 * base < scale < 2 * base


def test_the_line_of_the_reference_is_inside_the_plot_of_an_axis(finished, browsed, tmp_path):
    results = changed(finished[1])
    for row in results["label_noise"]["base"]:
        row["regret"]["mean"] *= 10
    text = browsed(write_page(results, tmp_path / "board.html").as_uri())
    plot = re.search(r'<svg id="axisplot".*?</svg>', text, re.DOTALL)[0]
    dashed = re.search(r'stroke="var\(--soft\)" stroke-dasharray="5 4" d="M([^"]+)"', plot)[1]
    assert all(24 <= float(point.split()[1]) <= 292 for point in dashed.split("L"))


def test_an_open_row_has_the_name_that_the_command_takes(page, browsed):
    text = browsed(f"{page.as_uri()}#open=rloo.rm").split('class="detail"')[1].split("</tr>")[0]
    assert "<dt>name</dt><dd>rloo.rm</dd>" in text


def test_every_leader_has_a_curve_and_every_axis_can_be_chosen(page, browsed, finished):
    results, text = finished[1], browsed(page.as_uri())
    curves = re.search(r'<svg id="labels".*?</svg>', text, re.DOTALL)[0]
    assert curves.count('class="line"') == len(results["board"]["leaders"])
    axes = set(re.findall(r'<option value="(\w+)"', text))
    assert axes == {*results} - {"board", "exact_scores", "tiny_lm", "frontier", "alarms"}
    assert 'class="line"' in re.search(r'<svg id="axisplot".*?</svg>', text, re.DOTALL)[0]


def test_rows_with_exact_scores_are_shown_with_the_best_first(page, browsed, finished):
    exact, text = finished[1]["exact_scores"], browsed(page.as_uri())
    rows = re.findall(r'<tr data-exact="([\w.-]+)">(.*?)</tr>', text, re.DOTALL)
    ranked = sorted(exact["rows"], key=lambda row: row["regret"]["mean"])
    assert [name for name, _ in rows] == [row["name"] for row in ranked]
    for (_, found), row in zip(rows, ranked, strict=True):
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", found)]
        assert cells[0] == row["title"] and cells[1].startswith(shown(row["regret"]["mean"], 3))
        assert cells[4:] == [shown(row["kl"]["mean"], 2), shown(row["updates"]["mean"], 0)]


def test_rows_of_a_transformer_are_shown_beside_those_of_the_mlp(page, browsed, finished):
    tiny, text = finished[1]["tiny_lm"], browsed(page.as_uri())
    rows = re.findall(r'<tr data-tiny="([\w.-]+)">(.*?)</tr>', text, re.DOTALL)
    ranked = sorted(tiny["rows"], key=lambda row: row["regret"]["mean"])
    assert [name for name, _ in rows] == [row["name"] for row in ranked]
    mlp = {row["name"]: row["regret"]["mean"] for row in tiny["mlp"]}
    for (_, found), row in zip(rows, ranked, strict=True):
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", found)]
        assert cells[1].startswith(shown(row["regret"]["mean"], 3)) and cells[3].startswith(shown(mlp[row["name"]], 3))


def test_every_rule_of_an_alarm_is_shown_with_its_numbers(page, browsed, finished):
    results, text = finished[1]["alarms"], browsed(page.as_uri())
    tables = re.findall(
        r"<h3>(.*?)</h3>(.*?)</table>", text.split('id="alarmtables"')[1].split("<script")[0], re.DOTALL
    )
    assert [title for title, _ in tables] == [scenario["title"] for scenario in results["scenarios"]] != []
    for (_, found), scenario in zip(tables, results["scenarios"], strict=True):
        hacked = scenario["rules"][0]["hacked_runs"]
        assert f"{hacked['count']} of {hacked['of']} runs" in found
        rows = re.findall(r'<tr data-rule="(\w+)">(.*?)</tr>', found, re.DOTALL)
        assert [name for name, _ in rows] == [rule["name"] for rule in scenario["rules"]]
        for (name, row), rule in zip(rows, scenario["rules"], strict=True):
            cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)]
            assert cells == [
                rule["title"],
                "" if rule["threshold"] is None else shown(rule["threshold"], 2),
                with_interval(rule["auroc"]),
                with_interval(rule["kept"]),
                with_interval(rule["gain"]),
                "" if name == "never" else with_interval(rule["gain_to_never"]),
                "" if rule["threshold"] is None else f"{rule['rang']['count']} of {rule['rang']['of']}",
                "" if None in (rule["lead"], rule["threshold"]) else f"{shown(100 * rule['lead'], 0)} %",
            ]
    assert f"more than {100 * results['fall']:g} % below" in text


def test_a_row_without_a_gap_to_its_own_objective_says_why(page, browsed):
    text = browsed(f"{page.as_uri()}#open=una-binary-bce").split('class="detail"')[1].split("</tr>")[0]
    assert f"<dt>own objective</dt><dd>not measured. {ONE_NUMBER}</dd>" in text


def test_the_board_alone_is_a_page_too(finished, browsed, tmp_path):
    text = browsed(write_page({"board": finished[1]["board"]}, tmp_path / "board.html").as_uri())
    assert table(text) and '<div id="axes" hidden' in text and '<div id="alarms" hidden' in text


def test_the_page_holds_its_numbers_and_loads_nothing(page, finished):
    text = page.read_text("utf-8")
    assert re.findall(r'(?:src|href)="[^"#]|@import|url\(|https?://', text) == []
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    row, slim = finished[1]["board"]["rows"][0], data["board"]["rows"][0]
    assert slim["regret"] == pytest.approx([row["regret"][key] for key in ("mean", "low", "high", "median")], rel=1e-4)
    assert slim["values"] == pytest.approx(row["regret"]["values"], rel=1e-4)


def test_text_of_the_data_cannot_end_the_script(finished, tmp_path):
    board = finished[1]["board"] | {"protocol": ["</script><b>"]}
    assert "</script><b>" not in write_page({"board": board}, tmp_path / "board.html").read_text("utf-8")
