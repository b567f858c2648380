//! Bounds of the cache: memory, clients, and those who ask for more than they take.

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::Sga;
use kv_client::{ClientError, SetOptions, Value};
use libos_sim::{Settings, World, sweep};
use support::*;

/// One that asks for much and reads nothing does not fill the memory, nor does it slow others down for good.
#[test]
fn a_client_that_never_reads_is_bounded() {
    sweep!(Settings { heap_size: 64 << 20, ..Settings::default() }, |world: &mut World| {
        let server = add_server(world, 1, &[]);
        let to = world.endpoint(server, PORT);
        let gone = Rc::new(Cell::new(false));
        let told = gone.clone();
        converse(world, "greedy", move |task| async move {
            let mut kv = connected(&task, to).await;
            kv.set(b"big", &vec![1; 100_000], SetOptions::default()).await.unwrap();
            let greedy = stream(&task, to).await;
            let ask = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(1000);
            // It asks on until nobody takes its requests any more, and in the end is given up.
            let asking = async {
                while let Ok(sga) = Sga::copy(task.libos().heap(), &ask) {
                    if greedy.push(sga).await.is_err() {
                        return;
                    }
                }
            };
            let asked = task.timeout(Duration::from_secs(200), asking).await;
            assert_eq!(asked, Ok(()), "it is never given up");
            assert_eq!(kv.get(b"big").await.unwrap().unwrap().len(), 100_000);
            told.set(true);
        });
        let mut most = 0;
        while !gone.get() {
            world.run_for(Duration::from_secs(1));
            most = most.max(world.libos(server.core(0)).heap().stats().pinned);
        }
        assert!(most < 24 << 20, "{most} bytes are pinned for one client");
        world.run();
    });
}

/// What the server takes at once may ask for much more than what it has room for.
#[test]
fn short_requests_for_long_replies_are_bounded() {
    sweep!(Settings { heap_size: 128 << 20, ..Settings::default() }, |world: &mut World| {
        let server = add_server(world, 1, &[]);
        let to = world.endpoint(server, PORT);
        let (served, asked) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (told_served, told_asked) = (served.clone(), asked.clone());
        converse(world, "greedy", move |task| async move {
            let mut kv = connected(&task, to).await;
            let value = [b'v'; 1000];
            let push: Vec<&[u8]> = [&b"RPUSH"[..], b"list"].into_iter().chain((0..500).map(|_| &value[..])).collect();
            assert_eq!(kv.call(&push).await.unwrap(), Value::Integer(500));
            let greedy = stream(&task, to).await;
            let ask = Sga::copy(task.libos().heap(), &b"LRANGE list 0 -1\r\n".repeat(1000)).unwrap();
            greedy.push(ask).await.unwrap();
            told_asked.set(true);
            // Half a gigabyte is wanted, and none of it taken; others are served meanwhile.
            for _ in 0..100 {
                assert_eq!(kv.call(&[b"LLEN", b"list"]).await.unwrap(), Value::Integer(500));
                task.sleep(Duration::from_millis(100)).await;
            }
            // Then it is taken after all: more than what was written before.
            let mut taken = 0;
            while taken < 60 << 20 {
                let len = greedy.pop(64 * 1024).await.unwrap().len();
                assert!(len > 0, "closed after {taken} bytes");
                taken += len;
            }
            told_served.set(true);
        });
        let mut most = 0;
        while !served.get() {
            world.run_for(Duration::from_millis(100));
            most = most.max(world.libos(server.core(0)).heap().stats().pinned);
        }
        assert!(asked.get() && most > 16 << 20, "only {most} bytes: this tests nothing");
        assert!(most < 64 << 20, "{most} bytes are pinned for one client");
        world.run();
    });
}

#[test]
fn too_many_clients_are_told_so() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 2, &[("maxclients", "3")]);
        let to = world.endpoint(server, PORT);
        converse(world, "clients", move |task| async move {
            let mut served = Vec::new();
            while served.len() < 3 {
                let mut kv = connected(&task, to).await;
                assert!(kv.call(&[b"PING"]).await.is_ok());
                served.push(kv);
            }
            let rejected = stream(&task, to).await;
            assert_eq!(all_that_comes(&rejected).await, b"-ERR max number of clients reached\r\n");
            served.pop();
            // Its place is free again, soon.
            for _ in 0..1000 {
                let mut kv = connected(&task, to).await;
                if kv.call(&[b"PING"]).await.is_ok_and(|reply| !matches!(reply, Value::Error(_))) {
                    return;
                }
                task.sleep(Duration::from_millis(1)).await;
            }
            panic!("the place of a client that has left stays taken");
        });
        world.run();
    });
}

/// Deleted and expired keys give their memory back, without anybody asking for them.
#[test]
fn memory_comes_back() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_server(world, 2, &[]);
        let to = world.endpoint(server, PORT);
        let pinned = Rc::new(RefCell::new((0, 0)));
        let result = pinned.clone();
        converse(world, "client", move |task| async move {
            let mut kv = connected(&task, to).await;
            let options = SetOptions { expires_after: Some(Duration::from_millis(100)), ..SetOptions::default() };
            for i in 0..200 {
                kv.set(format!("k{i}").as_bytes(), &[1; 10_000], options).await.unwrap();
            }
            for i in 0..20_000 {
                if i % 100 == 0 {
                    let members: Vec<Vec<u8>> = (i..i + 100).map(|i| format!("member {i}").into_bytes()).collect();
                    let mut args: Vec<&[u8]> = vec![b"SADD", b"large"];
                    args.extend(members.iter().map(|member| &member[..]));
                    kv.call(&args).await.unwrap();
                }
            }
            kv.call(&[b"UNLINK", b"large"]).await.unwrap();
            task.sleep(Duration::from_secs(2)).await;
            let Ok(Value::Integer(size)) = kv.call(&[b"DBSIZE"]).await else { panic!() };
            result.replace((size, 1));
        });
        world.run();
        assert_eq!(*pinned.borrow(), (0, 1));
        let left: usize = (0..2).map(|core| world.libos(server.core(core)).heap().stats().pinned).sum();
        assert!(left < 200_000, "{left} bytes are still pinned");
    });
}

#[test]
fn exhausted_memory_is_an_error_and_not_the_end() {
    sweep!(Settings { heap_size: 8 << 20, ..Settings::default() }, |world: &mut World| {
        let server = add_server(world, 2, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let mut kv = connected(&task, to).await;
            let (mut stored, mut refused) = (Vec::new(), 0);
            for i in 0..400 {
                let key = format!("k{i}");
                match kv.set(key.as_bytes(), &vec![i as u8; 100_000], SetOptions::default()).await {
                    Ok(_) => stored.push((key, i as u8)),
                    Err(ClientError::Server(text)) => {
                        assert!(text.starts_with("OOM "), "{text}");
                        refused += 1;
                    }
                    Err(ClientError::Network(_) | ClientError::Closed) => kv = connected(&task, to).await,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(refused > 0, "there is no end to the memory");
            for (key, value) in stored {
                match kv.get(key.as_bytes()).await {
                    Ok(got) => assert!(got.is_some_and(|got| got.iter().all(|&byte| byte == value))),
                    Err(ClientError::Network(_) | ClientError::Closed) => kv = connected(&task, to).await,
                    Err(ClientError::Server(text)) => assert!(text.starts_with("OOM "), "{text}"),
                    Err(error) => panic!("{error}"),
                }
            }
            // For a moment even that may be refused: what was in flight is still being given back.
            let mut tries = 0;
            while matches!(persist(&task, &mut kv, to, &[b"FLUSHALL"]).await, Value::Error(_)) {
                tries += 1;
                assert!(tries < 10, "nothing can be deleted");
                task.sleep(Duration::from_millis(10)).await;
            }
            task.sleep(Duration::from_secs(1)).await;
            assert_eq!(bulk(&persist(&task, &mut kv, to, &[b"SET", b"again", &[1; 100_000]]).await), b"OK");
        });
        world.run();
    });
}

/// Also what there is no memory for is not answered to whom wants no answer.
#[test]
fn exhausted_memory_is_not_told_to_whom_wants_no_replies() {
    sweep!(Settings { heap_size: 8 << 20, ..Settings::default() }, |world: &mut World| {
        let server = add_server(world, 1, &[]);
        let to = world.endpoint(server, PORT);
        converse(world, "client", move |task| async move {
            let heap = task.libos().heap().clone();
            let stream = stream(&task, to).await;
            let part = heap.copy(&[b'x'; 1 << 16]).unwrap();
            for (before, behind) in [("OFF", "CLIENT REPLY ON\r\n"), ("SKIP", "ECHO +OK\r\n")] {
                let text = format!("CLIENT REPLY {before}\r\n*2\r\n$4\r\nECHO\r\n${}\r\n", 112 << 16);
                stream.push(Sga::copy(&heap, text.as_bytes()).unwrap()).await.unwrap();
                for _ in 0..112 {
                    stream.push(Sga::from(part.clone())).await.unwrap();
                }
                let text = format!("\r\n{behind}PING\r\n");
                stream.push(Sga::copy(&heap, text.as_bytes()).unwrap()).await.unwrap();
                let mut got = Vec::new();
                while !got.ends_with(b"+PONG\r\n") {
                    let popped = stream.pop(100).await.unwrap();
                    assert!(!popped.is_empty());
                    got.extend(popped.to_vec());
                }
                let got = String::from_utf8(got).unwrap();
                assert!(["+OK\r\n+PONG\r\n", "$3\r\n+OK\r\n+PONG\r\n"].contains(&&got[..]), "{before}: {got}");
            }
        });
        world.run();
    });
}
