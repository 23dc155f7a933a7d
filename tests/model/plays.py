"""The steps of a machine that show a fault."""

from __future__ import annotations

from typing import Any

from tests.model.machine import KEYS, Target

__all__ = ('PLAYS', 'SHARDED_PLAYS')

TASK_A: dict[str, Any] = {'lane': 0, 'items': [(b'a', b'1', '300', '', '', b'')], 'skip': 0}
TASK_B: dict[str, Any] = {**TASK_A, 'items': [(b'b', b'1', '300', '', '', b'')]}
LATER: dict[str, Any] = {**TASK_A, 'items': [(b'a', b'1', '300', '3.000000', '', b'')]}
EXPIRING: dict[str, Any] = {**TASK_A, 'items': [(b'a', b'1', '300', '', '', b'', '', '+0.250000', '')]}
GROUPED_TASK: dict[str, Any] = {'lane': 0, 'items': [(b'a', b'1', '300', '', '', b'', '', '', '', (b'g', b''))]}
DONE = (3, '', b'')
CLAIM = {'lane': 0, 'n': 2, 'willing': '0.000000', 'cap': ''}
CLAIM_ONE = {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}
SCHEDULE: dict[str, Any] = {
    'lane': 0,
    'name': b'r',
    'owner': b'',
    'timing': ('', '', '5'),
    'offsets': (),
    'missed': 'skip',
    'overlap': 1,
    'delay': '',
    'more': ('', b'', '', ''),
    'line': ('', ''),
    'generation': '',
    'rank': 3,
    'is_current': True,
}
BEYOND_A_CAP: list[tuple[str, dict[str, Any]]] = [
    ('enqueue', TASK_A),
    ('enqueue', TASK_B),
    ('claim', CLAIM),
    ('reject', {'lane': 0, 'items': [Target(0, b'a', ''), Target(1, b'a', '')], 'cap': 1}),
]
PLAYS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    'a lane of another client will do': [
        ('wipe_the_rest', {'lane': 0}),
        ('enqueue', TASK_A),
        ('claim', {**CLAIM, 'lane': 2}),  # on a lane of the same number
        ('an_earlier_call_arrives_again', {'back': 1}),
    ],
    'a fence without the count': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', 'count'), DONE)]}),
    ],
    'late calls are done': [
        ('enqueue', TASK_A),
        ('enqueue', TASK_B),
        ('an_earlier_call_arrives_again', {'back': 1}),
    ],
    'settled calls are done when they arrive': [('a_call_is_settled', {'lane': 0, 'ahead': 1, 'later': 'enqueue'})],
    'a fence without the deadline': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('an_id_is_listed_anywhere', {'task_id': b'a', 'place': 'working', 'moment': 5.0}),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', ''), DONE)]}),
    ],
    'the token of the claim before will do': [
        ('enqueue', TASK_A),
        ('enqueue', TASK_B),
        ('claim', CLAIM),
        ('release', {'lane': 0, 'items': [(Target(1, b'a', ''), DONE), (Target(0, b'b', 'token'), DONE)]}),
    ],
    'a fence without the token': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', 'token'), DONE)]}),
    ],
    'extended, but not its claim': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('extend', {'items': [(Target(0, b'a', ''), '600.000000')]}),
    ],
    'no claim sees limits and headers': [
        ('enqueue', {**TASK_A, 'items': [(b'a', b'1', '300', '', '2', b'{}')]}),
        ('claim', CLAIM),
    ],
    'a result expires under a new task of the same id': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', ''), (3, 1000, b'1'))]}),
        ('enqueue', TASK_A),
    ],
    'what is postponed stays in pending': [
        ('enqueue', TASK_A),
        ('enqueue', {**TASK_A, 'items': [(b'a', b'1', '300', '3.000000', '', b'', 'replace', '', '')]}),
    ],
    'what is due at once stays delayed': [
        ('enqueue', LATER),
        ('enqueue', {**TASK_A, 'items': [(b'a', b'1', '300', '', '', b'', 'replace', '', '')]}),
    ],
    'what has expired starts': [('enqueue', EXPIRING), ('time_passes', {'seconds': 1.0}), ('claim', CLAIM)],
    'what expires waits until it is due': [
        ('enqueue', {**TASK_A, 'items': [(b'a', b'1', '300', '9.999999', '', b'', '', '+0.250000', '')]}),
    ],
    'nobody knows that tasks expire': [('enqueue', EXPIRING)],
    'one hint for many tasks': [('enqueue', {**TASK_A, 'items': [*TASK_A['items'], *TASK_B['items']]})],
    'any timer will do': [
        ('enqueue', {**TASK_B, 'items': [(b'b', b'1', '300', '9.999999', '', b'')]}),
        ('claim', {**CLAIM, 'willing': '60.000000'}),
        ('enqueue', LATER),
    ],
    'silent transitions': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('requeue', {'lane': 0, 'items': [(Target(0, b'a', ''), '', '', '')]}),
    ],
    'ids without a payload are dropped': [
        ('enqueue', TASK_A),
        ('a_payload_is_gone', {'task_id': b'a'}),
        ('claim', CLAIM),
    ],
    'what is worked on is replaced': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('enqueue', {**TASK_A, 'items': [(b'a', b'2', '300', '', '', b'', 'replace', '', '')]}),
    ],
    'who is asked to end a task may requeue it': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('cancel', {'lane': 0, 'task_id': b'a', 'running': 'ask'}),
        ('requeue', {'lane': 0, 'items': [(Target(0, b'a', ''), '', '', '')]}),
    ],
    'nobody knows that tasks are to end': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('cancel', {'lane': 0, 'task_id': b'a', 'running': 'ask'}),
    ],
    'tasks beside the shards': [('it_has_shards', {'mark': ('shards', '3')}), ('enqueue', TASK_A)],
    'consumers beside the shards': [('it_has_shards', {'mark': ('shards', '3')}), ('claim', CLAIM)],
    'features of a later version are ignored': [('a_later_version_is_used', {'letters': b'z'}), ('enqueue', TASK_A)],
    'a repeated claim with nothing left is not told so': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('release', {'lane': 1, 'items': [(Target(0, b'a', ''), DONE)]}),
        ('an_earlier_call_arrives_again', {'back': 1}),
    ],
    'a cap leaves payloads': BEYOND_A_CAP,
    'a cap removes one too many': BEYOND_A_CAP,
    'states of tasks wiped': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('wipe_states', {'task_ids': [b'a'], 'others': False}),
    ],
    'tasks vanish in silence': [('enqueue', TASK_A), ('erase', {'lane': 0, 'force': 1})],
    'an ignored task stays ignored': [
        ('enqueue', TASK_A),
        ('repair', {'fault': 'ignored', 'made': True, 'task_id': b'a'}),
    ],
    'a repair of what is listed twice leaves none': [
        ('enqueue', TASK_A),
        ('repair', {'fault': 'twice', 'made': True, 'task_id': b'a'}),
    ],
    'the end of a pause is missed': [
        ('flow', {'lane': 0, 'mode': 'pause', 'end': 3.0, 'reason': b'', 'limits': b''}),
        ('enqueue', TASK_A),
        ('claim', {**CLAIM, 'willing': '5.000000'}),
    ],
    'a pause that is over': [('flow', {'lane': 0, 'mode': 'pause', 'end': 0.0, 'reason': b'', 'limits': b''})],
    'a pause is not heeded': [
        ('flow', {'lane': 0, 'mode': 'pause', 'end': None, 'reason': b'', 'limits': b''}),
        ('enqueue', TASK_A),
        ('claim', CLAIM),
    ],
    'claims do not count': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'1 - - -'}),
        ('enqueue', TASK_A),
        ('enqueue', TASK_B),
        ('claim', CLAIM_ONE),
        ('claim', CLAIM_ONE),
    ],
    'deliveries do not count': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 1 250000 1'}),
        ('enqueue', TASK_A),
        ('claim', CLAIM_ONE),
    ],
    'a slot is free and nobody hears of it': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'1 - - -'}),
        ('enqueue', TASK_A),
        ('enqueue', TASK_B),
        ('claim', CLAIM),
        ('a_hint_is_taken', {}),
        ('a_hint_is_taken', {}),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', ''), DONE)]}),
    ],
    'old records of a pause overwrite new ones': [
        ('flow_of_another_shard', {'revision': '9000000000000', 'pause': ('', '', ''), 'limits': b''}),
        ('flow_of_another_shard', {'revision': '7', 'pause': ('', '', ''), 'limits': b''}),
    ],
    'what is given back counts': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 1 250000 1'}),
        ('time_passes', {'seconds': 1.0}),
        ('enqueue', TASK_A),
        ('claim', CLAIM_ONE),
        ('giveback', {'lane': 0, 'items': [Target(0, b'a', '')]}),
    ],
    'claims what is elsewhere': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('an_id_is_listed_anywhere', {'task_id': b'a', 'place': 'pending', 'moment': 0.0}),
        ('claim', CLAIM),
    ],
    'a schedule expires with an earlier record': [
        ('retire', {'lane': 0, 'name': b'r', 'rank': 3}),
        ('schedule', SCHEDULE),
        ('schedule', {**SCHEDULE, 'generation': '0'}),
    ],
    'claims that ended hold slots': [
        ('enqueue_in_lines', GROUPED_TASK),
        ('claim', CLAIM_ONE),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', ''), DONE)]}),
    ],
    'returning groups enter at the turn': [('enqueue_in_lines', GROUPED_TASK), ('claim', CLAIM_ONE)],
    'rates are forgotten while they are in force': [
        ('regulate', {'lane': 0, 'name': b'g', 'text': b'- 3 10000000 3 - - -'}),
        ('enqueue_in_lines', GROUPED_TASK),
        ('claim', CLAIM_ONE),
    ],
    'ordered tasks lose their place': [
        ('regulate', {'lane': 0, 'name': b'g', 'text': b'- - - - - 1 -'}),
        (
            'enqueue_in_lines',
            {**GROUPED_TASK, 'items': [GROUPED_TASK['items'][0], (b'b', *GROUPED_TASK['items'][0][1:])]},
        ),
        ('claim', CLAIM_ONE),
        ('time_passes', {'seconds': 400.0}),
        ('sweep', {'kind': 'stale', 'cap': ''}),
    ],
    'stale claims hold their slots': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'1 - - -'}),
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('time_passes', {'seconds': 300.0}),
        ('claim', CLAIM),
    ],
    'what came back stays set aside': [
        ('enqueue', TASK_A),
        ('a_payload_is_gone', {'task_id': b'a'}),
        ('claim', CLAIM_ONE),  # sets it aside
        ('enqueue', TASK_A),
        ('repair', {'fault': 'lost', 'made': True, 'task_id': b'a'}),
    ],
    'a claim records wrong counts': [
        ('enqueue', TASK_A),
        ('claim', CLAIM_ONE),
        ('time_passes', {'seconds': 400.0}),
        ('enqueue', TASK_B),
        ('claim', CLAIM),
    ],
    "another queue's states wiped": [
        ('enqueue', {**TASK_A, 'items': [(b'2:x:', b'1', '300', '', '', b'')]}),
        ('a_payload_is_gone', {'task_id': b'2:x:'}),
        ('wipe_states', {'task_ids': [b'2:x:'], 'others': True}),
    ],
    'old rates stay': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 3 10000000 3'}),
        ('enqueue', TASK_A),
        ('enqueue', TASK_B),
        ('claim', CLAIM_ONE),
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 1 250000 1'}),
        ('time_passes', {'seconds': 0.25}),
        ('claim', CLAIM_ONE),
    ],
    'a schedule does not place a group': [
        ('schedule', {**SCHEDULE, 'line': (b'g', '')}),
        ('time_passes', {'seconds': 5.5}),
        ('claim', CLAIM_ONE),
    ],
    'writes before a look at what may be of a wrong type': [
        ('a_key_is_of_a_wrong_type', {'name': 'pending'}),
        ('enqueue', TASK_A),
    ],
    'audits believe that groups wait for something': [
        ('regulate', {'lane': 0, 'name': b'g', 'text': b'0 - - - - - -'}),
        ('enqueue_in_lines', GROUPED_TASK),
        ('inspect_groups', {'names': [b'g']}),
    ],
    "audits believe in other groups' claims": [
        ('enqueue_in_lines', GROUPED_TASK),
        ('claim', CLAIM_ONE),
        ('a_group_counts_anything', {'task_id': b'a', 'group': b'h', 'kind': b'working:'}),
        ('inspect_members', {'kind': 'working', 'name': b'h'}),
    ],
    'a sweep leaves groups without tasks listed': [
        ('enqueue_in_lines', {'lane': 0, 'items': [(*EXPIRING['items'][0], (b'g', b''))]}),
        ('time_passes', {'seconds': 0.25}),
        ('sweep_groups', {'names': [b'h', b'g'], 'cap': ''}),
    ],
}
"""By the name of the fault."""

SURVEY = {'lifetime': 20_000, 'together': 1, 'bell': b'', 'names': ('q',)}
SHARDED_PLAYS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    'an old number of shards will do': [('enqueue_in_generation', {'lane': 0, 'task_ids': [b'a'], 'generation': '1'})],
    'who waits is not rung for': [('survey', SURVEY)],
    'who waits is not rung for by the bell of all': [('survey', {**SURVEY, 'bell': KEYS['bell']})],
    'who leaves rings for nobody': [('enqueue', TASK_A), ('survey', SURVEY), ('survey', {**SURVEY, 'lifetime': 0})],
    'shards with tasks are not looked at': [('enqueue', TASK_A), ('survey', SURVEY)],
    'a ring is left over': [
        ('survey', SURVEY),
        ('enqueue', {**TASK_A, 'items': [(b'a', b'1', '300', '9.999999', '', b'')]}),
        ('claim', {**CLAIM_ONE, 'willing': '5.000000'}),
    ],
    'the ring of others removed': [
        ('another_shard_has_something', {'place': 'delayed', 'moment': 0.0}),
        ('survey', {**SURVEY, 'names': ('q', 'p')}),
        ('survey', {**SURVEY, 'names': ('q', 'p'), 'lifetime': 0}),
        ('claim', CLAIM_ONE),
    ],
    'who rang first goes to the end': [
        ('survey', SURVEY),
        ('enqueue', TASK_A),
        ('time_passes', {'seconds': 1.0}),
        ('tick', {'lane': 0, 'willing': '0.000000', 'cap': ''}),
    ],
    'plain queues are taken over': [
        ('enqueue', TASK_A),
        ('layout', {'generation': 1, 'shards': '3', 'mode': 'set', 'bell': ()}),
    ],
    'states of tasks are cleared': [('enqueue', TASK_A), ('clear', {'generation': '0', 'task_ids': [b'a']})],
    'results of another layout are cleared': [('clear', {'generation': '3', 'task_ids': [b'a']})],
    'a change that is done stays begun': [
        ('layout', {'generation': 1, 'shards': '3', 'mode': 'intend', 'bell': ()}),
        ('layout', {'generation': 1, 'shards': '3', 'mode': 'set', 'bell': ()}),
    ],
    'any timer will do for a shard': [
        ('another_shard_has_something', {'place': 'delayed', 'moment': 5.0}),
        ('another_shard_has_something', {'place': 'timer', 'moment': 400.0}),
        ('survey', {**SURVEY, 'names': ('q', 'p')}),
    ],
    'old layouts overwrite new ones': [
        ('layout', {'generation': 2, 'shards': '3', 'mode': 'set', 'bell': ()}),
        ('layout', {'generation': 1, 'shards': '2', 'mode': 'set', 'bell': ()}),
    ],
    'a paused shard promises tasks': [
        ('another_shard_has_something', {'place': 'pending', 'moment': 0.0}),
        ('another_shard_has_something', {'place': 'pause', 'moment': 5.0}),
        ('survey', {**SURVEY, 'names': ('p',)}),
    ],
    'a full shard promises tasks': [
        ('another_shard_has_something', {'place': 'pending', 'moment': 0.0}),
        ('another_shard_has_something', {'place': 'pending', 'moment': 0.0}),
        ('another_shard_has_something', {'place': 'slots', 'moment': 0.0}),
        ('survey', {**SURVEY, 'names': ('p',)}),
    ],
    'who waits learns of no change': [
        ('survey', SURVEY),
        ('layout', {'generation': 1, 'shards': '3', 'mode': 'set', 'bell': KEYS}),
    ],
}
