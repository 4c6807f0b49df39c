"""What a signature says: the kind of feedback, what is given, what is trained; and what is refused, with its fix."""

import sys

import pytest

from una_ref.errors import InputError
from una_ref.examine.signature import examinee, read
from una_ref.methods import METHODS


def test_kind_is_inferred_from_the_arguments_of_every_registered_loss_that_is_not_of_a_group():
    for method in METHODS.values():
        for kind, loss in method.losses.items():
            assert examinee(loss).kind == kind, method.name


def test_signature_agrees_with_the_record(of_method):
    signature = read(of_method)
    assert signature.reference == of_method.record.needs_reference
    assert set(signature.hyperparameters) <= set(of_method.record.hyperparameters)
    assert set(of_method.trained) <= set(of_method.given)


def test_default_arguments_are_not_given_but_groups_are():
    assert examinee("una-centred").given == ("logps", "ref_logps", "scores", "groups")
    assert examinee("una-score").given == ("logps", "ref_logps", "scores")
    assert examinee("dro").given == ("logps", "ref_logps", "scores", "baseline")


def test_a_form_of_a_method_is_named_with_a_dot():
    assert examinee("ipo.printed").loss is METHODS["ipo"].printed
    with pytest.raises(InputError, match=r"^una-score\.prnted: expected printed or released, got 'prnted'"):
        examinee("una-score.prnted")
    with pytest.raises(InputError, match=r"expected no other form"):
        examinee("cdpo.printed")


def test_a_function_is_found_in_a_module_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "losses_of_mine.py").write_text("def loss(*, logps, labels):\n    return -logps * labels\n")
    found = examinee("losses_of_mine:loss")
    assert (found.name, found.kind) == ("losses_of_mine:loss", "labels")
    with pytest.raises(InputError, match=r"losses_of_mine:lost: expected module:function or file.*, got: .*Fix: name"):
        examinee("losses_of_mine:lost")
    with pytest.raises(InputError, match="expected module:function"):
        examinee("no_such_module:loss")


def test_a_function_is_found_in_a_file_and_its_file_finds_the_modules_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "constants_of_mine.py").write_text("HALF = 0.5\n")
    source = "from constants_of_mine import HALF\ndef loss(*, logps, labels):\n    return -HALF * logps * labels\n"
    (tmp_path / "more" / "json.py").write_text(source)  # the name of a module that is loaded already
    for name in ("more/json.py:loss", "./more/json.py:loss", f"{tmp_path}/more/json.py:loss"):
        assert (examinee(name).name, examinee(name).kind) == (name, "labels")
    assert examinee("more/json.py:loss").loss is examinee("./more/json.py:loss").loss
    assert sys.modules["json"].dumps([1]) == "[1]"


def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_loss.py").write_text("def loss(*, logps)\n")
    refuse("broken_loss.py:loss", "broken_loss.py:loss: expected module:function or file.py:function, got: SyntaxError")
    refuse("broken_loss:loss", "got: SyntaxError")
    refuse("none_here.py:loss", "got: no file none_here.py. Fix: name a function of a file")
    for name in ("broken_loss.py", "broken_loss"):
        refuse(name, f"{name}: expected a function, got a file. Fix: name a loss in it, as in broken_loss.py:my_loss")


def refuse(loss, *parts, kind=None):
    with pytest.raises(InputError) as error:
        examinee(loss, kind)
    for part in parts:
        assert part in str(error.value)


def test_unknown_arguments_are_refused_with_the_nearest_name():
    refuse(lambda *, chosen_logp, rejected_logps: 0, "got 'chosen_logp'; did you mean chosen_logps? Fix:")
    refuse(lambda *, logps, zzz: 0, "expected a name of docs/arguments.md", "got 'zzz'. Fix: rename it")
    refuse(lambda *, logps, beta: 0, "expected a default for the hyper-parameter beta", "write beta=NUMBER")


def test_arguments_without_names_are_refused():
    refuse(lambda **everything: 0, "expected arguments by name, got **everything", "Fix: name each argument")
    refuse(lambda logps, /: 0, "expected arguments by name, got logps")


def test_a_loss_without_anything_to_train_is_refused():
    refuse(lambda *, ref_logps, scores: 0, "expected an argument to train", "got ref_logps, scores")


def test_kinds_that_contradict_the_arguments_are_refused():
    refuse(lambda *, logps, rejected_logps: 0, "got rejected_logps with logps")
    refuse(lambda *, logps, labels, scores: 0, "got labels and scores", "Fix: add --kind labels")
    refuse(lambda *, logps, scores: 0, "expected chosen_… and rejected_…", kind="pairs")
    refuse(lambda *, logps, scores: 0, "--kind: expected one of demos, pairs", kind="pair")
    refuse("dpo", "una-pair: expected --kind pairs, got labels", kind="labels")
    refuse("dpoo", "did you mean dpo?")


def test_scores_may_be_those_of_lists():
    def loss(*, logps, scores):
        return logps

    assert examinee(loss).kind == "scores" and examinee(loss, "lists").kind == "lists"
