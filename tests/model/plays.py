"""The steps of a machine that show a fault."""

from __future__ import annotations

from typing import Any

from tests.model.machine import KEYS, Target

__all__ = ('PLAYS', 'SHARDED_PLAYS')

TASK_A = {'lane': 0, 'items': [(b'a', b'1', '300', '', '', b'')], 'skip': 0}
GROUPED_TASK = {'lane': 0, 'items': [(b'a', b'1', '300', '', '', b'', '', '', '', (b'g', b''))]}
EXPIRING_TASK = {'lane': 0, 'items': [(b'a', b'1', '300', '', '', b'', '', '+0.250000', '', (b'g', b''))]}
CLAIM = {'lane': 0, 'n': 2, 'willing': '0.000000', 'cap': ''}
BEYOND_A_CAP: list[tuple[str, dict[str, Any]]] = [
    ('enqueue', TASK_A),
    ('enqueue', {**TASK_A, 'items': [(b'b', b'1', '300', '', '', b'')]}),
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
        ('release', {'lane': 0, 'items': [(Target(0, b'a', 'count'), (3, '', b''))]}),
    ],
    'a fence without the token': [
        ('enqueue', TASK_A),
        ('claim', CLAIM),
        ('release', {'lane': 0, 'items': [(Target(0, b'a', 'token'), (3, '', b''))]}),
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
        ('release', {'lane': 1, 'items': [(Target(0, b'a', ''), (3, '', b''))]}),
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
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),  # sets it aside
        ('enqueue', TASK_A),
        ('repair', {'fault': 'lost', 'made': True, 'task_id': b'a'}),
    ],
    'a claim records wrong counts': [
        ('enqueue', TASK_A),
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),
        ('time_passes', {'seconds': 400.0}),
        ('enqueue', {**TASK_A, 'items': [(b'b', b'1', '300', '', '', b'')]}),
        ('claim', {'lane': 0, 'n': 2, 'willing': '0.000000', 'cap': ''}),
    ],
    "another queue's states wiped": [
        ('enqueue', {**TASK_A, 'items': [(b'2:x:', b'1', '300', '', '', b'')]}),
        ('a_payload_is_gone', {'task_id': b'2:x:'}),
        ('wipe_states', {'task_ids': [b'2:x:'], 'others': True}),
    ],
    'old rates stay': [
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 3 10000000 3'}),
        ('enqueue', TASK_A),
        ('enqueue', {**TASK_A, 'items': [(b'b', b'1', '300', '', '', b'')]}),
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),
        ('flow', {'lane': 0, 'mode': 'limit', 'end': None, 'reason': b'', 'limits': b'- 1 250000 1'}),
        ('time_passes', {'seconds': 0.25}),
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),
    ],
    'a schedule does not place a group': [
        (
            'schedule',
            {
                'lane': 0,
                'name': b'r',
                'owner': b'',
                'timing': ('', '', '5'),
                'offsets': (),
                'missed': 'skip',
                'overlap': 1,
                'delay': '',
                'more': ('', b'', '', ''),
                'line': (b'g', ''),
                'generation': '',
                'rank': 0,
                'is_current': True,
            },
        ),
        ('time_passes', {'seconds': 5.5}),
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),
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
        ('claim', {'lane': 0, 'n': 1, 'willing': '0.000000', 'cap': ''}),
        ('a_group_counts_anything', {'task_id': b'a', 'group': b'h', 'kind': b'working:'}),
        ('inspect_members', {'kind': 'working', 'name': b'h'}),
    ],
    'a sweep leaves groups without tasks listed': [
        ('enqueue_in_lines', EXPIRING_TASK),
        ('time_passes', {'seconds': 0.25}),
        ('sweep_groups', {'names': [b'h', b'g'], 'cap': ''}),
    ],
}
"""The steps of a machine in which a fault shows that random ones seldom find."""

SURVEY = {'lifetime': 20_000, 'together': 1, 'bell': b'', 'names': ('q',)}
SHARDED_PLAYS: dict[str, list[tuple[str, dict[str, Any]]]] = {
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
