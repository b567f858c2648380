"""redis-py on `margay kv`: what its users do. The argument is the port. Ends with a line that says so, or with a traceback."""

import sys
import threading
import time

import redis

PORT = int(sys.argv[1])
HAS_RESP3 = int(redis.__version__.split(".")[0]) >= 5


def strings(client):
    assert client.ping() is True
    assert client.set("text", "grüße") is True
    assert client.get("text") == "grüße"
    assert client.get("nothing") is None
    assert client.set("text", "no", nx=True) is None
    assert client.append("text", "!") == 8
    assert client.incr("count", 5) == 5 and client.incrbyfloat("count", 0.5) == 5.5
    assert client.mset({"a": 1, "b": 2}) is True and client.mget("a", "b", "c") == ["1", "2", None]
    assert client.delete("a", "b", "c") == 2
    assert client.getrange("text", 0, 1) == "gr" and client.strlen("text") == 8


def collections(client):
    assert client.hset("hash", mapping={"x": 1, "y": "two"}) == 2
    assert client.hgetall("hash") == {"x": "1", "y": "two"}
    assert client.hincrby("hash", "x", 4) == 5 and client.hexists("hash", "y") is True
    assert client.rpush("list", "a", "b", "c") == 3 and client.lrange("list", 0, -1) == ["a", "b", "c"]
    assert client.lpop("list") == "a" and client.rpop("list", 2) == ["c", "b"] and client.llen("list") == 0
    assert client.sadd("s1", 1, 2, 3) == 3 and client.sadd("s2", 3, 4) == 2
    assert client.smembers("s1") == {"1", "2", "3"}
    assert client.sinter("s1", "s2") == {"3"} and client.sunionstore("s3", "s1", "s2") == 4
    assert client.zadd("sorted", {"one": 1, "two": 2.5, "three": 3}) == 3
    # With RESP3 the pairs are lists.
    pairs = [tuple(pair) for pair in client.zrange("sorted", 0, -1, withscores=True)]
    assert pairs == [("one", 1.0), ("two", 2.5), ("three", 3.0)]
    assert client.zrangebyscore("sorted", "(1", "+inf") == ["two", "three"]
    assert client.zscore("sorted", "two") == 2.5 and client.zincrby("sorted", 1, "one") == 2.0


def pipelines(client):
    pipe = client.pipeline(transaction=False)
    for n in range(2000):
        pipe.set(f"many:{n}", n).get(f"many:{n}")
    replies = pipe.execute()
    assert replies[0::2] == [True] * 2000 and replies[1::2] == [str(n) for n in range(2000)]
    assert set(client.scan_iter(match="many:*", count=100)) == {f"many:{n}" for n in range(2000)}
    assert dict(client.hscan_iter("hash")) == client.hgetall("hash")
    assert set(client.sscan_iter("s1")) == client.smembers("s1")
    pipe = client.pipeline(transaction=False)
    pipe.set("p", 1).lpush("p", 2).get("p")
    first, second, third = pipe.execute(raise_on_error=False)
    assert first is True and isinstance(second, redis.ResponseError) and third == "1"


def expiry(client):
    assert client.set("soon", 1, px=50) is True and 0 < client.pttl("soon") <= 50
    assert client.expire("text", 100) is True and 90 < client.ttl("text") <= 100
    assert client.persist("text") is True and client.ttl("text") == -1
    deadline = time.monotonic() + 5
    while client.exists("soon"):
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.01)


def server(client):
    info = client.info()
    assert info["redis_version"].startswith("7.")
    assert info["db0"]["keys"] == client.dbsize()
    assert client.config_get("maxclients") == {"maxclients": "10000"}
    client.client_setname("tester")
    assert client.client_getname() == "tester"
    assert any(other["name"] == "tester" for other in client.client_list())
    try:
        client.execute_command("NOSUCH", "x")
        raise AssertionError("a command that is none")
    except redis.ResponseError as error:
        assert "unknown command" in str(error)


def threads(**options):
    """One pool for several threads, as in a web server."""
    client = redis.Redis(port=PORT, **options)

    def work():
        for _ in range(100):
            client.incr("together")

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert int(client.get("together")) == 800


def check(**options):
    client = redis.Redis(port=PORT, decode_responses=True, socket_timeout=10, **options)
    client.flushall()
    for part in (strings, collections, pipelines, server, expiry):
        part(client)
    raw = redis.Redis(port=PORT, socket_timeout=10, **options)
    assert raw.set("raw", b"\x00\xff\r\n") and raw.get("raw") == b"\x00\xff\r\n"
    threads(**options)


check()
if HAS_RESP3:
    check(protocol=2)
    check(protocol=3)
print(f"redis-py {redis.__version__}, RESP{'2 and RESP3' if HAS_RESP3 else '2'}: all as expected")
