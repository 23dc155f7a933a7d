import ssl
from pathlib import Path

import pytest

from torrelque.errors import TorrelqueTypeError, TorrelqueValueError
from torrelque.transports.native.url import Address, Target, parse_url


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
    assert parse_url(url) == Target((address,))


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
        ('redis://h/mail', 'a number from 0'),
        ('redis://h/-1', 'a number from 0'),
        ('redis://h/1/2', 'a number from 0'),
        ('redis://h/²', 'a number from 0'),
        ('redis://h?db=', 'a number from 0'),
        ('redis://h/99999999999', 'must be a number'),
        ('redis://h/1?db=1', 'given twice'),
        ('redis://h?db=1&db=2', 'more than once'),
        ('redis://h?db', 'as name=value'),
        ('redis://h?protocol=3', "unknown option 'protocol', expected db, ssl_ca_certs"),
        ('redis://h?password=x', 'user and password stand before the host, redis://[user'),
        ('redis://h?ssl_ca_certs=ca.pem', 'need a rediss:// URL'),
        ('rediss://h?ssl_keyfile=key.pem', 'needs the certificate in ssl_certfile'),
        ('rediss://h?sentinel_password=x', "unknown option 'sentinel_password'"),
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
        ('unix:///a.sock?db=x', 'a number from 0'),
    ],
)
def test_refuses(url: str, says: str) -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        parse_url(url)
    assert says in str(caught.value)


@pytest.mark.parametrize('url', [None, b'redis://h', 6379])
def test_refuses_what_is_no_str(url: object) -> None:
    with pytest.raises(TorrelqueTypeError, match='expected a str'):
        parse_url(url)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    ('url', 'shown'),
    [
        ('redis://me:hidden@h:x', 'redis://***@***'),
        ('redis://:hid/den@h', 'redis://***@h'),
        ('redis://me:hi#hidden@h', 'redis://***@h'),
        ('redis://me:1?hidden@h', 'redis://***@h'),
        ('redis://me:1/hidden@h', 'redis://***@h'),
        ('redis://me:hidden@h/mail', 'redis://***@***'),
        ('redis://me:hidden\u2100@h', 'redis://***@h'),
        ('redis://me:%ffhidden@h', 'redis://***@h'),
        ('redis:/me:hidden@h', 'redis:/***@h'),
        ('redis:me:hidden@h', 'redis:***@h'),
        ('redis//me:hidden@h', '***@h'),
        ('rediss+clusters://me:hidden@h', '***@h'),
        ('me:hidden@h:6379', '***@h:6379'),
        ('me:hidden', '***'),
        ('redis://me:hidden', 'redis://***'),
        ('redis://:hidden', 'redis://***'),
        ('redis://me:12/hidden', 'redis://***'),
        ('redis://h@me:hidden', 'redis://***@***'),
        ('redis://h:6379?password=hidden', 'redis://h:6379?***'),
        ('redis://h/1?user=me&hidden', 'redis://h/1?***'),
        ('redis://h?db=hidden', 'redis://h?***'),
        ('redis+cluster://a:1,b:2?password=hidden', 'redis+cluster://a:1,b:2?***'),
        ('redis+sentinel://a:1,b:2/mail?sentinel_passwort=hidden', 'redis+sentinel://***?***'),
        ('unix:///run/a.sock?password=hidden', 'unix:///run/a.sock?***'),
        ('unix://me:hidden@/run/a.sock?db=x', 'unix://***@/run/a.sock?***'),
    ],
)
def test_no_message_shows_a_password(url: str, shown: str) -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        parse_url(url)
    assert 'hid' not in str(caught.value)
    assert str(caught.value).startswith(f'url {shown!r}: ')


def test_no_cause_shows_a_password() -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        parse_url('redis://me:%ffhidden@h')
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_password_is_in_no_text_form() -> None:
    target = parse_url('redis+sentinel://me:hidden@h/mail?db=1&sentinel_user=me&sentinel_password=hidden')
    assert 'hidden' not in f'{target} {target!r} {target.addresses[0]}'
    for url, name in [
        ('redis://me:hidden@h/1', 'h:6379'),
        ('redis://[::1]', '[::1]:6379'),
        ('unix://:hidden@/a.sock', '/a.sock'),
    ]:
        assert str(parse_url(url).addresses[0]) == name


def test_sentinels_have_a_user_of_their_own() -> None:
    target = parse_url('redis+sentinel://me:secret@h/mail?sentinel_user=you&sentinel_password=p%26w')
    assert (target.kind, target.service) == ('sentinel', 'mail')
    assert (target.sentinel_user, target.sentinel_password) == ('you', 'p&w')
    assert (target.addresses[0].user, target.addresses[0].password) == ('me', 'secret')


def test_certificates_are_in_files(tmp_path: Path) -> None:
    url = f'rediss+cluster://a,b?ssl_ca_certs=ca.pem&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile=key.pem'
    target = parse_url(url)
    assert target.files == ('ca.pem', f'{tmp_path}/cert.pem', 'key.pem')
    with pytest.raises(TorrelqueValueError, match=r'cannot use the certificates in ca\.pem, .*key\.pem'):
        target.ssl_context()
    assert isinstance(parse_url('rediss://h').ssl_context(), ssl.SSLContext)
    assert parse_url('redis://h').ssl_context() is None


def test_a_cluster_has_several_nodes() -> None:
    target = parse_url('rediss+cluster://me:s%2Fx@a:7000,[::1],c')
    assert target.kind == 'cluster'
    assert target.addresses == (
        Address(host='a', port=7000, tls=True, user='me', password='s/x'),
        Address(host='::1', tls=True, user='me', password='s/x'),
        Address(host='c', tls=True, user='me', password='s/x'),
    )
    assert parse_url('Redis+Cluster://a/0').addresses == (Address(host='a'),)
    assert parse_url('redis://a/1').addresses == (Address(host='a', db=1),)


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
        parse_url(url)
    assert 'pass/' not in str(refused.value)
