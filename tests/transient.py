"""What servers answer while they cannot serve a call, and will again by themselves: code by code, in all its forms."""

from __future__ import annotations

__all__ = ('EACH', 'LASTING', 'TRANSIENT', 'UNAVAILABLE')

CODES = {
    'MOVED': '3999 127.0.0.1:6381',
    'ASK': '3999 127.0.0.1:6381',
    'TRYAGAIN': 'Multiple keys request during rehashing of slot',
    'CLUSTERDOWN': 'The cluster is down',
    'READONLY': "You can't write against a read only replica.",
    'LOADING': 'Redis is loading the dataset in memory',
    'MASTERDOWN': "Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    'NOREPLICAS': 'Not enough good replicas to write.',
    'UNBLOCKED': 'force unblock from blocking operation, instance state changed (master -> replica?)',
    'BUSY': 'Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.',
    'MISCONF': 'Errors writing to the AOF file: No space left on device',
    'OOM': "command not allowed when used memory > 'maxmemory'.",
}
FULL = 'OOM'
LEADS_ELSEWHERE = ('MOVED', 'ASK')

SCRIPT = 'ERR Error running script (call to f_60015d4d001f3bb04d2cb2c2e2064a7b768eb2e7): @user_script:1:'
"""How Redis 6.2 and KeyDB begin to say what went wrong in a script."""

FORMS = (
    '{code} {text}',
    '{code} {text} script: 60015d4d001f3bb04d2cb2c2e2064a7b768eb2e7, on @user_script:12.',
    SCRIPT + ' {code} {text}',
    SCRIPT + ' @user_script: 12: -{code} {text}',
    SCRIPT + ' user_script:12: @user_script: 4: -{code} {text}',
    'ERR user_script:12: {code} {text} script: 60015d4d001f3bb04d2cb2c2e2064a7b768eb2e7, on @user_script:1.',
)

WORDS = (
    'ERR max number of clients reached',
    'ERR max number of clients + cluster connections reached',
    'ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured',
    'ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local',
    'ERR Script attempted to access a non local key in a cluster node script: 6001, on @user_script:12.',
    SCRIPT + ' @user_script: 12: Script attempted to access a non local key in a cluster node',
    'ERR Script attempted to access a slot not served script: 6001, on @user_script:12.',
    'ERR Script attempted to execute a command while the cluster is down script: 6001, on @user_script:12.',
    'ERR Script attempted to execute a write command while the cluster is down and readonly script: 6001',
)


def _forms(code: str) -> list[str]:
    forms = FORMS[:1] if code in LEADS_ELSEWHERE else FORMS
    return [form.format(code=code, text=CODES[code]) for form in forms]


UNAVAILABLE = [*(text for code in CODES if code != FULL for text in _forms(code)), *WORDS]
"""The server looked at nothing: the call is to be made again."""

TRANSIENT = [*UNAVAILABLE, *_forms(FULL)]
"""All that a worker outlasts."""

EACH = [f'{code} {text}' for code, text in CODES.items() if code != FULL] + [
    SCRIPT + ' @user_script: 12: -READONLY no',
    WORDS[0],
    WORDS[2],
    WORDS[4],
]
"""Of `UNAVAILABLE` each kind once, for tests that take longer."""

LASTING = [
    'NOPERM this user has no permissions',
    'WRONGTYPE Operation against a key holding the wrong kind of value',
    SCRIPT + ' WRONGTYPE Operation against a key holding the wrong kind of value',
    SCRIPT + " @user_script: 1: The user executing the script can't run this command or subcommand",
    SCRIPT + ' @user_script: 1: Unknown Redis command called from Lua script',
    'NOAUTH Authentication required.',
    'WRONGPASS invalid username-password pair',
    'CROSSSLOT Keys in request do not hash to the same slot',
    "ERR unknown command 'EVALSHA'",
    'ERR This instance has cluster support disabled',
    'BUSYGROUP Consumer Group name already exists',
    'DENIED Redis is running in protected mode',
    'EXECABORT Transaction discarded because of previous errors.',
]
"""What waiting does not help against."""
