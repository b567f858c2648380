//! The cache on one, two and three cores, with clients on other hosts: what it promises whatever the network does.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::Sga;
use framework::{System, Task};
use kv_client::{ClientError, SetOptions, Value};
use libos_sim::{Settings, World, sweep};
use support::*;

#[test]
fn commands_over_several_shards_are_atomic() {
    for cores in 1..=3 {
        sweep!(Settings { resets: 0.002, ..Settings::default() }, |world: &mut World| {
            let server = add_server(world, cores, &[]);
            let to = world.endpoint(server, PORT);
            for writer in 0..3 {
                converse(world, "writer", move |task| async move {
                    let mut kv = connected(&task, to).await;
                    for round in 0..40 {
                        let value = format!("{writer}.{round}");
                        let mut args: Vec<&[u8]> = vec![b"MSET"];
                        KEYS.iter().for_each(|key| args.extend([key, value.as_bytes()]));
                        assert_eq!(bulk(&persist(&task, &mut kv, to, &args).await), b"OK");
                    }
                });
            }
            let seen = Rc::new(Cell::new(0));
            for _ in 0..2 {
                let seen = seen.clone();
                converse(world, "reader", move |task| async move {
                    let mut kv = connected(&task, to).await;
                    let args: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(KEYS).collect();
                    for _ in 0..60 {
                        let values = persist(&task, &mut kv, to, &args).await;
                        let values = values.as_slice().unwrap().to_vec();
                        assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
                        seen.set(seen.get() + usize::from(values[0] != Value::Null));
                    }
                });
            }
            world.run();
            assert!(seen.get() > 0, "nobody has seen anything");
        });
    }
}

/// Sums are kept when members move between sets on different shards, and keys are renamed to and fro.
#[test]
fn nothing_is_lost_or_doubled_on_the_way_between_shards() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 3, &[]);
        let to = world.endpoint(server, PORT);
        let running = Rc::new(Cell::new(4));
        for client in 0..4u64 {
            let running = running.clone();
            converse(world, "mover", move |task| async move {
                let mut kv = connected(&task, to).await;
                if client == 0 {
                    let members: Vec<Vec<u8>> = (0..20).map(|i| format!("m{i}").into_bytes()).collect();
                    let mut args: Vec<&[u8]> = vec![b"SADD", b"a"];
                    args.extend(members.iter().map(|member| &member[..]));
                    assert_eq!(kv.call(&args).await, Ok(Value::Integer(20)));
                }
                for _ in 0..50 {
                    let any = |task: &Task| KEYS[task.below(4) as usize];
                    let (from, onto) = (any(&task), any(&task));
                    let member = format!("m{}", task.below(20));
                    let reply = kv.call(&[b"SMOVE", from, onto, member.as_bytes()]).await.unwrap();
                    assert!(matches!(reply, Value::Integer(0 | 1)), "{reply:?}");
                    let (from, onto) = (KEYS[4 + task.below(4) as usize], KEYS[4 + task.below(4) as usize]);
                    let _ = kv.call(&[b"RENAMENX", from, onto]).await.unwrap();
                    if client == 1 {
                        let _ = kv.call(&[b"SET", KEYS[4], b"here", b"NX"]).await.unwrap();
                    }
                }
                running.set(running.get() - 1);
                if running.get() == 0 {
                    let Ok(Value::Array(all)) = kv.call(&[b"SUNION", b"a", b"b", b"c", b"d"]).await else { panic!() };
                    assert_eq!(all.len(), 20);
                    let mut count = 0;
                    for key in &KEYS[..4] {
                        let Ok(Value::Integer(its)) = kv.call(&[b"SCARD", key]).await else { panic!() };
                        count += its;
                    }
                    assert_eq!(count, 20, "a member is in one set");
                    let left = kv.exists(&KEYS[4..]).await.unwrap();
                    let Ok(Value::Integer(size)) = kv.call(&[b"DBSIZE"]).await else { panic!() };
                    let sets = kv.exists(&KEYS[..4]).await.unwrap();
                    assert_eq!(size, left + sets);
                }
            });
        }
        world.run();
        assert_eq!(running.get(), 0);
    });
}

/// A pipeline of everything: on this shard, on others, on several, on none; wrong ones between them.
#[test]
fn replies_come_in_the_order_of_requests() {
    for cores in 1..=3 {
        sweep!(Settings::default(), |world: &mut World| {
            let server = add_server(world, cores, &[]);
            let to = world.endpoint(server, PORT);
            for client in 0..3 {
                converse(world, "client", move |task| async move {
                    let mut kv = connected(&task, to).await;
                    let mut requests: Vec<Vec<Vec<u8>>> = Vec::new();
                    let mut expected = Vec::new();
                    let mut counts = [0i64; 10];
                    for i in 0..400 {
                        let key = format!("{client}:{}", i % 10).into_bytes();
                        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
                        match task.below(8) {
                            0 => {
                                requests.push(words(&[b"ECHO", &key]));
                                expected.push(Some(key));
                            }
                            1 => {
                                let (one, other) = (format!("{client}:x"), format!("{client}:y"));
                                requests.push(words(&[b"EXISTS", one.as_bytes(), other.as_bytes()]));
                                expected.push(Some(b"0".to_vec()));
                            }
                            2 => {
                                requests.push(words(&[b"NONSENSE", &key]));
                                expected.push(None);
                            }
                            _ => {
                                counts[i % 10] += 1;
                                requests.push(words(&[b"INCR", &key]));
                                expected.push(Some(counts[i % 10].to_string().into_bytes()));
                            }
                        }
                    }
                    let requests: Vec<Vec<&[u8]>> =
                        requests.iter().map(|r| r.iter().map(|w| &w[..]).collect()).collect();
                    let requests: Vec<&[&[u8]]> = requests.iter().map(|request| &request[..]).collect();
                    let replies = kv.pipeline(&requests).await.unwrap();
                    for (i, (reply, expected)) in replies.iter().zip(expected).enumerate() {
                        let got = match reply {
                            Value::Integer(n) => Some(n.to_string().into_bytes()),
                            Value::Error(_) => None,
                            other => Some(bulk(other).to_vec()),
                        };
                        assert_eq!(got, expected, "reply {i}");
                    }
                });
            }
            world.run();
        });
    }
}

/// Clients that go away in the middle of commands over several shards leave none of them held.
#[test]
fn clients_that_vanish_hold_nothing() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 3, &[]);
        let to = world.endpoint(server, PORT);
        let mut vanishing = Vec::new();
        for _ in 0..5 {
            let client = world.add_host("vanishing", 1, move |libos| {
                let _goes_on = System::new(libos).task(move |task| async move {
                    let mut kv = connected(&task, to).await;
                    let mut args: Vec<&[u8]> = vec![b"MSET"];
                    KEYS.iter().for_each(|key| args.extend([key, &b"v"[..]]));
                    let requests = vec![&args[..]; 500];
                    let _ = kv.pipeline(&requests).await;
                });
            });
            vanishing.push(client);
        }
        let mut rng = world.fork_rng();
        for client in vanishing {
            world.run_for(Duration::from_micros(300 + rng.below(2000)));
            world.crash(client);
        }
        converse(world, "staying", move |task| async move {
            let mut kv = connected(&task, to).await;
            let args: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(KEYS).collect();
            let values = task.timeout(Duration::from_secs(5), kv.call(&args)).await.expect("a shard is held").unwrap();
            let values = values.as_slice().unwrap();
            assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
        });
        world.run();
    });
}

#[test]
fn what_is_no_request_is_answered_and_the_connection_closed() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 2, &[]);
        let to = world.endpoint(server, PORT);
        let cases: [(&'static [u8], &'static [u8]); 4] = [
            (b"PING\r\n*1\r\n$x\r\n", b"+PONG\r\n-ERR Protocol error: invalid bulk length\r\n"),
            (b"*1\r\n$536870913\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
            (b"*2147483648\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
            (b"*1\r\nPING\r\n", b"-ERR Protocol error: expected '$', got 'P'\r\n"),
        ];
        for (sent, expected) in cases {
            converse(world, "hostile", move |task| async move {
                let stream = stream(&task, to).await;
                stream.push(Sga::copy(task.libos().heap(), sent).unwrap()).await.unwrap();
                assert_eq!(all_that_comes(&stream).await, expected, "{:?}", String::from_utf8_lossy(sent));
            });
        }
        // Half a command, and then nothing: the others are served meanwhile.
        converse(world, "half", move |task| async move {
            let stream = stream(&task, to).await;
            stream.push(Sga::copy(task.libos().heap(), b"*2\r\n$3\r\nGET\r\n$10\r\nabc").unwrap()).await.unwrap();
            let mut kv = connected(&task, to).await;
            assert_eq!(kv.call(&[b"PING"]).await, Ok(Value::Simple(task.libos().heap().copy(b"PONG").unwrap())));
            stream.push(Sga::copy(task.libos().heap(), b"defghij\r\n").unwrap()).await.unwrap();
            stream.finish().unwrap();
            assert_eq!(all_that_comes(&stream).await, b"$-1\r\n");
        });
        world.run();
    });
}

#[test]
fn what_concerns_all_cores_reaches_all_cores() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 3, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let mut clients = Vec::new();
            for _ in 0..6 {
                let mut client = connected(&task, to).await;
                assert!(client.call(&[b"PING"]).await.is_ok());
                clients.push(client);
            }
            let kv = &mut clients[0];
            assert_eq!(bulk(&kv.call(&[b"CONFIG", b"SET", b"requirepass", b"secret"]).await.unwrap()), b"OK");
            // Connections that were there stay as they are; new ones must know it, wherever they are accepted.
            for _ in 0..6 {
                let mut new = connected(&task, to).await;
                let Ok(Value::Error(text)) = new.call(&[b"GET", b"a"]).await else {
                    panic!("not asked for a password")
                };
                assert_eq!(&*text, b"NOAUTH Authentication required.");
                assert!(matches!(new.auth(b"wrong").await, Err(ClientError::Server(_))));
                new.auth(b"secret").await.unwrap();
                assert_eq!(new.get(b"a").await, Ok(None));
                // Now it may send what is long.
                assert_eq!(new.set(b"long", &[0; 50_000], SetOptions::default()).await, Ok(true));
            }
            for kv in &mut clients {
                for key in KEYS {
                    kv.set(key, b"v", SetOptions::default()).await.unwrap();
                }
            }
            let info = clients[3].call(&[b"INFO"]).await.unwrap();
            let info = String::from_utf8(bulk(&info).to_vec()).unwrap();
            let field = |name: &str| {
                let line = info.lines().find(|line| line.starts_with(&format!("{name}:")));
                line.and_then(|line| line.split(':').nth(1)).unwrap_or_else(|| panic!("{name} in {info}")).to_owned()
            };
            assert_eq!(field("cores"), "3");
            assert_eq!(field("db0"), "keys=9,expires=0,avg_ttl=0");
            assert!(field("total_commands_processed").parse::<u64>().unwrap() >= 48 + 6);
            assert!(field("used_memory").parse::<u64>().unwrap() > 50_000);
            let list = clients[1].call(&[b"CLIENT", b"LIST"]).await.unwrap();
            let list = String::from_utf8(bulk(&list).to_vec()).unwrap();
            assert!(list.lines().count() >= 6, "{list}");
            let Ok(Value::Integer(killed)) =
                clients[1].call(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]).await
            else {
                panic!()
            };
            assert!(killed >= 5, "{killed}");
            let error = clients[0].call(&[b"PING"]).await.unwrap_err();
            assert!(matches!(error, ClientError::Closed | ClientError::Network(_)), "{error}");
            assert!(clients[1].call(&[b"PING"]).await.is_ok());
        });
        world.run();
    });
}

#[test]
fn a_pause_holds_writes_back_and_ends() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 2, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let (mut one, mut other) = (connected(&task, to).await, connected(&task, to).await);
            one.call(&[b"CLIENT", b"PAUSE", b"50", b"WRITE"]).await.unwrap();
            let begun = task.now();
            assert_eq!(other.get(b"a").await, Ok(None));
            assert!(task.now().since(begun) < Duration::from_millis(20), "reads wait too");
            assert_eq!(other.set(b"a", b"1", SetOptions::default()).await, Ok(true));
            assert!(task.now().since(begun) > Duration::from_millis(40), "writes do not wait");
        });
        world.run();
    });
}

/// What stands behind the end of a conversation is not carried out, though it has come and waits for its turn.
#[test]
fn nothing_is_carried_out_after_the_end() {
    const ENDS: [&[&[u8]]; 2] = [&[b"QUIT"], &[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"no"]];
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 2, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            for end in ENDS {
                let mut kv = connected(&task, to).await;
                let gets: Vec<[&[u8]; 2]> = KEYS.iter().map(|key| [&b"GET"[..], key]).collect();
                let mut requests: Vec<&[&[u8]]> = gets.iter().map(|get| &get[..]).collect();
                requests.extend([end, &[b"INCR", b"after"], &[b"INCR", b"and on the other shard"]]);
                let error = kv.pipeline(&requests).await.unwrap_err();
                assert!(matches!(error, ClientError::Closed | ClientError::Network(_)), "{error}");
                let mut other = connected(&task, to).await;
                assert_eq!(other.exists(&[b"after", b"and on the other shard"]).await, Ok(0), "{end:?}");
            }
        });
        world.run();
    });
}

/// A client that goes away while it waits for the end of a pause is not counted, nor kept in mind.
#[test]
fn who_vanishes_in_a_pause_waits_no_more() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 1, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let mut kv = connected(&task, to).await;
            kv.call(&[b"CLIENT", b"PAUSE", b"100000", b"WRITE"]).await.unwrap();
            for _ in 0..3 {
                let mut waiting = connected(&task, to).await;
                let set = waiting.set(b"a", b"1", SetOptions::default());
                assert!(task.timeout(Duration::from_millis(20), set).await.is_err(), "it was not paused");
            }
            assert_eq!(kv.call(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]).await, Ok(Value::Integer(3)));
            task.sleep(Duration::from_millis(50)).await;
            let info = kv.call(&[b"INFO", b"clients"]).await.unwrap();
            let info = String::from_utf8(bulk(&info).to_vec()).unwrap();
            assert!(info.contains("connected_clients:1\r\n"), "{info}");
            assert!(info.contains("blocked_clients:0\r\n"), "{info}");
        });
        world.run();
    });
}

/// Who sends a long request slowly is not idle.
#[test]
fn a_long_request_is_no_silence() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 1, &[("timeout", "1")]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let stream = stream(&task, to).await;
            let heap = task.libos().heap().clone();
            stream.push(Sga::copy(&heap, b"*2\r\n$4\r\nECHO\r\n$10\r\n").unwrap()).await.unwrap();
            for _ in 0..10 {
                task.sleep(Duration::from_millis(500)).await;
                stream.push(Sga::copy(&heap, b"x").unwrap()).await.expect("closed as if it were idle");
            }
            stream.push(Sga::copy(&heap, b"\r\n").unwrap()).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 17 {
                let popped = stream.pop(100).await.unwrap();
                assert!(!popped.is_empty(), "closed as if it were idle");
                got.extend(popped.to_vec());
            }
            assert_eq!(got, b"$10\r\nxxxxxxxxxx\r\n");
        });
        world.run();
    });
}
