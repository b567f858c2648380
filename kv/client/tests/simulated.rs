//! The client against the cache, over streams that are cut, stall and come late.

use std::time::Duration;

use framework::pdpix::{Endpoint, Error};
use framework::{System, Task};
use kv_client::{Client, ClientError, SetOptions, Value};
use kv_server::ServerArgs;
use libos_sim::{HostId, Settings, World, sweep};

const PORT: u16 = 6379;

fn add_server(world: &mut World, cores: usize) -> HostId {
    let listen: Endpoint = "0.0.0.0:6379".parse().unwrap();
    let args = ServerArgs::new(listen);
    world.add_host("server", cores, move |libos| _ = kv_server::run(&System::new(libos), args.clone()))
}

/// Runs a conversation on a host of its own, to its end.
fn converse<F: Future<Output = ()> + 'static>(world: &mut World, body: impl FnOnce(Task) -> F + 'static) {
    let client = world.add_host("client", 1, |_| {});
    world.spawn(client.core(0), "client", move |libos| {
        let system = System::new(&libos);
        let done = system.task(body);
        async move { done.await.unwrap() }
    });
}

async fn connected(task: &Task, to: Endpoint) -> Client {
    loop {
        // The server may not listen yet.
        match Client::connect(task, to, None).await {
            Ok(client) => return client,
            Err(_) => task.sleep(Duration::from_millis(1)).await,
        }
    }
}

#[test]
fn typed_commands_and_pipelines() {
    sweep!(Settings::default(), |world| {
        let server = add_server(world, 2);
        let to = world.endpoint(server, PORT);
        converse(world, move |task| async move {
            let mut kv = connected(&task, to).await;
            assert_eq!(kv.get(b"nothing").await, Ok(None));
            let long = vec![7; 100_000];
            assert_eq!(kv.set(b"long", &long, SetOptions::default()).await, Ok(true));
            assert_eq!(kv.get(b"long").await.unwrap().unwrap().to_vec(), long);
            let only_new = SetOptions { only_new: true, ..SetOptions::default() };
            assert_eq!(kv.set(b"long", b"short", only_new).await, Ok(false));
            kv.mset(&[(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")]).await.unwrap();
            let values = kv.mget(&[b"a", b"x", b"d"]).await.unwrap();
            assert_eq!(values.iter().map(|v| v.as_deref()).collect::<Vec<_>>(), [Some(&b"1"[..]), None, Some(b"4")]);
            assert_eq!(kv.incr_by(b"a", 41).await, Ok(42));
            let error = kv.incr_by(b"long", 1).await.unwrap_err();
            assert_eq!(error, ClientError::Server("ERR value is not an integer or out of range".into()));
            assert_eq!(kv.exists(&[b"a", b"b", b"x"]).await, Ok(2));
            assert_eq!(kv.expire(b"a", Duration::from_millis(5)).await, Ok(true));
            task.sleep(Duration::from_millis(7)).await;
            assert_eq!(kv.get(b"a").await, Ok(None));
            let requests: Vec<[Vec<u8>; 2]> = (0..300).map(|i| [b"INCR".to_vec(), vec![b'k', (i % 7) as u8]]).collect();
            let requests: Vec<Vec<&[u8]>> = requests.iter().map(|args| args.iter().map(|a| &a[..]).collect()).collect();
            let requests: Vec<&[&[u8]]> = requests.iter().map(|args| &args[..]).collect();
            let replies = kv.pipeline(&requests).await.unwrap();
            for (i, reply) in replies.into_iter().enumerate() {
                assert_eq!(reply, Value::Integer(i as i64 / 7 + 1), "reply {i}");
            }
            assert_eq!(kv.del(&[b"b", b"c", b"x"]).await, Ok(2));
            assert!(matches!(kv.hello3().await, Ok(Value::Map(_))));
            assert_eq!(kv.call(&[b"GET", b"x"]).await, Ok(Value::Null));
        });
        world.run();
    });
}

#[test]
fn a_call_that_was_given_up_does_not_shift_replies() {
    sweep!(Settings::default(), |world| {
        let server = add_server(world, 1);
        let to = world.endpoint(server, PORT);
        converse(world, move |task| async move {
            let mut kv = connected(&task, to).await;
            let mut given_up = 0;
            for i in 0..200u64 {
                let key = format!("key {}", i % 5);
                let value = format!("value {i}");
                kv.set(key.as_bytes(), value.as_bytes(), SetOptions::default()).await.unwrap();
                // Less than a round trip, mostly.
                let patience = Duration::from_micros(task.below(500));
                match task.timeout(patience, kv.call(&[b"INCR", b"count"])).await {
                    Err(_) => given_up += 1,
                    Ok(reply) => assert!(matches!(reply, Ok(Value::Integer(_)))),
                }
                match kv.get(key.as_bytes()).await {
                    Ok(got) => assert_eq!(got.unwrap().to_vec(), value.as_bytes()),
                    Err(ClientError::Broken) => {
                        // It was given up while it was sending.
                        kv = connected(&task, to).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(given_up > 0, "the test is to give up some");
        });
        world.run();
    });
}

#[test]
fn a_server_that_dies_ends_the_call() {
    sweep!(Settings::default(), |world| {
        let server = add_server(world, 1);
        let to = world.endpoint(server, PORT);
        converse(world, move |task| async move {
            let mut kv = connected(&task, to).await;
            loop {
                // A server that dies with everything acknowledged is noticed by keep-alives, or by those who wait no longer.
                match task.timeout(Duration::from_secs(1), kv.call(&[b"PING"])).await {
                    Ok(Ok(_)) => task.sleep(Duration::from_millis(1)).await,
                    Ok(Err(ClientError::Network(_) | ClientError::Closed)) | Err(Error::TimedOut) => break,
                    other => panic!("{other:?}"),
                }
            }
            // It forgets everything, and serves again.
            let mut kv = connected(&task, to).await;
            assert_eq!(kv.call(&[b"DBSIZE"]).await, Ok(Value::Integer(0)));
        });
        world.run_for(Duration::from_millis(30));
        world.crash(server);
        world.run_for(Duration::from_millis(5));
        world.restart(server);
        world.run();
    });
}
