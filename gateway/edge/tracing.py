"""Which calls are traced, as the edge decides it: W3C Trace Context in HAProxy's configuration.

A call has a valid `traceparent` or none (https://www.w3.org/TR/trace-context/, section 3.2). Chance picks
some of those that have none. A caller that has one decides for itself; who asks for a trace with each call
gets no more than so many in a second, and then chance decides for it too.
"""

from __future__ import annotations

from dataclasses import dataclass

PARENT_FORM = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$"
"""What every version of a `traceparent` begins with."""
PARENT_FAULTS = ("^ff", "^00.{54}", "^..-0{32}", "^.{35}-0{16}")
"""No version; longer than version 00; the ids that are none."""
SAMPLED_FORM = "^.{54}[13579bdf]"
"""The last bit of the flags: the caller asks for a trace."""
TRACE_DIGITS = 32
"""How many hexadecimal digits a trace's id has."""
_DIGITS = "uuid,sha2(256),hex,lower"
NEW_TRACE = f"%[{_DIGITS},bytes(0,48)]%[date(0,us)]"
"""What HAProxy keeps of a traced call in `txn.ids`: its trace, its span, and when it began."""
NEW_SPAN = f"%[var(txn.parented),bytes(0,32)]%[{_DIGITS},bytes(0,16)]%[date(0,us)]"
"""The same where the caller has a trace."""
TRACE_ID = "var(txn.ids),bytes(0,32)"
"""The call's trace, as an expression of HAProxy's."""
SPAN_ID = "var(txn.ids),bytes(32,16)"
"""The call's span at the edge."""
BEGAN = "var(txn.ids),bytes(48)"
"""When the edge took the call, in microseconds since 1970."""
PARENT_ID = "var(txn.parented),bytes(33,16)"
"""The caller's span."""
SHARES = 1_000_000
"""Of so many calls, chance picks `EdgeTracing.share`."""
TRACKED = 7
"""HAProxy's number of what is tracked of a call: who asks for a trace."""
CALLERS = "trace_callers"
"""The table in which those calls are counted, by caller."""


@dataclass(frozen=True, slots=True)
class EdgeTracing:
    """Which calls are traced."""

    sample: float
    """The part of the calls, from 0 to 1, that chance picks."""
    caller_rate: int
    """How many calls with the sampled flag are traced of one caller in a second."""

    @property
    def share(self) -> int:
        """The same part, of `SHARES`."""
        return round(self.sample * SHARES)
