import pytest

from torrelque.errors import TorrelqueTypeError, TorrelqueValueError
from torrelque.transports.native.url import Address, parse_url, parse_urls


@pytest.mark.parametrize(
    ('url', 'address'),
    [
        ('redis://localhost', Address(host='localhost')),
        ('REDIS://Localhost/', Address(host='localhost')),
        ('redis://10.0.0.1:6380/2', Address(host='10.0.0.1', port=6380, db=2)),
        ('redis://h?db=3', Address(host='h', db=3)),
        ('redis://h/?db=3', Address(host='h', db=3)),
        ('redis://[::1]', Address(host='::1')),
        ('redis://[fe80::1]:7000/1', Address(host='fe80::1', port=7000, db=1)),
        ('rediss://h:7000', Address(host='h', port=7000, tls=True)),
        ('redis://me:secret@h', Address(host='h', user='me', password='secret')),
        ('redis://:secret@h', Address(host='h', password='secret')),
        ('redis://me@h', Address(host='h', user='me', password='')),
        ('redis://@h', Address(host='h')),
        ('redis://m%40e:p%2F%3A%25%C3%A9@h/%31', Address(host='h', user='m@e', password='p/:%é', db=1)),
        ('unix:///run/a.sock', Address(path='/run/a.sock')),
        ('unix:///run/a%20b.sock?db=15', Address(path='/run/a b.sock', db=15)),
        ('unix://me:secret@/run/a.sock', Address(path='/run/a.sock', user='me', password='secret')),
    ],
)
def test_parses(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ('url', 'says'),
    [
        ('', 'unknown scheme, expected one of redis://'),
        ('localhost:6379', 'unknown scheme'),
        ('http://localhost', 'unknown scheme'),
        ('redis:localhost', 'unknown scheme'),
        ('redis:/localhost', 'unknown scheme'),
        ('redis://', 'expected a host'),
        ('redis:///0', 'expected a host'),
        ('redis://:6379', 'expected a host'),
        ('redis://h:port', 'port from 1 to 65535'),
        ('redis://h:0', 'port from 1 to 65535'),
        ('redis://h:65536', 'port from 1 to 65535'),
        ('redis://h/mail', "not 'mail'"),
        ('redis://h/-1', "not '-1'"),
        ('redis://h/1/2', "not '1/2'"),
        ('redis://h/²', "not '²'"),
        ('redis://h?db=', "not ''"),
        ('redis://h/99999999999', 'must be a number'),
        ('redis://h/1?db=1', 'given twice'),
        ('redis://h?db=1&db=2', 'more than once'),
        ('redis://h?db', 'bad query field'),
        ('redis://h?protocol=3', "unknown option 'protocol', the only one is db"),
        ('redis://h#1', '%23'),
        ('redis://h /1', 'percent-encoded'),
        ('redis://h\n/1', 'percent-encoded'),
        ('redis://[::1', 'malformed'),
        ('redis://me:%ff@h', 'utf-8'),
        ('redis://h%00', 'NUL'),
        ('unix:///a%00', 'NUL'),
        ('unix://', 'absolute path'),
        ('unix:///', 'absolute path'),
        ('unix://run/a.sock', 'absolute path'),
        ('unix:///a.sock?db=x', "not 'x'"),
    ],
)
def test_refuses(url: str, says: str) -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        parse_url(url)
    assert says in str(caught.value)
    assert repr(url) in str(caught.value) or '@' in url


@pytest.mark.parametrize('url', [None, b'redis://h', 6379])
def test_refuses_what_is_no_str(url: object) -> None:
    with pytest.raises(TorrelqueTypeError, match='expected a str'):
        parse_url(url)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    'url',
    [
        'redis://me:hidden@h:x',
        'redis://:hid/den@h',
        'redis://me:hi#hidden@h',
        'redis://me:1?hidden@h',
        'redis://me:1/hidden@h',
        'redis://me:hidden\u2100@h',
    ],
)
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        parse_url(url)
    assert 'hid' not in str(caught.value)
    assert '://***@h' in str(caught.value)


def test_the_password_is_in_no_text_form() -> None:
    address = parse_url('redis://me:hidden@h/1')
    assert 'hidden' not in f'{address} {address!r}'
    assert str(address) == 'h:6379'
    assert str(parse_url('redis://[::1]')) == '[::1]:6379'
    assert str(parse_url('unix://:hidden@/a.sock')) == '/a.sock'


def test_a_cluster_has_several_nodes() -> None:
    assert parse_urls('rediss+cluster://me:s%2Fx@a:7000,[::1],c') == [
        Address(host='a', port=7000, tls=True, user='me', password='s/x'),
        Address(host='::1', tls=True, user='me', password='s/x'),
        Address(host='c', tls=True, user='me', password='s/x'),
    ]
    assert parse_urls('Redis+Cluster://a/0') == [Address(host='a')]
    assert parse_urls('redis://a/1') == [Address(host='a', db=1)]


@pytest.mark.parametrize(
    ('url', 'says'),
    [
        ('redis+cluster://a,b/1', 'a cluster has only the database 0, not 1'),
        ('redis+cluster://a?db=2', 'a cluster has only the database 0, not 2'),
        ('redis+cluster://a,,b', 'expected a host'),
        ('redis+cluster://', 'expected a host'),
        ('redis+cluster://a:0,b', 'port from 1'),
        ('redis+cluster://me:pass/word@a', 'percent-encoded'),
        ('unix+cluster:///a', 'unknown scheme'),
    ],
)
def test_refuses_of_a_cluster(url: str, says: str) -> None:
    with pytest.raises(TorrelqueValueError, match=says) as refused:
        parse_urls(url)
    assert 'pass/' not in str(refused.value)
