"""Check the findings of studies on simulated ones, whose differences are known.

    python benchmarks/findings_simulation.py --work .bench

Simulates score tables: four experts, merged in pairs or all together by two methods with and
without DARE, and a sweep of the single experts; or, for rankings, eight experts and ten methods.
Whether a model answers a question right depends on
the question, the task, the experts, the training seed, the mask and chance (normal effects on a
latent scale, so that true scores have a closed form). Makes the findings, or the ranking, of each
table as a study does, and compares them with the truth. Writes `findings_simulation.md`: for each
scenario and kind of finding

- false: share of tables with at least one wrong claim, at most 5 % by design. A claim is wrong if
  the sides do not differ, or the other way round; or if another recipe is as good as the best. Of a
  ranking, a claim is that a recipe is worse than the best of all sets;
- found: share of true differences of one point or more that are claimed, or of sets on which the
  leading recipe is the best of all and called so;
- intervals: share of tables in which all intervals of the kind contain the truth, 95 % by design;
- alone: share of all intervals that contain the truth when they are not corrected for the number of
  comparisons, 95 % by design;
- others: share of tables in which all intervals for other experts contain the mean over all experts
  that there could be;
- pooled: wrong claims of a t test that takes every question with every seed as independent;
- bootstrap: wrong claims of a percentile bootstrap that draws training seeds, masks and questions,
  each as a level of its own.

All shares are in percent.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from tabulate import tabulate

from mergegrid.study.scoring.design import SINGLE
from mergegrid.study.scoring.differences import LEVEL, apart, differences
from mergegrid.study.scoring.findings import LEAST, FamilyComparisons, recipe_name
from mergegrid.study.scoring.levels import SEEDS, TaskOutcomes
from mergegrid.study.scoring.outcomes import mean_errors
from mergegrid.study.scoring.ranking import Ranking

Floats = NDArray[np.float64]
Recipe = tuple[str, str]
METHODS, RATES = ("average", "ties"), (0.5, 0.9)
MANY_METHODS = (*METHODS, *(f"method {number}" for number in range(3, 11)))
KINDS = ("best", "experts", "sparsifier", "drop_rate", "ranking")
EQUAL_SCORES = 0.002
"""Recipes whose true scores differ by less are equal in a ranking: those with and without masks
are so nearly, where only the mean over all experts is equal."""
#: Standard deviations of what a question adds for a group of models, and for one model.
GROUP_NOISE, MODEL_NOISE = 0.5, 0.3
RESAMPLES = 299
"""Of the bootstrap that is shown for comparison."""

logger = logging.getLogger("simulation")


@dataclass(frozen=True)
class Scenario:
    """A study to simulate; scores are shares of right answers."""

    experts: int = 4
    sets: str = "pairs"
    """All `pairs`, `one` set of all experts, or 12 pairs, 8 sets of four and one of `all sizes`."""
    methods: tuple[str, ...] = METHODS
    questions: int = 150
    training_seeds: int = 1
    mask_seeds: int = 3
    scores: dict[Recipe, float] = field(default_factory=dict)
    """True mean score of recipes, single experts (`""`, kind) included; 0.7 where not given."""
    tasks_differ: float = 0.4
    sets_differ: float = 0.0
    """Standard deviation between experts of how much better a recipe is, on the latent scale, where
    0.1 is about 3 points."""
    training_differs: float = 0.0
    masks_differ: float = 0.05


EQUAL = Scenario()
EFFECTS = {
    ("average", "none"): 0.65,
    ("average", "dare"): 0.63,
    ("ties", "none"): 0.72,
    ("ties", "dare"): 0.67,
    ("", "none"): 0.80,
    ("", "dare 0.5"): 0.80,
    ("", "dare 0.9"): 0.75,
}
"""2 and 5 points of DARE, 5 of the best recipe, 8 to the single experts, 0 and 5 of drop rates."""


def equal_effects(size: float) -> dict[Recipe, float]:
    """Scores of which each true difference of a finding has one size."""
    merges = {("average", "none"): 0.7, ("average", "dare"): 0.7 - size}
    merges |= {("ties", "none"): 0.7 + size, ("ties", "dare"): 0.7}
    single = 0.7 + 2 * size
    return merges | {("", "none"): single} | {("", f"dare {rate}"): single - size for rate in RATES}


MANY = Scenario(experts=8, sets="all sizes", methods=MANY_METHODS, questions=128, training_seeds=2)


def steps() -> dict[Recipe, float]:
    """Scores of 10 methods, 2 points from each other, and 1 point less with DARE."""
    scores = {}
    for number, method in enumerate(MANY_METHODS):
        scores[method, "none"] = 0.78 - 0.02 * number
        scores[method, "dare"] = 0.77 - 0.02 * number
    return scores


SCENARIOS = {
    "no differences": EQUAL,
    "no differences, 20 questions": replace(EQUAL, questions=20),
    "no differences, one mask seed": replace(EQUAL, mask_seeds=1, masks_differ=0.0),
    "no differences, one set": replace(EQUAL, sets="one", training_seeds=3, training_differs=0.05),
    "seeds differ, 2 and 2": replace(
        EQUAL, training_seeds=2, mask_seeds=2, training_differs=0.15, masks_differ=0.15
    ),
    "seeds differ, 3 and 3": replace(
        EQUAL, training_seeds=3, training_differs=0.15, masks_differ=0.15
    ),
    "seeds differ, one set": replace(
        EQUAL, sets="one", training_seeds=3, training_differs=0.15, masks_differ=0.15
    ),
    "experts differ": replace(EQUAL, sets_differ=0.2),
    "experts differ, 8 experts": replace(EQUAL, experts=8, sets_differ=0.2),
    "2 points": replace(EQUAL, scores=equal_effects(0.02)),
    "5 points": replace(EQUAL, scores=equal_effects(0.05)),
    "2 points, 1000 questions": replace(EQUAL, scores=equal_effects(0.02), questions=1000),
    "effects": replace(EQUAL, scores=EFFECTS),
    "effects, 1000 questions": replace(EQUAL, scores=EFFECTS, questions=1000),
    "effects, all differs": replace(
        EQUAL, scores=EFFECTS, experts=6, training_seeds=3, training_differs=0.1,
        masks_differ=0.1, sets_differ=0.1,
    ),
    "20 recipes, no differences": MANY,
    "20 recipes, seeds differ": replace(MANY, training_differs=0.15, masks_differ=0.15),
    "20 recipes, effects": replace(
        MANY, scores=steps(), training_differs=0.05, masks_differ=0.05, sets_differ=0.1
    ),
}  # fmt: skip


def _sets(names: list[str], sets: str) -> list[tuple[str, ...]]:
    if sets == "one":
        return [tuple(names)]
    if sets == "pairs":
        return list(combinations(names, 2))
    random = np.random.Generator(np.random.Philox(2))
    return [
        members
        for size, count in ((2, 12), (4, 8), (len(names), 1))
        for members in random.permutation(list(combinations(names, size)))[:count].tolist()
    ]


class Simulation:
    """Tables of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.models = pd.DataFrame(self._models()).rename_axis("model").reset_index()
        self.comparisons = FamilyComparisons(self.models)
        self.ranking = Ranking(self.models)
        names = [f"e{number}" for number in range(scenario.experts)]
        members = [text.split("+") for text in self.models["experts"]]
        shares = [[(name in part) / np.sqrt(len(part)) for name in names] for part in members]
        self.shares = np.array(shares)  # [models, experts]
        self.head = self.models["head"].str[1:].astype(int).to_numpy()
        kinds = self.models["sparsifier"].where(
            self.models["study"] == "merges", self.models["kind"]
        )
        methods = self.models["method"].where(self.models["study"] == "merges", "")
        self.recipes = list(zip(methods, kinds, strict=True))
        _, self.recipe = np.unique([f"{a} {b}" for a, b in self.recipes], return_inverse=True)
        # Models that share what a question adds: all but the sparsifier and its mask.
        group = ["experts", "head", "method", "training_seed"]
        self.group = self.models.groupby(group).ngroup().to_numpy()
        several = scenario.training_seeds > 1, scenario.mask_seeds > 1
        self.spreads = np.array([self._spread(recipe, *several) for recipe in self.recipes])
        self.truth_shares = self._shares_of_truths()
        self.changes = {method: self._changes(method) for method in scenario.methods}
        random = np.random.Generator(np.random.Philox(0))
        count = scenario.questions
        self.drawn = random.multinomial(
            count, np.full(count, 1 / count), size=(scenario.experts, RESAMPLES)
        ).astype(np.float64)  # [experts, resamples, questions]

    def _models(self) -> Iterator[dict[str, Any]]:
        scenario = self.scenario
        names = [f"e{number}" for number in range(scenario.experts)]
        sets = _sets(names, scenario.sets)
        masked = [("dare", seed) for seed in range(scenario.mask_seeds)]
        same = {"family": "simulated", "engine": "", "n": scenario.questions, "settings": "{}"}
        for seed in range(scenario.training_seeds):
            for experts in sets:
                for head in experts:
                    for method in scenario.methods:
                        for kind, mask in [("none", np.nan), *masked]:
                            yield {
                                **same,
                                **{"study": "merges", "experts": "+".join(experts), "kind": kind},
                                **{"head": head, "task": head, "method": method},
                                **{"sparsifier": kind, "rate": 0.9 * (kind == "dare")},
                                **{"training_seed": seed, "mask_seed": mask},
                            }
            for head in names:
                points = [("none", 0.0, np.nan)]
                points += [(kind, rate, mask) for rate in RATES for kind, mask in masked]
                for kind, rate, mask in points:
                    yield {
                        **same,
                        **{"study": "sweep", "experts": head, "head": head, "task": head},
                        **{"method": "average", "sparsifier": kind, "rate": rate},
                        "kind": kind if kind == "none" else f"{kind} {rate:g}",
                        **{"training_seed": seed, "mask_seed": mask},
                    }

    def table(self, random: np.random.Generator) -> tuple[list[TaskOutcomes], Floats, Floats]:
        """Draw the answers of a table, and what of a latent score is fixed by experts, [models]."""
        scenario, count = self.scenario, self.scenario.experts
        recipes = int(self.recipe.max()) + 1
        seeds, masks = scenario.training_seeds, scenario.mask_seeds
        training = self.models["training_seed"].to_numpy()
        mask = self.models["mask_seed"].fillna(-1).astype(int).to_numpy()
        of_experts = random.normal(size=(recipes, count))[self.recipe]
        fixed = scenario.tasks_differ * random.normal(size=count)[self.head]
        fixed = fixed + scenario.sets_differ * (of_experts * self.shares).sum(axis=1)
        shared = random.normal(size=(seeds, recipes, count))[training, self.recipe]
        of_training = scenario.training_differs * (shared * self.shares).sum(axis=1)
        shared = random.normal(size=(masks, recipes, count))[mask, self.recipe]
        of_masks = scenario.masks_differ * (shared * self.shares).sum(axis=1) * (mask >= 0)
        means = np.array([self._latent(recipe) for recipe in self.recipes])
        latent = means + fixed + of_training + of_masks
        # The only seed belongs to the experts: nothing is said about others.
        fixed = means + fixed + of_training * (seeds == 1) + of_masks * (masks == 1)
        tasks, values = [], np.empty(len(self.models))
        for head in range(count):
            models = np.flatnonzero(self.head == head)
            questions = random.normal(size=scenario.questions)
            groups, group = np.unique(self.group[models], return_inverse=True)
            noise = GROUP_NOISE * random.normal(size=(len(groups), scenario.questions))[group]
            noise += MODEL_NOISE * random.normal(size=(len(models), scenario.questions))
            right = (latent[models, None] + questions + noise > 0).astype(np.float64)
            values[models] = right.mean(axis=1)
            tasks.append(TaskOutcomes(models, mean_errors(right), right))
        return tasks, values, fixed

    def score(self, recipe: Recipe) -> float:
        """True mean score of a recipe over experts, seeds and questions."""
        return self.scenario.scores.get(recipe, 0.7)

    def _latent(self, recipe: Recipe) -> float:
        """Mean latent score that gives the true score of a recipe over experts and seeds."""
        scenario = self.scenario
        spread = self._spread(recipe, True, True) ** 2
        spread += scenario.tasks_differ**2 + scenario.sets_differ**2
        return float(ndtri(self.score(recipe)) * np.sqrt(spread))

    def _spread(self, recipe: Recipe, training: bool, masks: bool) -> float:
        """Standard deviation of a latent answer, given the experts, over questions and seeds."""
        parts = [1.0, GROUP_NOISE, MODEL_NOISE]
        parts += [self.scenario.training_differs] * training
        parts += [self.scenario.masks_differ] * (masks and recipe[1] != "none")
        return float(np.sqrt(np.square(parts).sum()))

    def _shares_of_truths(self) -> dict[tuple[str, Recipe], Floats]:
        """Weights of the models in each true score, by set (empty for the mean over all)."""
        frame = self.models.assign(recipe=self.recipes)
        found: dict[tuple[str, Recipe], Floats] = {}
        for (_, recipe), rows in frame.groupby(["study", "recipe"], sort=False):
            of_sets = []
            for experts, of_set in rows.groupby("experts"):
                weights = np.zeros(len(frame))
                for _, of_head in of_set.groupby("head"):
                    weights[of_head.index] = 1 / len(of_head) / of_set["head"].nunique()
                found[str(experts), recipe] = weights
                of_sets.append(weights)
            found["", recipe] = np.mean(of_sets, axis=0)
        singles = {
            experts: np.mean([found[name, ("", "none")] for name in experts.split("+")], axis=0)
            for experts in frame.loc[frame["study"] == "merges", "experts"].unique()
        }
        found |= {(experts, ("", SINGLE)): weights for experts, weights in singles.items()}
        found["", ("", SINGLE)] = np.mean(list(singles.values()), axis=0)
        return found

    def truths(self, fixed: Floats) -> dict[tuple[str, Recipe], float]:
        """True scores by set (empty for the mean over all) and recipe, for the experts at hand."""
        probability = ndtr(fixed / self.spreads)
        return {key: float(weights @ probability) for key, weights in self.truth_shares.items()}

    def judged(self, random: np.random.Generator) -> Iterator[dict[str, Any]]:
        """Findings of one more table beside the truth."""
        tasks, values, fixed = self.table(random)
        truths = self.truths(fixed)
        by_name = {recipe_name(*recipe): recipe for recipe in set(self.recipes) if recipe[0]}
        for row in self.comparisons.findings(values, tasks):
            kind, place = row["kind"], row["experts"]
            recipe = row["method"], row["sparsifier"]
            if kind == "drop_rate":
                recipe = ("", f"{row['sparsifier']} {row['rate']}")
            other = {SINGLE: ("", SINGLE), "none": (row["method"], "none")}
            other = other.get(row["against"]) or by_name[row["against"]]
            truth = truths[place, recipe] - truths[place, other]
            # Of all experts, those of a task with its expert are the single experts.
            of_all = self.score(recipe) - self.score(("", "none") if other[1] == SINGLE else other)
            claimed = row["p_corrected"] < LEVEL
            right = truth * row["difference"] > 0
            if kind == "best":
                rivals = [truths[place, name] for name in by_name.values() if name != recipe]
                right = truths[place, recipe] > max(rivals)
            parts = [row[f"se_{level}"] for level in ("examples", *SEEDS)]
            half = -stdtrit(row["df"], 0.025) * np.sqrt(np.nansum(np.square(parts)))
            simpler = {"pooled": np.nan, "bootstrap": np.nan}
            if kind == "sparsifier":
                simpler = self._by_other_tests(row, tasks, truth)
            yield {
                "kind": kind,
                "wrong": claimed and not right,
                "true": abs(truth) > LEAST and (kind != "best" or right),
                "found": claimed and right,
                "covered": row["low"] <= truth <= row["high"],
                "alone": abs(row["difference"] - truth) <= half,
                "others": row["low_others"] <= of_all <= row["high_others"]
                if row["se_sets"] == row["se_sets"]
                else np.nan,
                **simpler,
            }

    def judged_ranking(self, random: np.random.Generator) -> Iterator[dict[str, Any]]:
        """One more table: a row for each recipe behind the best over all sets."""
        tasks, values, fixed = self.table(random)
        truths = self.truths(fixed)
        pairs = self.ranking.pairs(values)
        behind = [(design, pair) for design, pair in pairs if pair.one == pairs[0][1].one]
        gaps = differences(behind, values, tasks)
        is_apart = apart([gap.here for gap in gaps])
        for (_, pair), gap, claimed in zip(behind, gaps, is_apart, strict=True):
            truth, of_all = (
                scores(*pair.one[1:]) - scores(*pair.other[1:])
                for scores in (
                    lambda *recipe: truths["", recipe],
                    lambda *recipe: self.score(recipe),
                )
            )
            low, high = gap.here.interval(1 - LEVEL, len(behind) + 1)
            others = gap.others.interval(1 - LEVEL, len(behind) + 1) if gap.others else None
            yield {
                "kind": "ranking",
                "wrong": claimed and truth < EQUAL_SCORES,
                "true": truth > LEAST,
                "found": claimed,
                "covered": low <= truth <= high,
                "others": others[0] <= of_all <= others[1] if others else np.nan,
                **dict.fromkeys(("alone", "pooled", "bootstrap"), np.nan),
            }

    def _changes(self, method: str) -> tuple[pd.DataFrame, Floats]:
        """Merges with DARE beside those without, and their weights in resamples of all seeds."""
        merges = self.models[self.models["study"] == "merges"]
        of_method = merges[merges["method"] == method]
        keys = ["experts", "head", "training_seed"]
        plain = of_method[of_method["sparsifier"] == "none"][[*keys, "model"]]
        pairs = of_method[of_method["sparsifier"] == "dare"].merge(plain, on=keys)
        random = np.random.Generator(np.random.Philox(1))
        weights = np.ones((RESAMPLES, len(pairs)))
        for name in ("training_seed", "mask_seed"):
            codes, units = pd.factorize(pairs[name])
            shares = [1 / len(units)] * len(units)
            weights *= random.multinomial(len(units), shares, size=RESAMPLES)[:, codes]
        return pairs, weights

    def _by_other_tests(
        self, row: dict[str, Any], tasks: list[TaskOutcomes], truth: float
    ) -> dict[str, Any]:
        """Whether two simpler tests claim something wrong of a sparsifier."""
        pairs, weights = self.changes[row["method"]]
        answers = np.zeros((len(self.models), self.scenario.questions))
        for task in tasks:
            answers[task.models] = task.outcomes
        change = answers[pairs["model_x"]] - answers[pairs["model_y"]]  # [merges, questions]
        stderr = change.std(ddof=1) / np.sqrt(change.size)
        pooled = 2 * stdtr(change.size - 1, -abs(change.mean()) / max(stderr, 1e-12))
        means = np.zeros(RESAMPLES)
        heads = self.head[pairs["model_x"]]
        for head in range(self.scenario.experts):
            places = np.flatnonzero(heads == head)
            means += (weights[:, places] * (self.drawn[head] @ change[places].T)).sum(axis=1)
        rarer = min((means <= 0).sum(), (means >= 0).sum())
        tests = {"pooled": pooled, "bootstrap": min(1.0, 2 * (rarer + 1) / (RESAMPLES + 1))}
        return {
            name: bool(p * row["comparisons"] < LEVEL and truth * change.mean() <= 0)
            for name, p in tests.items()
        }


def simulate(scenario: Scenario, tables: int, seed: int = 0) -> pd.DataFrame:
    """Simulate tables of a scenario: a row per kind of finding, with shares as described above."""
    simulation, random = Simulation(scenario), np.random.Generator(np.random.Philox(seed))
    many = scenario.methods == MANY_METHODS
    judge = simulation.judged_ranking if many else simulation.judged
    judged = pd.DataFrame(
        [{"table": table, **row} for table in range(tables) for row in judge(random)]
    )
    by_table = judged.groupby(["kind", "table"])
    result = by_table.agg(
        {"wrong": "any", "covered": "all", "others": "min", "pooled": "max", "bootstrap": "max"}
    )
    result = result.astype("float64").groupby("kind").mean()
    result["found"] = judged[judged["true"]].groupby("kind")["found"].mean()
    result["alone"] = judged.groupby("kind")["alone"].mean()
    shown = ["wrong", "found", "covered", "alone", "others", "pooled", "bootstrap"]
    return result.reindex([kind for kind in KINDS if kind in result.index])[shown]


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the table")
    parser.add_argument("--tables", type=int, default=1000, help="tables of each scenario")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only:
        for kind, shares in simulate(SCENARIOS[name], arguments.tables).iterrows():
            texts = ["" if pd.isna(share) else f"{100 * share:.1f}" for share in shares]
            rows.append([name, f"`{kind}`", *texts])
        logger.info("%s", name)
    heads = ["Scenario", "Finding", "False", "Found", "Intervals", "Alone", "Others", "Pooled"]
    heads.append("Bootstrap")
    table = tabulate(rows, heads, "pipe", disable_numparse=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "findings_simulation.md").write_text(table + "\n")
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
