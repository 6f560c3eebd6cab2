"""The search of a tuning: what it rules out, what it chooses, and what it says where it cannot."""

import numpy as np
import pytest

from pocketvlm import PocketVLMError
from pocketvlm_measure.tune.search import tune
from pocketvlm_measure.tune.source import Taken
from pocketvlm_measure.tune.tables import (
    choice,
    command,
    outcome,
    refusal,
    ruled_out,
    table,
    to_dict,
)
from pocketvlm_measure.tune.timing import TURNS
from pocketvlm_measure.tune.tuning import TuneLimits
from tune_replays.grid import Recorded
from tune_replays.replay import Replay

LATE = 1e9


def setting(name, cost, wrong=(), questions=2_000):
    """A setting that answers all but some questions rightly."""
    right = np.ones(questions, dtype=bool)
    right[list(wrong)] = False
    return Recorded(name, max(1, round(144 * cost)), cost, right)


BASELINE = setting("whole", 1.0)
BAD, WORST = setting("bad", 0.3, range(400)), setting("worst", 0.2, range(1_000))
GOOD = setting("good", 0.5, range(4))


def by_name(tuning):
    return {one.candidate.folder: one for one in (tuning.baseline, *tuning.evidence)}


def test_the_fastest_that_holds_is_chosen_and_the_slower_are_not_asked():
    slower = [setting(f"slower-{number}", 0.6 + number / 20) for number in range(5)]
    source = Replay([BASELINE, *slower, GOOD, BAD, WORST], 0)
    tuning = tune(source, TuneLimits(time=LATE))
    verdicts = {name: one.verdict for name, one in by_name(tuning).items()}
    assert tuning.chosen.candidate.folder == "good"
    assert tuning.shown == tuning.chosen
    assert (verdicts["bad"], verdicts["worst"]) == ("loses more", "loses more")
    assert verdicts["good"] == "holds"
    assert verdicts["slower-4"] == "slower"
    assert by_name(tuning)["slower-4"].questions == 0
    assert [one.candidate.folder for one in tuning.evidence][:2] == ["worst", "bad"]
    assert by_name(tuning)["worst"].questions < 100
    assert tuning.answers == len(source.asked)


def test_what_is_slower_than_the_baseline_is_not_asked():
    tuning = tune(Replay([BASELINE, setting("slow", 1.5)], 0), TuneLimits(time=LATE))
    assert tuning.chosen == tuning.baseline
    (slow,) = tuning.evidence
    assert (slow.verdict, slow.questions) == ("slower", 0)
    assert "no faster" in slow.reason


@pytest.mark.parametrize("settings", [[BASELINE], [BASELINE, GOOD]])
def test_one_candidate_only(settings):
    tuning = tune(Replay(settings, 0), TuneLimits(time=LATE))
    assert tuning.chosen.candidate.folder == settings[-1].setting
    assert len(tuning.evidence) == len(settings) - 1


def test_a_set_too_small_says_so_and_how_many_would_do():
    few = setting("few", 0.5, [0, 1], questions=300)
    tuning = tune(Replay([setting("whole", 1.0, questions=300), few], 0), TuneLimits(time=LATE))
    assert tuning.chosen.verdict == "likely holds"
    assert tuning.undecided == [tuning.chosen]
    assert tuning.chosen.needed > 300
    assert tuning.shown == tuning.baseline
    text = "\n".join(choice(tuning))
    assert "not shown" in text
    assert f"about {tuning.chosen.needed} would" in text
    # With so many like these it is shown.
    times = -(-tuning.chosen.needed // 300)
    whole = setting("whole", 1.0, questions=300 * times)
    more = setting("few", 0.5, [*range(2 * times)], questions=300 * times)
    again = tune(Replay([whole, more], 0), TuneLimits(time=LATE))
    assert again.chosen.verdict == "holds"


def test_a_handful_of_questions_is_not_gone_by():
    settings = [setting("whole", 1.0, questions=30), setting("few", 0.5, questions=30)]
    tuning = tune(Replay(settings, 0), TuneLimits(time=LATE))
    assert tuning.chosen == tuning.baseline
    assert tuning.evidence[0].verdict == "undecided"
    text = "\n".join(choice(tuning))
    assert text.startswith("no choice made: 30 questions about 30 pictures are too few\n")
    assert "fastest without a measured loss: 72 tokens, few" in text
    assert "until then the baseline: 144 tokens, whole" in text


def test_only_what_is_shown_is_chosen_where_that_is_asked():
    likely, shown = setting("likely", 0.5, range(36)), setting("shown", 0.7, range(2))
    settings = [BASELINE, likely, shown]
    assert tune(Replay(settings, 0), TuneLimits(time=LATE)).chosen.candidate.folder == "likely"
    sure = tune(Replay(settings, 0), TuneLimits(time=LATE, shown=True))
    assert sure.chosen.candidate.folder == "shown"
    assert sure.chosen.verdict == "holds"


def test_limits_of_time_and_memory_are_kept_by_every_run():
    peaks = {"good": 900_000_000}
    source = Replay([BASELINE, GOOD, setting("slower", 0.7)], 0, peaks=peaks)
    tuning = tune(source, TuneLimits(max_memory=500, max_ttft=800, time=LATE))
    assert tuning.chosen.candidate.folder == "slower"
    assert max(tuning.chosen.ttft_ms) <= 800
    assert len(tuning.chosen.ttft_ms) > 3  # it was timed again
    verdict = by_name(tuning)["good"]
    assert verdict.verdict == "over a limit"
    assert verdict.questions == 0
    assert "900 MB of memory in its one run, 400.0 more than --max-memory 500" in verdict.reason


class Hiccup(Replay):
    """A candidate that is slow in its last turns."""

    def turn(self, candidates, number, until):
        taken = super().turn(candidates, number, until)
        return {
            one: Taken(5_000.0, 1) if one.folder == "good" and number >= 4 else result
            for one, result in taken.items()
        }


def test_a_choice_that_breaks_a_limit_when_it_is_timed_again_is_given_up():
    source = Hiccup([BASELINE, GOOD, setting("slower", 0.7)], 0)
    tuning = tune(source, TuneLimits(max_ttft=2_000, time=LATE))
    assert tuning.chosen.candidate.folder == "slower"
    assert by_name(tuning)["good"].verdict == "over a limit"


class Tiring(Replay):
    """Its time is up once the choice was timed again, one time."""

    def turn(self, candidates, number, until):
        taken = super().turn(candidates, number, until)
        self._seconds += LATE if number >= TURNS else 0
        return taken


@pytest.mark.parametrize("limit", [2_000, None])
def test_a_choice_that_is_timed_again_too_seldom_says_so(limit):
    tuning = tune(Tiring([BASELINE, GOOD], 0), TuneLimits(max_ttft=limit, time=LATE))
    assert tuning.chosen.candidate.folder == "good"
    assert any("again 1 time only, of 4" in note for note in tuning.notes) == (limit is not None)


def test_where_nothing_keeps_to_the_limits_the_nearest_is_named():
    settings = [BASELINE, GOOD, BAD]
    tuning = tune(Replay(settings, 0, jitter=0), TuneLimits(max_ttft=400, time=LATE))
    assert tuning.chosen is None
    assert tuning.shown is None
    assert tuning.nearest.candidate.folder == "good"
    assert (
        "takes up to 500 ms to the first token in its one run, 100.0 more than --max-ttft 400"
        in str(refusal(tuning))
    )
    assert to_dict(tuning)["command"] is None
    loses = tune(Replay(settings, 0, jitter=0), TuneLimits(max_ttft=301, time=LATE))
    assert loses.nearest.candidate.folder == "good"  # 66 % over; the other loses ten times as much


def test_a_loss_that_is_too_large_is_named_by_its_points():
    near = setting("near", 0.3, range(60))
    tuning = tune(Replay([BASELINE, near], 0, jitter=0), TuneLimits(max_ttft=310, time=LATE))
    assert tuning.chosen is None
    assert "loses 3.0 points, 1.0 more than --max-loss 2" in str(refusal(tuning))


def test_the_time_ends_it_and_it_says_what_was_not_reached():
    # Timing all takes about 16 s a turn of these, then a question a second.
    settings = [BASELINE, GOOD, *[setting(f"bad-{n}", 0.3, range(400)) for n in range(3)]]
    tuning = tune(Replay(settings, 0), TuneLimits(time=120))
    assert tuning.time_up
    assert tuning.seconds < 140
    assert tuning.chosen == tuning.baseline
    verdicts = {one.verdict for one in tuning.evidence}
    assert verdicts <= {"loses more", "likely loses more", "undecided", "not reached"}
    assert any("continue with --resume" in line for line in outcome(tuning))
    never = tune(Replay(settings, 0), TuneLimits(time=1))
    assert never.time_up
    assert {one.verdict for one in never.evidence} <= {"not reached"}
    assert never.chosen is None
    assert "no choice made: " in next(choice(never))
    assert "of 4 settings were not timed" in str(refusal(never))
    assert list(ruled_out(never)) == [
        "4 not reached: the time was up before they were timed or asked"
    ]
    assert "1 turn of 3 done; one run each, no spread" in list(outcome(never))


class Refusing(Replay):
    def turn(self, candidates, number, until):
        taken = super().turn(candidates, number, until)
        return {one: "no room" if one.folder in ("whole", "bad") else t for one, t in taken.items()}


def test_a_baseline_that_cannot_run_ends_the_tuning():
    with pytest.raises(PocketVLMError, match=r"the baseline, .* cannot run: no room"):
        tune(Refusing([BASELINE, GOOD], 0), TuneLimits(time=LATE))


class Uncounted(Replay):
    def turn(self, candidates, number, until):
        taken = super().turn(candidates, number, until)
        return {one: Taken(result.ttft_ms, None) for one, result in taken.items()}


def test_a_limit_of_memory_needs_a_system_that_counts_it():
    with pytest.raises(PocketVLMError, match="does not count the memory"):
        tune(Uncounted([BASELINE, GOOD], 0), TuneLimits(max_memory=100, time=LATE))
    assert tune(Uncounted([BASELINE, GOOD], 0), TuneLimits(time=LATE)).chosen is not None


@pytest.mark.parametrize(
    "wrong", [{"error": 0.0}, {"error": 1.0}, {"max_loss": -1}, {"max_ttft": float("nan")}]
)
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(PocketVLMError, match=next(iter(wrong))):
        TuneLimits(**wrong)


def test_the_table_has_a_row_for_each_and_a_reason_for_what_is_ruled_out():
    tuning = tune(Replay([BASELINE, GOOD, BAD], 0), TuneLimits(time=LATE))
    text = table(tuning).text().splitlines()
    assert len(text) == 2 + 3
    assert text[-1].endswith("baseline")
    (line,) = ruled_out(tuning)
    assert line.startswith("43 tokens, bad: loses more: -")
    assert command(tuning.chosen.candidate) == (
        "pocketvlm run good --budget 72 --decoder onnx --decoder-precision fp32 "
        "--vision-precision fp32 --threads 1 --image PICTURE --prompt QUESTION"
    )
    data = to_dict(tuning)
    assert data["chosen"]["budget"] == 72
    assert len(data["candidates"]) == 2
