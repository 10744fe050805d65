"""An operation is applied at most once, however often it is repeated; exactly once when it is
acknowledged; and never when it was said not to have been applied.

Judged by lists to which every operation appends its own number.
"""

from tests.sim.history import NOT_APPLIED, History
from tests.sim.register_history import LIST, Call, calls_on, keys_of


def applied_once(history: History) -> list[str]:
    """Reads of lists in which a number stands twice, is missing, or may not stand."""
    found = []
    for key in keys_of(history, LIST):
        calls = calls_on(history, key)
        appends = {call.first.value or b"": call for call in calls if call.first.kind == "append"}
        for read in (call for call in calls if call.first.kind == "get"):
            numbers = [each + b"," for each in (read.first.found or b"").split(b",")[:-1]]
            found += [f"{read}: {problem}" for problem in _problems(numbers, appends, read)]
    return found


def _problems(numbers: list[bytes], appends: dict[bytes, Call], read: Call) -> list[str]:
    found = []
    for number in sorted(set(numbers)):
        if numbers.count(number) > 1:
            found.append(f"{appends[number]} was applied {numbers.count(number)} times")
        if appends[number].outcome == NOT_APPLIED:
            found.append(f"{appends[number]} was applied")
    for number, call in sorted(appends.items()):
        end = call.end
        if end is not None and end.ended < read.began and number not in numbers:
            found.append(f"{call} is missing")
    return found
