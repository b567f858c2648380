//! Servers and clients in a simulated world.

#![allow(dead_code, reason = "each test program uses a part")]

use std::time::Duration;

use framework::pdpix::{Endpoint, Storage};
use framework::{System, Task};
use kv_client::{Client, Value};
use kv_server::ServerArgs;
use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_sim::{AttachedDisks, HostId, World};

pub const PORT: u16 = 6379;

pub fn add_server(world: &mut World, cores: usize, options: &[(&str, &str)]) -> HostId {
    let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
    options.iter().for_each(|(name, value)| args.config.set_at_start(name, value).unwrap());
    world.add_host("server", cores, move |libos| _ = kv_server::run(&System::new(libos), args.clone()))
}

/// Runs a conversation on a host of its own, to its end.
pub fn converse<F: Future<Output = ()> + 'static>(
    world: &mut World,
    name: &str,
    body: impl FnOnce(Task) -> F + 'static,
) {
    let client = world.add_host(name, 1, |_| {});
    world.spawn(client.core(0), name, move |libos| {
        let done = System::new(&libos).task(body);
        async move { done.await.unwrap() }
    });
}

/// Connects, as often as it takes.
pub async fn connected(task: &Task, to: Endpoint) -> Client {
    loop {
        match Client::connect(task, to, None).await {
            Ok(client) => return client,
            Err(_) => task.sleep(Duration::from_millis(1)).await,
        }
    }
}

/// For the tests in which connections are lost: a call that starts again with a new one, and may so be done twice.
pub async fn persist(task: &Task, kv: &mut Client, to: Endpoint, args: &[&[u8]]) -> Value {
    loop {
        match task.timeout(Duration::from_secs(2), kv.call(args)).await {
            Ok(Ok(value)) => return value,
            _ => *kv = connected(task, to).await,
        }
    }
}

pub fn bulk(value: &Value) -> &[u8] {
    value.as_bytes().unwrap_or_else(|| panic!("{value:?} is no string"))
}

/// Keys that lie on all shards.
pub const KEYS: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];

pub async fn stream(task: &Task, to: Endpoint) -> framework::Stream {
    loop {
        match task.connect(to, None).await {
            Ok(stream) => return stream,
            Err(_) => task.sleep(Duration::from_millis(1)).await,
        }
    }
}

/// All that comes, up to the end of the stream.
pub async fn all_that_comes(stream: &framework::Stream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(popped) = stream.pop(10_000).await {
        if popped.is_empty() {
            break;
        }
        all.extend(popped.to_vec());
    }
    all
}

/// What a core's logs are on: a journal on its disk, formatted if there is none.
pub fn journal(attached: AttachedDisks) -> Vec<(String, Box<dyn Storage>)> {
    let device = attached.disks[attached.core.index].device();
    let settings = StoreSettings { format: Some(Format::new(u128::from(attached.seed))), ..StoreSettings::default() };
    let store = Store::new(Box::new(device), attached.heap, settings);
    vec![("disk".to_owned(), Box::new(store))]
}
