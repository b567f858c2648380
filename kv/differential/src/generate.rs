//! Commands, many of them wrong in some way, from a seed.

use pdpix::Rng;

/// A command with its arguments.
pub type Args = Vec<Vec<u8>>;

/// What may be sent. `@` and a letter stand for an argument ([`word`]); `( a | b )` is one of them, `)?` perhaps, `)*` up
/// to three times, `)+` one to four times. What comes first is sent oftener.
const TEMPLATES: &[&str] = &[
    "SET @s @v",
    "SET @s @i",
    "SET @k @v ( EX @p | PX @q | EXAT @u | PXAT @w | KEEPTTL | NX | XX | GET )*",
    "GET @s",
    "GETDEL @s",
    "GETEX @s ( EX @p | PX @q | EXAT @u | PXAT @w | PERSIST )*",
    "GETSET @s @v",
    "SETNX @s @v",
    "SETEX @s @p @v",
    "PSETEX @s @q @v",
    "APPEND @s @v",
    "STRLEN @s",
    "GETRANGE @s @n @n",
    "GETRANGE @s @i @i",
    "SUBSTR @s @n @n",
    "SETRANGE @s @n @v",
    "SETRANGE @s @i @v",
    "INCR @s",
    "DECR @s",
    "INCRBY @s @i",
    "DECRBY @s @i",
    "INCRBYFLOAT @s @f",
    "MGET ( @k )+",
    "MSET ( @s @v )+",
    "MSETNX ( @s @v )+",
    "DEL ( @k )+",
    "UNLINK ( @k )+",
    "EXISTS ( @k )+",
    "TOUCH ( @k )+",
    "TYPE @k",
    "KEYS @g",
    "KEYS *",
    "RANDOMKEY",
    "RENAME @k @k",
    "RENAMENX @k @k",
    "COPY @k @k ( REPLACE | DB @d )*",
    "MOVE @k @d",
    "EXPIRE @k @p ( NX | XX | GT | LT )*",
    "PEXPIRE @k @q ( NX | XX | GT | LT )*",
    "EXPIREAT @k @u ( NX | XX | GT | LT )*",
    "PEXPIREAT @k @w ( NX | XX | GT | LT )*",
    "TTL @k",
    "PTTL @k",
    "EXPIRETIME @k",
    "PEXPIRETIME @k",
    "PERSIST @k",
    "OBJECT ENCODING @k",
    "OBJECT ENCODING @k",
    "OBJECT REFCOUNT @k",
    "OBJECT IDLETIME @k",
    "OBJECT FREQ @k",
    "OBJECT @v @k",
    "DBSIZE",
    "FLUSHDB ( SYNC | ASYNC | @v )?",
    "SWAPDB @d @d",
    "SELECT @d",
    "SELECT 0",
    "SELECT 0",
    "SELECT 0",
    "SCAN 0 ( MATCH @g | COUNT @m | TYPE @y )*",
    "SCAN @i ( MATCH @g | COUNT @n | TYPE @y )*",
    "SSCAN @t 0 ( MATCH @g | COUNT @m )*",
    "HSCAN @h 0 ( MATCH @g | COUNT @m )*",
    "ZSCAN @z 0 ( MATCH @g | COUNT @m )*",
    "LPUSH @l ( @v )+",
    "RPUSH @l ( @v )+",
    "RPUSH @l ( @e )+",
    "LPUSHX @l ( @e )+",
    "RPUSHX @l ( @e )+",
    "LPOP @l ( @n )?",
    "RPOP @l ( @n )?",
    "LLEN @l",
    "LRANGE @l @n @n",
    "LRANGE @l @i @i",
    "LINDEX @l @n",
    "LSET @l @n @e",
    "LREM @l @n @e",
    "LTRIM @l @n @n",
    "LINSERT @l ( BEFORE | AFTER | @v ) @e @v",
    "LPOS @l @e ( RANK @n | COUNT @n | MAXLEN @n )*",
    "LMOVE @l @l ( LEFT | RIGHT ) ( LEFT | RIGHT )",
    "LMOVE @l @l ( LEFT | RIGHT | @v ) ( LEFT | right )",
    "RPOPLPUSH @l @l",
    "SADD @t ( @e )+",
    "SADD @t ( @n )+",
    "SADD @t ( @v )+",
    "SREM @t ( @e )+",
    "SREM @t ( @n )+",
    "SCARD @t",
    "SISMEMBER @t @e",
    "SMISMEMBER @t ( @e )+",
    "SMEMBERS @t",
    "SPOP @t ( @m )?",
    "SRANDMEMBER @t ( @n )?",
    "SMOVE @t @t @e",
    "SMOVE @t @t @n",
    "SINTER ( @t )+",
    "SUNION ( @t )+",
    "SDIFF ( @t )+",
    "SINTERSTORE ( @t )+",
    "SUNIONSTORE ( @t )+",
    "SDIFFSTORE ( @t )+",
    "SINTERCARD @n ( @t )+ ( LIMIT @n )?",
    "SINTERCARD 2 @t @t ( LIMIT @n )*",
    "HSET @h ( @e @v )+",
    "HSET @h ( @e @n )+",
    "HMSET @h ( @e @v )+",
    "HSETNX @h @e @v",
    "HGET @h @e",
    "HMGET @h ( @e )+",
    "HGETALL @h",
    "HDEL @h ( @e )+",
    "HLEN @h",
    "HEXISTS @h @e",
    "HKEYS @h",
    "HVALS @h",
    "HSTRLEN @h @e",
    "HINCRBY @h @e @i",
    "HINCRBYFLOAT @h @e @f",
    "HRANDFIELD @h ( @n )?",
    "HRANDFIELD @h @n WITHVALUES",
    "ZADD @z ( @c @e )+",
    "ZADD @z ( @c @v )+",
    "ZADD @z ( NX | XX | GT | LT | CH | INCR )* ( @c @e )+",
    "ZADD @z ( NX | XX | GT | LT | CH )* INCR @c @e",
    "ZREM @z ( @e )+",
    "ZCARD @z",
    "ZSCORE @z @e",
    "ZMSCORE @z ( @e )+",
    "ZINCRBY @z @c @e",
    "ZRANK @z @e",
    "ZREVRANK @z @e",
    "ZPOPMIN @z ( @n )?",
    "ZPOPMAX @z ( @n )?",
    "ZRANDMEMBER @z ( @n )?",
    "ZRANDMEMBER @z @n WITHSCORES",
    "ZRANGE @z @n @n ( WITHSCORES | REV )*",
    "ZRANGE @z @b @b BYSCORE ( WITHSCORES | REV | LIMIT @n @n )*",
    "ZRANGE @o @x @x BYLEX ( WITHSCORES | REV | LIMIT @n @n )*",
    "ZRANGE @z @n @n ( WITHSCORES | REV | BYSCORE | BYLEX | LIMIT @n @n )*",
    "ZRANGESTORE @z @z @n @n ( REV )?",
    "ZRANGESTORE @z @z @b @b BYSCORE ( REV | LIMIT @n @n )*",
    "ZRANGESTORE @o @o @x @x BYLEX ( REV | LIMIT @n @n )*",
    "ZREVRANGE @z @n @n ( WITHSCORES )?",
    "ZRANGEBYSCORE @z @b @b ( WITHSCORES | LIMIT @n @n )*",
    "ZREVRANGEBYSCORE @z @b @b ( WITHSCORES | LIMIT @n @n )*",
    "SADD @t @many",
    "SADD @t @many member",
    "SREM @t @many",
    "RPUSH @l @many",
    "HSET @h @pairs",
    "HDEL @h @many",
    "ZADD @z @pairs",
    "ZREM @z @many",
    "DEL ( @k )+",
    "ZADD @o ( 0 @e )+",
    "ZADD @o ( 0 @v )+",
    "ZADD @o ( 0 @e )+",
    "ZRANGEBYLEX @o @x @x ( LIMIT @n @n )?",
    "ZREVRANGEBYLEX @o @x @x ( LIMIT @n @n )?",
    "ZCOUNT @z @b @b",
    "ZLEXCOUNT @o @x @x",
    "ZREMRANGEBYRANK @z @n @n",
    "ZREMRANGEBYSCORE @z @b @b",
    "ZREMRANGEBYLEX @o @x @x",
    "ZUNION @n ( @z )+ ( WEIGHTS ( @c )+ | AGGREGATE ( SUM | MIN | MAX | @v ) | WITHSCORES )*",
    "ZUNION 2 @z @t ( WEIGHTS @c @c | AGGREGATE ( SUM | MIN | MAX ) | WITHSCORES )*",
    "ZINTER 2 @z @z ( WEIGHTS @c @c | AGGREGATE ( SUM | MIN | MAX ) | WITHSCORES )*",
    "ZDIFF 2 @z @z ( WITHSCORES )?",
    "ZDIFF @n ( @z )+ ( WITHSCORES )?",
    "ZUNIONSTORE @z 2 @z @t ( WEIGHTS @c @c | AGGREGATE ( SUM | MIN | MAX ) )*",
    "ZINTERSTORE @z 2 @z @z ( WEIGHTS @c @c | AGGREGATE ( SUM | MIN | MAX ) )*",
    "ZDIFFSTORE @z 2 @z @z",
    "ZUNIONSTORE @z @n ( @z )+",
    "ZINTERCARD @n ( @z )+ ( LIMIT @n )?",
    "ZINTERCARD 2 @z @z ( LIMIT @n )*",
    "PING ( @v )?",
    "ECHO @v",
    "HELLO ( 2 | 3 )",
    "HELLO ( @n ) ( AUTH default @v | SETNAME @v )*",
    "AUTH ( @v )+",
    "RESET",
    "CLIENT GETNAME",
    "CLIENT SETNAME @v",
    "CLIENT REPLY ( ON | what )",
    "CLIENT NO-EVICT ( ON | OFF | @v )",
    "CLIENT GETREDIR",
    "CLIENT CACHING ( YES | NO | @v )",
    "CLIENT KILL ID @i",
    "CLIENT KILL @v",
    "CLIENT KILL ( TYPE @v | ADDR @v | SKIPME @v | USER @v | LADDR @v )+",
    "CLIENT UNBLOCK @i ( TIMEOUT | ERROR | @v )?",
    "CLIENT PAUSE ( ab | -1 | 1 | 1. ) ( WRITE | ALL | @v )?",
    "CLIENT UNPAUSE",
    "CLIENT LIST ( TYPE @v | ID @v )",
    "CLIENT @v ( @v )*",
    "CONFIG GET @v",
    "CONFIG GET ( maxmemory | hash-max-* | set-max-intset-entries | ZSET-MAX-ZIPLIST-ENTRIES | timeout )+",
    "CONFIG SET @v @v",
    "CONFIG SET ( set-max-intset-entries | timeout | maxclients | daemonize ) ( 17 | 0 | -1 | x | 100000000000000000000 )",
    "CONFIG SET hash-max-listpack-entries ( 3 | 512 )",
    "CONFIG SET zset-max-listpack-value ( 3 | 64 )",
    "CONFIG @v ( @v )*",
    "COMMAND GETKEYS @a",
    "COMMAND GETKEYS ( MSET @k @v @k @v | ZUNIONSTORE @z @n @z @z | ZINTERCARD @n @z @z | SMOVE @k @k @v | PING | COPY @k @k )",
    "COMMAND GETKEYS @v ( @v )*",
    "COMMAND @v",
    "TIME",
    "DEBUG @v",
    "FLUSHALL ( @v )?",
    "@v ( @v )*",
];

/// A command as one would type it, without quotes.
pub fn words(line: &str) -> Args {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// A command.
pub fn command(rng: &mut Rng) -> Args {
    let template = TEMPLATES[rng.below(TEMPLATES.len() as u64) as usize];
    let tokens: Vec<&str> = template.split(' ').collect();
    let mut args = Args::new();
    expand(&tokens, rng, &mut args);
    match rng.below(40) {
        0 => _ = args.pop(),
        1 => args.push(word(b'v', rng)),
        2 | 3 if args.len() > 1 && !args[1].starts_with(b"o") => {
            let index = 1 + rng.below(args.len() as u64 - 1) as usize;
            args[index] = word(b"vifnbxcd"[rng.below(8) as usize], rng);
        }
        4 if args.len() > 1 => _ = args.remove(1 + rng.below(args.len() as u64 - 1) as usize),
        5 => args[0].make_ascii_lowercase(),
        _ => {}
    }
    let pauses = args.get(1).is_some_and(|word| word == b"PAUSE");
    // Of a pause that is one the test would have to wait for the end.
    if args.is_empty() || pauses && args.get(2).is_some_and(|time| time.len() > 2) {
        vec![b"PING".to_vec()]
    } else {
        args
    }
}

/// Expands tokens up to the end.
fn expand(tokens: &[&str], rng: &mut Rng, args: &mut Args) {
    let mut index = 0;
    while index < tokens.len() {
        match tokens[index] {
            "(" => {
                let end = index + group_len(&tokens[index..]);
                let times = match tokens[end] {
                    ")?" => rng.below(2),
                    ")*" => [0, 0, 1, 1, 2, 3][rng.below(6) as usize],
                    ")+" => 1 + rng.below(4),
                    _ => 1,
                };
                for _ in 0..times {
                    let choices = split_choices(&tokens[index + 1..end]);
                    expand(choices[rng.below(choices.len() as u64) as usize], rng, args);
                }
                index = end;
            }
            "@a" => args.extend(command(rng)),
            "@many" => args.extend(many(rng, 1)),
            "@pairs" => args.extend(many(rng, 2)),
            placeholder if placeholder.starts_with('@') => args.push(word(placeholder.as_bytes()[1], rng)),
            literal => args.push(literal.as_bytes().to_vec()),
        }
        index += 1;
    }
}

/// So many arguments that a value takes its large form: numbers one behind the other, alone or in pairs.
fn many(rng: &mut Rng, width: u64) -> Args {
    let (first, count) = (rng.below(300), 30 + rng.below(700));
    (0..count * width).map(|n| (first + n / width + n % width).to_string().into_bytes()).collect()
}

/// How far the end of the group is that begins with the first token.
fn group_len(tokens: &[&str]) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        if *token == "(" {
            depth += 1;
        } else if token.starts_with(')') {
            depth -= 1;
            if depth == 0 {
                return index;
            }
        }
    }
    panic!("a group that does not end: {tokens:?}");
}

fn split_choices<'a, 'b>(tokens: &'b [&'a str]) -> Vec<&'b [&'a str]> {
    let (mut choices, mut depth, mut start) = (Vec::new(), 0, 0);
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "(" => depth += 1,
            "|" if depth == 0 => {
                choices.push(&tokens[start..index]);
                start = index + 1;
            }
            token if token.starts_with(')') => depth -= 1,
            _ => {}
        }
    }
    choices.push(&tokens[start..]);
    choices
}

fn one_of(words: &[&str], rng: &mut Rng) -> Vec<u8> {
    words[rng.below(words.len() as u64) as usize].as_bytes().to_vec()
}

/// An argument of some kind.
fn word(kind: u8, rng: &mut Rng) -> Vec<u8> {
    match kind {
        b'k' => {
            let kind = b"slthz"[rng.below(5) as usize];
            word(kind, rng)
        }
        // Sorted sets of one score, and nothing else: in any other a range of names means nothing in particular.
        b'o' => vec![b'o', b'0' + rng.below(3) as u8],
        // A key that is likely to hold such a value.
        b's' | b'l' | b't' | b'h' | b'z' => {
            let kind = if rng.chance(0.04) { b"slthz"[rng.below(5) as usize] } else { kind };
            match rng.below(40) {
                0 => Vec::new(),
                1 => b"a key that is far longer than what fits inside a value, which must be kept elsewhere".to_vec(),
                2 => b"\0\r\n\xff".to_vec(),
                n => vec![kind, b'0' + (n % 4) as u8],
            }
        }
        b'e' => match rng.below(24) {
            0 => word(b'v', rng),
            1 => Vec::new(),
            _ => one_of(&["a", "b", "c", "d", "e", "aa", "1", "2", "-3", "member", "10"], rng),
        },
        b'v' => value(rng),
        b'i' => one_of(
            &[
                "0",
                "1",
                "-1",
                "2",
                "7",
                "100",
                "-100",
                "9223372036854775807",
                "-9223372036854775808",
                "9223372036854775808",
                "-9223372036854775809",
                "4611686018427387904",
                "536870912",
                "2147483648",
                "4294967296",
                "01",
                "+1",
                "-0",
                "1.0",
                " 1",
                "1 ",
                "",
                "abc",
                "1e3",
                "18446744073709551615",
            ][..],
            rng,
        ),
        b'n' => match rng.below(30) {
            0 => word(b'i', rng),
            n => (n as i64 % 14 - 5).to_string().into_bytes(),
        },
        b'm' => match rng.below(20) {
            0 => word(b'i', rng),
            _ => (1 + rng.below(12)).to_string().into_bytes(),
        },
        b'f' => one_of(
            &[
                "0",
                "1",
                "-1",
                "0.1",
                "3.0",
                "-2.5",
                "1e3",
                "1e-5",
                "5.0e3",
                "1e17",
                "1e300",
                "inf",
                "-inf",
                "+inf",
                "nan",
                "0x10",
                "1.7976931348623157e308",
                "abc",
                "",
                " 1",
                "1 ",
                "123456789.123456789",
                "1e5000",
                "-0",
                ".5",
                "5.",
                "3.14159265358979323846",
            ],
            rng,
        ),
        b'c' => one_of(
            &[
                "0",
                "1",
                "1",
                "2",
                "2",
                "3",
                "-1",
                "1.5",
                "0.1",
                "0.2",
                "1e3",
                "1e17",
                "1e21",
                "inf",
                "-inf",
                "+inf",
                "100",
                "12345678901234567890",
                "1.1e-7",
                "3.0",
                "0x1p3",
                "nan",
                "abc",
                "",
                "1 ",
            ],
            rng,
        ),
        b'b' => {
            let bound = word(b'c', rng);
            if rng.chance(0.3) { [&b"("[..], &bound].concat() } else { bound }
        }
        b'x' => match rng.below(10) {
            0 => b"-".to_vec(),
            1 => b"+".to_vec(),
            2 => word(b'v', rng),
            n => [if n % 2 == 0 { &b"["[..] } else { b"(" }, &word(b'e', rng)].concat(),
        },
        b'g' => one_of(
            &[
                "*", "?", "a*", "[a-c]", "[^a]*", "s?", "*1", "\\*", "[", "[a", "z[0-2]", "**", "", "[c-a]", "a\\",
                "*[*",
            ],
            rng,
        ),
        b'd' => match rng.below(16) {
            0 => word(b'i', rng),
            1 => b"16".to_vec(),
            n => (n % 3).to_string().into_bytes(),
        },
        b'y' => one_of(&["string", "list", "SET", "hash", "zset", "stream", "what"], rng),
        // Seconds and milliseconds from now: past, or far away.
        b'p' => match rng.below(8) {
            0 => far(rng),
            1 => b"-1".to_vec(),
            _ => one_of(&["100", "200", "1000", "100000", "1000000000"], rng),
        },
        b'q' => match rng.below(8) {
            0 => far(rng),
            1 => b"-1".to_vec(),
            _ => one_of(&["100000", "200000", "1000000", "100000000"], rng),
        },
        // Times since 1970, in the same way.
        b'u' => {
            one_of(&["1", "0", "-1", "4000000000", "5000000000", "9223372036854775", "9223372036854775807", "x"], rng)
        }
        b'w' => one_of(&["1", "0", "-1", "4000000000000", "5000000000000", "9223372036854775807", "x"], rng),
        other => panic!("no such kind of word: {}", char::from(other)),
    }
}

/// A time that is none, or so far away that it does not come while a test runs.
fn far(rng: &mut Rng) -> Vec<u8> {
    one_of(
        &[
            "9223372036854775807",
            "-9223372036854775808",
            "abc",
            "",
            "0",
            "01",
            "1.0",
            "4611686018427387904",
            "9223372036854775",
        ],
        rng,
    )
}

fn value(rng: &mut Rng) -> Vec<u8> {
    match rng.below(16) {
        0 => Vec::new(),
        1 => b"\x00\xff\r\n\x80binary".to_vec(),
        2 => vec![b'x'; 20],
        3 => vec![b'y'; 44 + rng.below(2) as usize],
        4 => vec![b'z'; 63 + rng.below(3) as usize],
        5 => vec![b'w'; [1000, 5000, 20_000, 70_000][rng.below(4) as usize]],
        6 | 7 => word(b'i', rng),
        8 => word(b'f', rng),
        9 => one_of(&["get", "NX", "limit", "help", "LEFT", "withscores", "default", "normal", "yes", "no", "id"], rng),
        _ => one_of(&["hello", "world", "a", "b", "c", "17", "-4"], rng),
    }
}
