"""Choose the groups of videos to validate on, so that each class comes near to its fraction."""
import hashlib
from collections import Counter

_N_STARTS = 50


def choose_groups(n_videos, fraction, seed):
    """Return the set of groups to validate on; `n_videos` maps each to its `{class: number of videos}`.

    Each class comes as near to the fraction as was found: from several random starts, a group at a time
    changes sides while that helps. Having none on one side is worse than any number, except for a class
    of one group, which is best left to training.
    """
    return set().union(*(_choose(part, fraction, seed) for part in _independent_parts(n_videos)))


def _independent_parts(n_videos):
    """Divide the groups into parts that share no class; yield the entries of each."""
    part_of = {}
    for group, classes in n_videos.items():
        touched = {id(part_of[name]): part_of[name] for name in classes if name in part_of}
        first, *others = sorted(touched.values(), key=len, reverse=True) or [{}]
        first[group] = classes
        for other in others:
            first.update(other)
        for name in {name for entries in (*others, {group: classes}) for c in entries.values() for name in c}:
            part_of[name] = first
    yield from {id(part): part for part in part_of.values()}.values()


def _choose(n_videos, fraction, seed):
    n_all, n_groups = Counter(), Counter()
    for classes in n_videos.values():
        n_all.update(classes)
        n_groups.update(classes.keys())
    too_bad = 2 * sum(n_all.values())

    def cost(name, n):
        is_one_sided = n == n_all[name] or (n == 0 and n_groups[name] > 1)
        return abs(n - fraction * n_all[name]) + too_bad * is_one_sided

    best_cost, best = None, set()
    for start in range(max(1, min(_N_STARTS, 200_000 // len(n_videos)))):
        order = sorted(n_videos, key=lambda group: _draw(f"{seed} {start} {group}"))
        chosen, n_chosen = _improved(n_videos, order, cost)
        whole_cost = sum(cost(name, n_chosen[name]) for name in n_all)
        if best_cost is None or whole_cost < best_cost:
            best_cost, best = whole_cost, chosen
        if best_cost <= len(n_all) / 2:  # half a video a class: the rounding
            break
    return best


def _draw(text):
    """Return a random number as bytes, the same for the same text on every machine."""
    return hashlib.sha256(text.encode()).digest()


def _improved(n_videos, order, cost):
    """Let groups change sides, in an order again and again, while that lowers the cost.

    Returns the set of groups chosen and the number of their videos in each class.
    """
    chosen, n_chosen, is_better = set(), Counter(), True
    while is_better:
        is_better = False
        for group in order:
            sign = -1 if group in chosen else 1
            after = {name: n_chosen[name] + sign * n for name, n in n_videos[group].items()}
            if sum(cost(name, n) - cost(name, n_chosen[name]) for name, n in after.items()) < -1e-9:
                chosen ^= {group}
                n_chosen.update({name: n - n_chosen[name] for name, n in after.items()})
                is_better = True
    return chosen, n_chosen
