"""Confirm: from a search to a verdict, and everything that may be wrong with a run folder."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny, write_npz

from se_nas.analysis.confirmation import Confirmation as Record
from se_nas.analysis.confirmation import Confirmed, Verdict, read_confirmed
from se_nas.analysis.judge import estimate, judge
from se_nas.analysis.verdict import final_verdict
from se_nas.cli import main
from se_nas.commands.confirm import confirm
from se_nas.commands.results import existing_run, stored
from se_nas.commands.search import search
from se_nas.core.config import Limits, SearchConfig
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.placement import Placement
from se_nas.core.trial import Recipe, Target
from se_nas.core.words import in_words
from se_nas.data.sealed import OPENINGS, openings
from se_nas.engine.exam import exam_file, read_classes, read_exam
from se_nas.engine.finalists import fresh_seeds
from se_nas.engine.study import Study


def searched(folder, **changes):
    data = Target(target=f"npz:{write_npz(folder / 'data.npz', n=90)}")
    settings = {"data": data, "train": Recipe(epochs=1, batch_size=32, precision="32"), "budget": 7, **changes}
    return search(tiny(folder, **settings)).folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("confirm"))


@pytest.fixture(scope="module")
def confirmed(run):
    return confirm(run, top=2, seeds=2)


@pytest.fixture
def copy(run, confirmed, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


class TestConfirm:
    def test_finalists_and_references_with_the_same_fresh_seeds(self, run, confirmed):
        roles = [n.role for n in confirmed.networks]
        assert roles.count("baseline") == roles.count("reference") == 1
        assert 1 <= roles.count("finalist") <= 2
        assert 0 not in confirmed.seeds
        assert all(set(n.test.values) == {str(s) for s in confirmed.seeds} for n in confirmed.networks)
        assert all(n.key not in n.against for n in confirmed.networks)
        assert read_confirmed(run) == confirmed

    def test_test_part_is_opened_once_and_logged(self, run, confirmed):
        before = (run / OPENINGS).read_text()
        again = confirm(run, top=2, seeds=2)
        assert (run / OPENINGS).read_text() == before
        assert len(openings(run)) == confirmed.openings == again.openings == 1
        assert [n.test for n in again.networks] == [n.test for n in confirmed.networks]
        assert again.verdict == confirmed.verdict

    def test_page_recommends_what_was_confirmed(self, run, confirmed):
        page = (run / "report.html").read_text()
        chosen = confirmed.network(confirmed.verdict.network)
        assert "Recommended so far" not in page
        assert "confirmed with 2 fresh seeds" in page
        assert f"{100 * chosen.test.mean:.2f} %" in page

    def test_scores_are_right_or_wrong_for_each_image(self, run, confirmed):
        network = confirmed.networks[0]
        seed, trial = next(iter(network.trials.items()))
        scores, metrics = read_exam(exam_file(run, trial))
        assert set(np.unique(scores)) <= {0.0, 1.0}
        assert scores.mean() == pytest.approx(network.test.values[seed]) == pytest.approx(metrics["val_accuracy"])
        assert len(scores) == confirmed.test_images == 18

    def test_classes_are_compared_on_the_images_of_the_exams(self, run, confirmed):
        base, found = confirmed.of_role("baseline"), confirmed.by_class
        network = confirmed.network(found.network)
        assert network.role != "baseline"
        for shift in found.classes:
            shares = {}
            for one in (base, network):
                right = []
                for trial in one.trials.values():
                    predicted, true = read_classes(exam_file(run, trial))
                    scores, _ = read_exam(exam_file(run, trial))
                    assert ((predicted == true) == scores).all()
                    right.append(scores[true == int(shift.true)].mean())
                shares[one.key] = np.mean(right)
            assert shift.without == pytest.approx(shares[base.key])
            assert shift.value == pytest.approx(shares[network.key])
        assert sum(shift.images for shift in found.classes) <= confirmed.test_images

    def test_test_values_reach_no_study(self, run, confirmed):
        connection = sqlite3.connect(run / "study.db")
        texts = "".join(str(row) for row in connection.execute("select value_json from trial_user_attributes"))
        connection.close()
        assert '"test' not in texts

    def test_confirmed_validation_values_feed_the_posterior(self, run, confirmed):
        _, study = existing_run(run)
        network = next(n for n in confirmed.networks if n.role == "baseline")
        trial = next(t for t in study.trials() if t.role == "baseline")
        assert sorted(trial.repeats) == pytest.approx(sorted(network.validation.values.values()))

    def test_optimism_is_promise_minus_confirmed_at_the_same_schedule(self, confirmed):
        for network in confirmed.networks:
            assert network.observed_optimism == pytest.approx(network.observed - network.validation.mean)

    def test_other_schedule_has_no_optimism_and_leaves_the_posterior_alone(self, copy, confirmed):
        _, study = existing_run(copy)
        before = [t.repeats for t in study.trials()]
        result = confirm(copy, top=1, seeds=1, epochs=2)
        assert result.epochs == 2
        assert not {n for x in result.networks for n in x.trials.values()} & {
            n for x in confirmed.networks for n in x.trials.values()
        }
        assert all(n.optimism is None and n.observed_optimism is None for n in result.networks)
        assert [t.repeats for t in existing_run(copy)[1].trials()] == before

    def test_more_seeds_keep_what_is_trained_and_open_the_test_part_again(self, copy, confirmed):
        result = confirm(copy, top=2, seeds=3)
        assert result.seeds[:2] == confirmed.seeds == tuple(fresh_seeds(0, 2))
        assert result.openings == 2
        for before, after in zip(confirmed.networks, result.networks, strict=True):
            assert before.trials.items() <= after.trials.items()

    def test_one_seed_claims_nothing_and_says_so(self, copy):
        result = confirm(copy, top=1, seeds=1)
        assert result.verdict.claim == "unknown"
        assert "One seed gives no estimate of the noise" in result.verdict.sentences[0].text
        assert all(n.test.interval is None and n.test.sd is None for n in result.networks)

    def test_margin_is_that_of_the_search_which_may_go_on_with_another(self, copy, confirmed):
        assert confirmed.margin == pytest.approx(0.003)
        _, study = existing_run(copy)
        again = search(replace(stored(study, "config", SearchConfig), out=str(copy), margin=2.0))
        assert len(again.trials) == len(study.trials()), "only what is said changes"
        assert confirm(copy, top=2, seeds=2).margin == pytest.approx(0.02)
        assert confirm(copy, top=2, seeds=2, margin=1.0).margin == pytest.approx(0.01)

    def test_interrupted_confirm_goes_on(self, copy, confirmed, monkeypatch):
        monkeypatch.setattr(Study, "lease", 1.0)  # so long it waits for a driver that is not of this folder
        shutil.rmtree(copy / "confirm")
        with sqlite3.connect(copy / "study.db") as connection:
            connection.execute(
                "update trials set state = 'RUNNING', datetime_complete = NULL where study_id = 2 and number = 3"
            )
        again = confirm(copy, top=2, seeds=2)
        values = {n.key: n.test.values for n in again.networks}
        for network in confirmed.networks:
            assert values[network.key] == pytest.approx(network.test.values)

    def test_other_metric(self, tmp_path):
        folder = searched(tmp_path, metric="val_f1", budget=3)
        result = confirm(folder, top=1, seeds=2)
        assert (result.metric, result.direction, result.unit) == ("val_f1", "maximize", "share")
        assert result.verdict.claim in ("use", "without", "undecided")

    def test_loss_is_better_when_smaller(self, tmp_path):
        folder = searched(tmp_path, metric="val_loss", budget=3)
        result = confirm(folder, top=1, seeds=2)
        assert (result.direction, result.unit) == ("minimize", "nats")
        best = min((n for n in result.networks if n.role != "baseline"), key=lambda n: n.validation.mean)
        assert result.winner == best.key

    def test_command_line(self, copy, capsys):
        assert main(["confirm", str(copy), "--top", "2", "--seeds", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"]["phase"] == "confirm"
        assert main(["confirm", str(copy), "--top", "2", "--seeds", "2"]) == 0
        assert "(no SE)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def in_rounds(run, tmp_path_factory):
    folder = shutil.copytree(run, tmp_path_factory.mktemp("rounds") / "run")
    for name in ("confirm", "confirm.json", OPENINGS):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder, confirm(folder, top=1, max_seeds=4)


class TestRounds:
    """Seeds are added until the answer is settled; between rounds the validation set decides, never the test set."""

    def test_each_network_has_its_own_number_of_seeds(self, in_rounds):
        folder, result = in_rounds
        assert result.rounds.looks.seeds == (3, 4)
        assert len(result.seeds) in (3, 4)
        assert result.rounds.ended
        for network in result.networks:
            expected = len(result.seeds) if network.stopped_after is None else network.stopped_after
            assert len(network.trials) == expected
            assert set(network.test.values) == {str(seed) for seed in result.seeds[:expected]}
        assert result.of_role("baseline").stopped_after is None
        assert read_confirmed(folder) == result
        text = " ".join(sentence.text for sentence in result.verdict.sentences)
        assert "judged on the validation set after 3 and 4" in text
        assert result.rounds.ended in text

    def test_the_test_part_is_opened_once_and_at_the_end(self, in_rounds, monkeypatch):
        folder, result = in_rounds
        trained = {t for n in result.networks for t in n.trials.values()}
        assert len(openings(folder)) == 1
        assert all(exam_file(folder, t).is_file() and exam_file(folder, t, "val").is_file() for t in trained)
        for t in trained:
            scores, metrics = read_exam(exam_file(folder, t, "val"))
            assert scores.mean() == pytest.approx(metrics["val_accuracy"])
        for network in result.networks:
            for seed, trial in network.trials.items():
                scores, _ = read_exam(exam_file(folder, trial, "val"))
                assert scores.mean() == pytest.approx(network.validation.values[seed])

    def test_again_is_the_same_and_nothing_is_trained(self, in_rounds):
        folder, result = in_rounds
        again = confirm(folder, top=1, max_seeds=4)
        assert again.verdict == result.verdict
        assert [n.trials for n in again.networks] == [n.trials for n in result.networks]
        assert again.openings == 1

    def test_more_seeds_open_the_test_part_again_and_the_verdict_says_what_that_means(self, in_rounds, tmp_path):
        folder = shutil.copytree(in_rounds[0], tmp_path / "run")
        found = confirm(folder, top=1, seeds=5)
        assert (found.rounds, len(found.seeds), found.openings) == (None, 5, 2)
        assert "evaluated 2 times" in " ".join(s.text for s in found.verdict.sentences)

    def test_a_loss_and_a_metric_that_is_no_mean_over_images(self, tmp_path):
        folder = searched(tmp_path, metric="val_f1", budget=3)
        result = confirm(folder, top=1, max_seeds=3)
        assert result.verdict.claim in ("use", "without", "undecided")
        scores, metrics = read_exam(exam_file(folder, 0, "val"))
        assert len(scores) == 20
        assert scores.mean() == pytest.approx(metrics["val_f1"], abs=0.2)

    def test_command_line(self, copy, capsys):
        assert main(["confirm", str(copy), "--top", "1", "--max-seeds", "3"]) == 0
        said = capsys.readouterr()
        assert "until the answer is settled (looked at after 3)" in said.out + said.err
        assert main(["confirm", str(copy), "--seeds", "3", "--max-seeds", "3"]) == 2
        assert "seeds and max_seeds are both given" in capsys.readouterr().err
        assert main(["confirm", str(copy), "--max-seeds", "1"]) == 2
        assert "max_seeds is 1" in capsys.readouterr().err


class TestNamedFinalists:
    """Networks that the user names are confirmed in place of the front."""

    def test_they_and_the_plain_backbone(self, copy):
        result = confirm(copy, finalists=["stage1=8,stage2=4", "all:16", "none", "all:16"], seeds=2)
        assert sorted(n.label for n in result.networks) == ["all:16", "none", "stage1=8,stage2=4"]
        assert {n.label: n.role for n in result.networks}["none"] == "baseline"
        named = next(n for n in result.networks if n.label.startswith("stage1"))
        assert (named.trial, named.observed) == (None, None)  # the search did not train it
        assert named.against["baseline"].mean == pytest.approx(named.test.mean - result.of_role("baseline").test.mean)
        assert set(named.test.values) == set(result.of_role("baseline").test.values)

    def test_what_is_over_a_limit_on_cost_is_not_confirmed(self, run, tmp_path):
        trials = existing_run(run)[1].trials()
        most = next(t for t in trials if t.role == "reference").costs["params"].value
        folder = searched(tmp_path, budget=4, max=Limits(params=most - 1))
        assert any(t.role == "reference" for t in existing_run(folder)[1].trials())
        result = confirm(folder, seeds=2)
        assert result.of_role("reference") is None
        assert {n.role for n in result.networks} == {"baseline", "finalist"}
        assert all(n.costs["params"].value < most for n in result.networks)

    def test_command_line(self, copy, capsys):
        command = ["confirm", str(copy), "--seeds", "2", "--finalists"]
        assert main([*command, "stage1=8,stage2=4", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [n["label"] for n in found["networks"]] == ["none", "stage1=8,stage2=4"]
        assert main([*command, "stage1=8,stage2=4"]) == 0
        assert "Confirmed: 2 fresh seeds" in capsys.readouterr().out
        for wrong, said in (
            (["none"], "the only placement to confirm is 'none'"),
            (["stage7=8"], "'stage7'"),
            (["all:16", "--top", "2"], "top and finalists are both given"),
        ):
            assert main([*command, *wrong]) == 2
            assert said in capsys.readouterr().err


class TestBadInput:
    @pytest.mark.parametrize(("change", "text"), [({"top": 0}, "top is 0"), ({"seeds": 0}, "seeds is 0")])
    def test_numbers(self, tmp_path, change, text):
        with pytest.raises(ConfigError, match=text):
            confirm(tmp_path, **change)

    def test_no_run_folder(self, tmp_path):
        with pytest.raises(RunError, match="not a run folder"):
            confirm(tmp_path / "nowhere")

    def test_unknown_metric_names_those_that_are_logged(self, tmp_path):
        with pytest.raises(Exception, match="does not log 'val_f2'") as caught:
            searched(tmp_path, metric="val_f2")
        assert "val_f1" in str(caught.value)

    def test_only_failed_trainings(self, tmp_path):
        with pytest.raises(RunError, match="all failed"):
            searched(tmp_path, train=Recipe(epochs=1, batch_size=32, lr=1e30, precision="32"))
        with pytest.raises(RunError, match=r"no finished training to confirm: \d+ failed"):
            confirm(tmp_path / "run")

    def test_data_changed(self, tmp_path):
        folder = searched(tmp_path, budget=3)
        write_npz(tmp_path / "data.npz", n=120)
        with pytest.raises(RunError, match="has changed since") as caught:
            confirm(folder)
        assert "data" in str(caught.value)

    def test_broken_study_file(self, copy):
        (copy / "study.db").write_bytes(b"no database" * 100)
        for name in ("study.db-wal", "study.db-shm"):
            (copy / name).unlink(missing_ok=True)
        with pytest.raises(RunError, match="cannot use the study storage"):
            confirm(copy)

    def test_half_deleted(self, copy, confirmed):
        for name in ("data", "results", "best", "confirm"):
            shutil.rmtree(copy / name, ignore_errors=True)
        again = confirm(copy, top=2, seeds=2)
        assert [n.test for n in again.networks] == [n.test for n in confirmed.networks]
        shutil.rmtree(copy / "confirm")
        shutil.rmtree(copy / "weights")
        with pytest.raises(RunError, match="their weights are gone"):
            confirm(copy, top=2, seeds=2)

    def test_broken_scores(self, copy, confirmed):
        exam_file(copy, 0).write_bytes(b"PK torn")
        with pytest.raises(RunError, match="is broken"):
            confirm(copy, top=2, seeds=2)

    def test_a_run_from_before_seeds_varied(self, tmp_path):
        """Its configuration also says ``graph: auto``, which there was then."""
        folder = searched(tmp_path, budget=3, vary_seed=False)
        with sqlite3.connect(folder / "study.db") as connection:
            for name in ("facts", "config"):
                rows = connection.execute("select value_json from study_user_attributes where key = ?", (name,))
                kept = json.loads(rows.fetchone()[0])
                del kept["vary_seed"]
                kept |= {"graph": "auto"} if name == "config" else {}
                connection.execute(
                    "update study_user_attributes set value_json = ? where key = ?", (json.dumps(kept), name)
                )
        assert confirm(folder, top=1, seeds=1).verdict.claim == "unknown"
        with pytest.raises(RunError, match="vary_seed: False -> True"):
            searched(tmp_path, budget=4)

    def test_scores_of_another_test_part(self, copy, confirmed):
        with np.load(exam_file(copy, 0)) as archive:
            values = dict(archive)
        np.savez(exam_file(copy, 0), **{**values, "scores": values["scores"][:-1]})
        with pytest.raises(RunError, match="not examined on one test set"):
            confirm(copy, top=2, seeds=2)

    def test_broken_log_of_openings(self, copy, confirmed):
        (copy / OPENINGS).write_text("[]\n")
        with pytest.raises(DataError, match="the log of test openings is broken"):
            confirm(copy, top=2, seeds=2)

    def test_broken_or_newer_result_file(self, copy):
        (copy / "confirm.json").write_text("{")
        with pytest.raises(RunError, match="not valid JSON"):
            read_confirmed(copy)
        (copy / "confirm.json").write_text('{"schema": 99}')
        with pytest.raises(RunError, match="newer"):
            read_confirmed(copy)
        (copy / "confirm.json").unlink()
        assert read_confirmed(copy) is None


def network(key, role, mean, label="stage1=16,stage2=none", **more):
    values = estimate({1: mean, 2: mean})
    return Confirmed(
        key=key, label=label, placement=Placement(choices={}), role=role, validation=values, test=values, **more
    )


class TestJudgement:
    def scores(self, *rates, seeds=4, images=500):
        rng = np.random.default_rng(0)
        return {
            str(k): {s: (rng.random(images) < rate).astype(float) for s in range(seeds)} for k, rate in enumerate(rates)
        }

    def networks(self, scores):
        roles = ["baseline", "reference", "finalist", "finalist"]
        return [
            replace(network(k, role, 0.5, label="none" if role == "baseline" else "stage1=16"),
                    validation=estimate({s: float(v.mean()) for s, v in scores[k].items()}))
            for k, role in zip(scores, roles, strict=False)
        ]  # fmt: skip

    def record(self, judged, direction="maximize"):
        return Record(
            metric="val_accuracy", direction=direction, unit="share", cost="params", epochs=1, search_epochs=1,
            seeds=(0, 1, 2, 3),
            family=judged.family, test_images=500, openings=1, winner=judged.winner, noise=judged.noise,
            networks=judged.networks, verdict=Verdict(phase="confirm", claim="unknown"),
        )  # fmt: skip

    def test_a_large_effect_is_claimed_and_a_small_one_is_not(self):
        scores = self.scores(0.6, 0.6, 0.9, 0.6)
        judged = judge(self.networks(scores), scores, "maximize")
        verdict = final_verdict(self.record(judged))
        assert (judged.winner, verdict.claim, verdict.network) == ("2", "use", "2")
        assert "It beats the plain backbone" in verdict.sentences[0].text
        assert judged.networks[2].against["reference"].beats
        scores = self.scores(0.6, 0.6, 0.6, 0.6)
        verdict = final_verdict(self.record(judge(self.networks(scores), scores, "maximize")))
        assert (verdict.claim, verdict.network) == ("undecided", "0")
        assert "no placement has been shown to beat" in verdict.sentences[0].text
        assert final_verdict(replace(self.record(judge(self.networks(scores), scores, "maximize")), margin=0.2)).claim \
            == "without"  # fmt: skip

    def test_direction(self):
        scores = self.scores(0.6, 0.6, 0.3)
        judged = judge(self.networks(scores), scores, "minimize")
        difference = judged.networks[2].against["baseline"]
        assert difference.beats
        assert difference.mean < 0
        assert difference.interval[0] < difference.mean < difference.interval[1] < 0
        assert not judge(self.networks(scores), scores, "maximize").networks[2].against["baseline"].beats

    def test_failed_seeds_leave_a_balanced_rest(self):
        scores = self.scores(0.6, 0.6, 0.9, 0.6)
        del scores["2"][1]
        judged = judge(self.networks(scores), scores, "maximize")
        assert judged.networks[2].against["baseline"].beats
        scores["3"] = {}
        judged = judge(self.networks({k: v for k, v in scores.items() if v}), scores, "maximize")
        assert judged.family == ("1", "2")

    def test_every_sentence_of_a_claim_has_numbers(self):
        scores = self.scores(0.6, 0.6, 0.9, 0.8)
        verdict = final_verdict(self.record(judge(self.networks(scores), scores, "maximize")))
        assert all(sentence.numbers for sentence in verdict.sentences)


def test_in_words():
    assert in_words("stage2=16,stage3=16,stage1=none") == "SE with r=16 in stages 2 and 3"
    assert in_words(",".join(f"layer{i}=8" for i in range(9))) == "SE with r=8 in 9 places"
